import gzip
import io
import pickle
import tarfile
from pathlib import Path

import pictures
import pytest
import tiny_dataset

from ray_diffusion.data.packing.folders import folder
from ray_diffusion.data.packing.source import Source
from ray_diffusion.data.packing.tars import shards
from ray_diffusion.errors import DataError, StorageError, UsageError
from ray_diffusion.storage import MANIFEST, Directory


def tar(files: dict[str, bytes]) -> bytes:
    """A tar file with such members, in their order."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", bufsize=512) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


def labelled(*labels: int, first: int = 0) -> bytes:
    """A tar file of numbered images with such labels."""
    files = {}
    for number, label in enumerate(labels, first):
        files[f"{number:03d}.png"] = pictures.png(number)
        files[f"{number:03d}.cls"] = str(label).encode()
    return tar(files)


def loaded(source: Source) -> list[bytes]:
    load = pickle.loads(pickle.dumps(source.load))
    return [load(record) for record in source.records]


def problem(location: str) -> str:
    with pytest.raises(DataError) as error:
        shards(location)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_example_has_an_image_a_class_and_a_caption(url: str):
    files = {
        "a.jpg": pictures.png(0),
        "a.cls": b"2\n",
        "a.txt": "ein müder Hund\n".encode(),
        "a.json": b"{}",
        "b.cls": b"0",
        "b.JPG": pictures.png(1),
        "b.txt": b" ",
    }
    Directory(url).write("one.tar", tar(files))
    source = shards(f"{url}/one.tar")
    assert source.name == f"{url}/one.tar"
    assert source.classes == ("0", "1", "2")
    assert [(r.key, r.label, r.caption) for r in source.records] == [
        ("a", 2, "ein müder Hund"),
        ("b", 0, None),
    ]
    assert loaded(source) == [pictures.png(0), pictures.png(1)]


def test_without_labels_there_are_no_classes(url: str):
    Directory(url).write("one.tar", tar({"a.png": pictures.png(0)}))
    assert shards(f"{url}/one.tar").classes == ()


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("part-{0..2}.tar", [0, 1, 2]),
        ("part-{2,0}.tar", [2, 0]),
        ("part-1.tar", [1]),
        ("*.tar", [0, 1, 2]),
        ("part-?.tar", [0, 1, 2]),
        ("pa*-{1..2}.tar", [1, 2]),
        ("part-{1,1}.tar", [1]),
    ],
)
def test_braces_and_wildcards_name_many_shards(url: str, pattern: str, expected: list[int]):
    for number in range(3):
        Directory(url).write(f"part-{number}.tar", labelled(0, first=number))
    Directory(url).write("below/part-3.tar", labelled(0, first=3))
    assert loaded(shards(f"{url}/{pattern}")) == [pictures.png(n) for n in expected]


def test_wildcards_may_stand_for_folders(url: str):
    for number in range(2):
        Directory(url).write(f"{number}/x/part.tar", labelled(0, first=number))
    assert len(shards(f"{url}/*/x/*.tar").records) == 2


def test_a_folder_of_shards_is_a_source(url: str):
    for number in range(2):
        Directory(url).write(f"{number}.tar", labelled(number, first=number))
    source = folder(url)
    assert source.classes == ("0", "1")
    assert loaded(source) == [pictures.png(0), pictures.png(1)]


def test_a_dataset_keeps_its_splits_and_the_names_of_its_classes(url: str):
    val = [[tiny_dataset.example(9)]]
    renamed = [{"png": files["png"], "cls": files["cls"]} for files in val[0]]
    tiny_dataset.write(url, tiny_dataset.numbered([2]))
    Directory(url).write("val-0.tar", tiny_dataset.tar(renamed, "other"))
    Directory(url).write("unlisted.tar", b"left by an interrupted packer")
    source = folder(url)
    assert source.classes == tiny_dataset.CLASSES
    assert [(r.key, r.split, r.label) for r in source.records] == [
        ("example-0", "train", 1),
        ("example-1", "train", 2),
        ("other-0", "val", 0),
    ]


def test_a_dataset_with_a_damaged_manifest_is_not_read_as_something_else(url: str):
    tiny_dataset.write(url, tiny_dataset.numbered([2]))
    Directory(url).write(MANIFEST, "{")
    with pytest.raises(DataError, match=r"manifest.json is damaged"):
        folder(url)


def test_a_label_beyond_the_manifest_is_named(url: str):
    tiny_dataset.write(url, [[{"png": pictures.png(0), "cls": b"3"}]])
    with pytest.raises(DataError) as error:
        folder(url)
    assert str(error.value) == (
        f"{url}/train-0.tar: example 'example-0' has label 3, the manifest says 0 to 2"
    )


def test_shards_named_by_split_are_divided(url: str):
    for number, split in enumerate(["train", "valid", "test"]):
        Directory(url).write(f"{split}-000.tar", labelled(0, first=number))
    assert [r.split for r in shards(f"{url}/*.tar").records] == ["test", "train", "val"]
    Directory(url).write("more.tar", labelled(0, first=9))
    assert {r.split for r in shards(f"{url}/*.tar").records} == {None}


def test_keys_lose_folders_and_dots_like_those_of_files(url: str):
    Directory(url).write("one.tar", tar({"./v1.0/a b.png": pictures.png(0)}))
    assert [r.key for r in shards(f"{url}/one.tar").records] == ["v1_0-a_b"]


def test_one_key_in_two_shards_is_named_with_both(url: str):
    for number in range(2):
        Directory(url).write(f"{number}.tar", labelled(0))
    assert problem(f"{url}/*.tar") == (
        f"{url}/0.tar: example '000' and {url}/1.tar: example '000' have the same key '000'; "
        "rename one"
    )


def test_an_example_without_an_image_is_named(url: str):
    Directory(url).write("one.tar", tar({"a.png": pictures.png(0), "b.cls": b"0"}))
    assert problem(f"{url}/one.tar") == (
        f"{url}/one.tar: example 'b' has no image (png, jpg, jpeg, webp, gif, bmp, tif, tiff, ppm)"
    )


def test_an_example_without_a_label_among_others_is_named(url: str):
    files = {"a.png": pictures.png(0), "b.cls": b"4", "b.png": pictures.png(1)}
    Directory(url).write("one.tar", tar(files))
    assert problem(f"{url}/one.tar").startswith(f"{url}/one.tar: example 'a' has no class, but ")


@pytest.mark.parametrize("label", [b"cat", b"-1", b"1.5", b"", b"9999999", b"\xff"])
def test_a_label_that_is_no_class_number_is_named(url: str, label: bytes):
    Directory(url).write("one.tar", tar({"a.png": pictures.png(0), "a.cls": label}))
    assert problem(f"{url}/one.tar") == (
        f"{url}/one.tar: example 'a' has label {label!r} (cls), which is no class number"
    )


@pytest.mark.parametrize("name", ["one.tar", "one.tar.gz", "one.tgz"])
def test_a_compressed_shard_says_so(url: str, name: str):
    Directory(url).write(name, gzip.compress(labelled(0)))
    assert problem(f"{url}/{name}") == (
        f"{url}/{name} is compressed; shards are plain tar files: unpack it with gunzip"
    )


@pytest.mark.parametrize(
    "content", [b"", b"no tar", bytes(100), b"x" * 2048], ids=["empty", "text", "zeros", "long"]
)
def test_what_is_no_tar_file_says_so(url: str, content: bytes):
    Directory(url).write("one.tar", content)
    assert problem(f"{url}/one.tar").startswith(f"{url}/one.tar is ")


def test_a_shard_cut_off_anywhere_is_refused(tmp_path: Path):
    whole = labelled(0, 1, 0)
    end = len(whole.rstrip(b"\0")) // 512 * 512 + 512  # behind the last file
    for size in range(1, end + 1, 64):
        (tmp_path / "one.tar").write_bytes(whole[:size])
        assert problem(f"{tmp_path}/one.tar").startswith(f"{tmp_path}/one.tar is ")


@pytest.mark.parametrize("at", [0, 124, 156, 257], ids=["name", "size", "type", "magic"])
def test_a_shard_with_a_damaged_header_is_refused(tmp_path: Path, at: int):
    content = bytearray(labelled(0, 1, 0))
    content[content.index(b"001.png") + at] ^= 0xFF
    (tmp_path / "one.tar").write_bytes(content)
    assert problem(f"{tmp_path}/one.tar").startswith(f"{tmp_path}/one.tar is ")


def test_a_shard_without_examples_holds_no_images(url: str):
    Directory(url).write("one.tar", tar({}))
    assert problem(f"{url}/one.tar") == f"{url}/one.tar holds no images"


def test_a_missing_shard_is_named(url: str):
    Directory(url).write("0.tar", labelled(0))
    assert problem(f"{url}/{{0..1}}.tar") == f"{url}/1.tar is missing"


def test_wildcards_that_match_nothing_are_one_line(url: str):
    assert problem(f"{url}/*.tar") == f"no file matches {url}/*.tar"


def test_unbalanced_braces_are_one_line(tmp_path: Path):
    with pytest.raises(UsageError, match=r"\{0\.\.1\.tar: ") as error:
        shards(f"{tmp_path}/{{0..1.tar")
    assert "\n" not in str(error.value)


def test_a_shard_that_shrank_or_went_away_is_named_when_it_is_loaded(url: str):
    Directory(url).write("one.tar", labelled(0, 1))
    source = shards(f"{url}/one.tar")
    Directory(url).write("one.tar", labelled(0)[:600])
    with pytest.raises(StorageError, match=r"cannot read .*one.tar: it is shorter than it was"):
        source.load(source.records[1])
    Directory(url).remove("one.tar")
    with pytest.raises(StorageError, match=r"cannot read .*one.tar"):
        source.load(source.records[1])


def test_a_changed_shard_has_another_stamp(url: str):
    Directory(url).write("one.tar", labelled(0, 1))
    before = shards(f"{url}/one.tar").records
    assert shards(f"{url}/one.tar").records == before
    Directory(url).write("one.tar", labelled(0, 0))
    after = shards(f"{url}/one.tar").records
    assert after[0].stamp != before[0].stamp
