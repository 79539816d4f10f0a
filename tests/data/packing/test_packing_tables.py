import csv
import io
import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pictures
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_diffusion.data.packing.columns import COMMON_NAMES, Columns
from ray_diffusion.data.packing.source import Source
from ray_diffusion.data.packing.tables import FORMATS, table
from ray_diffusion.errors import DataError, StorageError, UsageError
from ray_diffusion.storage import Directory

Rows = list[dict[str, Any]]


def delimited(rows: Rows, delimiter: str) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def parquet(rows: Rows) -> bytes:
    import pyarrow
    from pyarrow.parquet import write_table

    file = io.BytesIO()
    write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


WRITERS: dict[str, Callable[[Rows], bytes]] = {
    "csv": partial(delimited, delimiter=","),
    "tsv": partial(delimited, delimiter="\t"),
    "jsonl": lambda rows: "\n".join(json.dumps(row) for row in rows).encode(),
    "parquet": parquet,
}


def opened(
    url: str, rows: Rows, columns: Columns = COMMON_NAMES, extension: str = "jsonl"
) -> Source:
    """The source of a table with such rows."""
    Directory(url).write(f"table.{extension}", WRITERS[extension](rows))
    return table(f"{url}/table.{extension}", columns)


def problem(url: str, content: bytes, extension: str = "csv") -> str:
    """What is wrong with a table, without its name."""
    Directory(url).write(f"table.{extension}", content)
    location = f"{url}/table.{extension}"
    with pytest.raises(DataError) as error:
        table(location, COMMON_NAMES)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(location)
    return message.replace(location, "table")


@pytest.mark.parametrize("extension", FORMATS)
def test_all_formats_say_the_same(url: str, extension: str):
    pictures.write(url, ["a/1.png", "a/2.png", "b/3.png"])
    source = opened(
        url,
        [
            {"path": "a/1.png", "label": "cat", "text": 'a "cat",\tsitting', "id": 7, "group": "x"},
            {"path": "a/2.png", "label": "dog", "text": "ein müder\nHund", "id": 8, "group": "y"},
            {"path": "b/3.png", "label": "cat", "text": "", "id": 9, "group": "x"},
        ],
        extension=extension,
    )
    assert source.classes == ("cat", "dog")
    assert [(r.key, r.label, r.caption, r.group) for r in source.records] == [
        ("7", 0, 'a "cat",\tsitting', "x"),
        ("8", 1, "ein müder\nHund", "y"),
        ("9", 0, None, "x"),
    ]
    assert [source.load(r) for r in source.records] == [pictures.png(i) for i in range(3)]


@pytest.mark.parametrize("name", ["image", "path", "file", "file_name", "filename", "url", "Image"])
def test_the_column_of_images_has_many_names(url: str, name: str):
    assert [r.at for r in opened(url, [{"n": 1, name: "1.png"}]).records] == ["1.png"]


@pytest.mark.parametrize("name", ["label", "class", "class_name", "Class"])
def test_so_has_that_of_labels(url: str, name: str):
    assert opened(url, [{"path": "1.png", name: "cat"}]).classes == ("cat",)


def test_a_column_asked_for_wins_over_the_common_names(url: str):
    row = {"path": "no.png", "label": "no", "text": "no", "id": "no", "split": "val", "group": "no"}
    asked = {"A": "yes.png", "B": "yes", "C": "yes", "D": "yes", "E": "train", "F": "yes"}
    source = opened(
        url, [row | asked, row | asked | {"D": "other", "E": "val"}], Columns(*"ABCDEF")
    )
    assert source.classes == ("yes",)
    record = source.records[0]
    assert record[:1] + record[3:6] == ("yes", "yes", "yes", "train")
    assert record.at == "yes.png"


@pytest.fixture
def rows() -> Rows:
    return [{"path": "1.png", "category": "cat"}]


def test_a_column_that_is_not_there_is_named_with_those_that_are(url: str, rows: Rows):
    with pytest.raises(UsageError) as error:
        opened(url, rows, Columns(label="categry"))
    assert str(error.value) == (
        f"label_column: {url}/table.jsonl has no column 'categry'; it has path, category; "
        "did you mean 'category'?"
    )


def test_a_table_without_a_column_of_images_says_how_to_name_it(url: str):
    with pytest.raises(UsageError) as error:
        opened(url, [{"picture": "1.png"}])
    assert str(error.value) == (
        f"{url}/table.jsonl has no column image, path, file, file_name, filename, url: "
        "it has picture; say which one with image_column="
    )


@pytest.mark.parametrize("extension", ["csv", "jsonl"])
def test_an_empty_table_has_no_columns(url: str, extension: str):
    Directory(url).write(f"table.{extension}", b"")
    with pytest.raises(UsageError, match="it is empty"):
        table(f"{url}/table.{extension}", COMMON_NAMES)


