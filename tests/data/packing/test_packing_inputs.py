from pathlib import Path

import pictures
import pytest
import tiny_dataset
from hypothesis import given
from hypothesis import strategies as st

from ray_diffusion.data.packing.columns import Columns
from ray_diffusion.data.packing.inputs import open_source
from ray_diffusion.errors import DataError, StorageError, UsageError
from ray_diffusion.storage import Directory


def keys(location: str, num_examples: int | None = None) -> list[str]:
    return [record.key for record in open_source(location, num_examples=num_examples).records]


def test_a_location_says_what_it_is(url: str):
    pictures.write(f"{url}/images", ["a/1.png"])
    Directory(url).write("table.CSV", "path\nimages/a/1.png\n")
    Directory(url).write("shard.tar", tiny_dataset.tar([tiny_dataset.example(1)]))
    assert keys(f"{url}/images") == ["a-1"]
    assert keys(f"{url}/table.CSV") == ["images-a-1"]
    assert keys(f"{url}/shard.tar") == ["example-0"]
    assert keys("builtin:digits")[0] == "digits-0000"


@pytest.mark.parametrize("name", ["shard.tar.gz", "shard.tgz"])
def test_a_compressed_shard_is_not_taken_for_a_folder(url: str, name: str):
    Directory(url).write(name, b"\x1f\x8b")
    with pytest.raises(DataError, match="is compressed"):
        open_source(f"{url}/{name}")


def test_what_begins_with_hf_is_a_hugging_face_dataset(tmp_path: Path):
    with pytest.raises(StorageError, match=f"cannot read hf:{tmp_path}/none"):
        open_source(f"hf:{tmp_path}/none")


@pytest.mark.parametrize("location", ["builtin:digits", "images", "shards/{0..9}.tar"])
def test_columns_of_what_has_none_are_refused(location: str):
    with pytest.raises(UsageError) as error:
        open_source(location, Columns(label="breed"))
    assert str(error.value) == (
        f"label_column: {location} has no columns; only tables (csv, tsv, jsonl, parquet) and "
        "hf: datasets have"
    )


def test_a_mistyped_builtin_is_one_line():
    with pytest.raises(UsageError, match="did you mean 'builtin:digits'"):
        open_source("builtin:digit")


def test_a_builtin_source_makes_so_many():
    assert len(keys("builtin:digits", 10)) == 10


@given(st.sets(st.integers(0, 10**6), min_size=2, max_size=40), st.data())
def test_fewer_examples_are_a_part_of_more(numbers: set[int], data: st.DataObject):
    table = "".join(f"{number}.png\n" for number in sorted(numbers))
    Directory("memory://data-tests").write("table.csv", f"path\n{table}")
    few, more = sorted(data.draw(st.tuples(*[st.integers(1, len(numbers))] * 2)))
    whole, larger, smaller = (keys("memory://data-tests/table.csv", n) for n in (None, more, few))
    Directory("memory://data-tests").remove("table.csv")
    assert len(smaller) == few
    assert len(larger) == more
    assert set(smaller) <= set(larger)
    assert larger == [key for key in whole if key in set(larger)]  # in the source's order


def test_fewer_examples_keep_all_classes_and_are_spread_over_them(tmp_path: Path):
    pictures.write(str(tmp_path), [f"{c}/{i}.png" for c in "abcd" for i in range(50)])
    source = open_source(str(tmp_path), num_examples=100)
    assert source.classes == ("a", "b", "c", "d")
    counts = [sum(r.label == label for r in source.records) for label in range(4)]
    assert min(counts) >= 15


def test_more_examples_than_there_are_is_refused(tmp_path: Path):
    pictures.write(str(tmp_path), ["1.png", "2.png"])
    assert len(keys(str(tmp_path), 2)) == 2
    with pytest.raises(UsageError) as error:
        open_source(str(tmp_path), num_examples=3)
    assert str(error.value) == f"num_examples: {tmp_path} has 2 images, not 3"