def test_a_table_without_rows_holds_no_images(url: str):
    assert problem(url, b"path,label\n") == "table holds no images"


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["b", "a", "b"], ("a", "b")),
        ([10, 9, 10], ("9", "10")),
        (["10", "9", "10"], ("9", "10")),
        ([1.0, 0.0, 1.0], ("0", "1")),
        ([2.5, 1.0, 2.5], ("1", "2.5")),
        ([True, False, True], ("False", "True")),
    ],
)
def test_classes_are_the_values_found(url: str, labels: list[Any], classes: tuple[str, ...]):
    source = opened(url, [{"path": f"{i}.png", "label": v} for i, v in enumerate(labels)])
    assert source.classes == classes
    assert [r.label for r in source.records] == [1, 0, 1]


@pytest.mark.parametrize(
    ("extension", "content", "row"),
    [
        ("csv", b"path,label\n1.png,cat\n\n2.png,\n", 4),
        ("csv", b"path,label\n1.png,cat\n2.png\n", 3),
        ("csv", b'path,text,label\n1.png,"a\nb",cat\n2.png,"c\nd",\n', 5),
        ("jsonl", b'{"path": "1.png", "label": "cat"}\n{"path": "2.png"}', 2),
        ("jsonl", b'{"path": "1.png"}\n\n{"path": "2.png", "label": "cat"}', 1),
        ("jsonl", b'{"path": "1.png", "label": NaN}\n{"path": "2.png", "label": 1.0}', 1),
        ("parquet", parquet([{"path": "1.png", "label": 3}, {"path": "2.png", "label": None}]), 2),
    ],
)
def test_a_row_without_a_label_among_others_is_named(
    url: str, extension: str, content: bytes, row: int
):
    assert f"table:{row} has no class, but table:" in problem(url, content, extension)


def test_a_row_without_an_image_is_named(url: str):
    assert problem(url, b"path,label\n1.png,a\n ,b\n") == (
        "table:3 names no image: column 'path' is empty"
    )


def test_a_cell_that_is_no_text_is_named(url: str):
    assert problem(url, b'{"path": {"bytes": ""}}', "jsonl") == (
        "table:1: column 'path' holds a dict, not a text or number, but no path"
    )
    assert problem(url, b'{"path": "1.png", "caption": ["a", "b"]}', "jsonl") == (
        "table:1: column 'caption' holds a list, not a text or number"
    )


def test_one_path_in_two_rows_is_named_with_both(url: str):
    assert problem(url, b"path\n1.png\n2.png\n./1.png\n") == (
        "table:2 and table:4 have the same key '1'; rename one"
    )


def test_one_key_in_two_rows_is_named_with_both(url: str):
    assert problem(url, b"path,key\n1.png,a\n2.png,b\n3.png,a\n") == (
        "table:2 and table:4 have the same key 'a'; rename one"
    )


@pytest.mark.parametrize("key", ["1.png", "a.b", "a/b"])
def test_a_key_with_a_dot_or_slash_is_named_with_the_reason(url: str, key: str):
    assert problem(url, f"path,key\n1.png,ok\n2.png,{key}\n".encode()) == (
        f"table:3 has key '{key}': keys have no dots or slashes, because webdataset cuts names "
        "at the first dot"
    )


def test_a_row_without_a_key_among_others_is_named(url: str):
    assert problem(url, b"path,key\n1.png,ok\n2.png,\n") == "table:3 has no key"


def test_splits_have_the_names_of_folders(url: str):
    names = ["train", "VAL", "valid", "validation", "test", None]
    rows = [{"path": f"{i}.png", "split": name} for i, name in enumerate(names)]
    assert [r.split for r in opened(url, rows).records] == [
        *("train", "val", "val", "val", "test"),
        None,
    ]


def test_an_unknown_split_is_named(url: str):
    assert problem(url, b"path,split\n1.png,training\n") == (
        "table:2 has split 'training', which is none of train, val, valid, validation, test"
    )


@pytest.mark.parametrize(
    ("extension", "content", "expected"),
    [
        ("jsonl", b'{"path": "1.png"}\n{"path": \n', "table:2 is not JSON: "),
        ("jsonl", b'{"path": "1.png"}\n["2.png"]\n', "table:2 is not a JSON object"),
        ("jsonl", b'{"path": "\xff.png"}', "table:1 is not JSON: "),
        ("csv", b"path\n1.png\n\xff.png\n", "table:3 is not UTF-8: "),
        ("csv", b"path\n1.png,2.png\n", "table:2 has more cells than columns"),
        ("csv", b'path,text\n1.png,"never closed\n2.png,b\n', "table:2: unexpected end of data"),
        ("csv", b'path\n"1.png"x\n', "table:2: "),
        ("parquet", b"PAR1", "table is not Parquet: "),
        ("parquet", parquet([{"path": "1.png"}])[:-5], "table is not Parquet: "),
    ],
)
def test_what_cannot_be_parsed_is_named_with_its_line(
    url: str, extension: str, content: bytes, expected: str
):
    assert problem(url, content, extension).startswith(expected)


def test_a_damaged_page_of_parquet_is_one_line(url: str):
    content = bytearray(parquet([{"path": f"{i}.png"} for i in range(100)]))
    content[4:40] = bytes(36)
    assert problem(url, bytes(content), "parquet").startswith("table is damaged behind row 0: ")


@pytest.mark.parametrize("extension", ["csv", "tsv", "jsonl"])
def test_a_byte_order_mark_and_crlf_change_nothing(url: str, extension: str):
    rows = [{"path": "1.png", "label": "a"}, {"path": "2.png", "label": "b"}]
    plain = opened(url, rows, extension=extension)
    content = WRITERS[extension](rows).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    Directory(url).write(f"table.{extension}", b"\xef\xbb\xbf" + content)
    marked = table(f"{url}/table.{extension}", COMMON_NAMES)
    assert (marked.records, marked.classes) == (plain.records, plain.classes)


def test_a_column_may_begin_in_a_later_line_of_json(url: str):
    rows = [{"path": "1.png"}, {"path": "2.png", "caption": "second"}]
    assert [r.caption for r in opened(url, rows).records] == [None, "second"]


def test_parquet_reads_only_the_columns_it_needs(url: str):
    rows = [{"path": f"{i}.png", "embedding": [i / n for n in range(1, 99)]} for i in range(9)]
    content = bytearray(parquet(rows))
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)  # damaged, where the embeddings are
    Directory(url).write("table.parquet", bytes(content))
    assert len(table(f"{url}/table.parquet", COMMON_NAMES).records) == 9
    with pytest.raises(DataError, match="is damaged behind row 0"):
        table(f"{url}/table.parquet", Columns(label="embedding"))


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1)))
def test_any_text_survives_csv(texts: list[str]):
    rows = [{"path": f"{i}.png", "text": text} for i, text in enumerate(texts)]
    content = delimited([*rows, {"path": "last.png", "text": ""}], ",")
    read = dict(FORMATS["csv"](content, "table").rows([]))
    assert [row["text"] for row in read.values()] == [*texts, ""]


def test_a_table_that_is_not_there_is_one_line(url: str):
    with pytest.raises(DataError) as error:
        table(f"{url}/table.csv", COMMON_NAMES)
    assert str(error.value) == f"{url}/table.csv does not exist"


def test_an_image_that_is_not_there_is_named_when_it_is_loaded(url: str):
    source = opened(url, [{"path": "gone/1.png"}])
    with pytest.raises(StorageError, match=rf"cannot read {url}/gone/1.png: no such file"):
        source.load(source.records[0])


def test_absolute_paths_and_urls_stay_as_they_are(tmp_path: Path, remote: str):
    pictures.write(str(tmp_path / "images"), ["1.png"])
    pictures.write(remote, ["zero.png", "2.png"])
    paths = [f"{tmp_path}/images/1.png", f"{remote}/2.png", "../images/1.png"]
    (tmp_path / "tables").mkdir()
    source = opened(
        str(tmp_path / "tables"), [{"path": path, "id": i} for i, path in enumerate(paths)]
    )
    assert [source.load(r) for r in source.records] == [pictures.png(i) for i in (0, 1, 0)]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server on this machine, of the directory ``web``."""
    (tmp_path / "web").mkdir()
    handler = partial(Quiet, directory=str(tmp_path / "web"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_images_come_from_the_web(tmp_path: Path, web: str):
    pictures.write(str(tmp_path / "web"), ["1.png"])
    source = opened(str(tmp_path), [{"url": f"{web}/1.png?size=4"}, {"url": f"{web}/2.png"}])
    assert source.load(source.records[0]) == pictures.png(0)
    with pytest.raises(StorageError, match=rf"cannot read {web}/2.png"):
        source.load(source.records[1])


def test_tables_come_from_the_web_with_their_images(tmp_path: Path, web: str):
    pictures.write(str(tmp_path / "web"), ["1.png"])
    (tmp_path / "web" / "table.csv").write_text("path\n1.png\n")
    source = table(f"{web}/table.csv", COMMON_NAMES)
    assert [source.load(r) for r in source.records] == [pictures.png(0)]
