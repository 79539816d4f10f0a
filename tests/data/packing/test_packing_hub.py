import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pictures
import pytest

from ray_diffusion.data.packing.columns import COMMON_NAMES, Columns
from ray_diffusion.data.packing.hub import hub
from ray_diffusion.errors import DataError, StorageError, UsageError

CLASSES = datasets.ClassLabel(names=["cat", "dog", "owl"])


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test asks the network."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.enable_progress_bars()
    yield
    datasets.enable_progress_bars()


def images(**columns: Any) -> datasets.Dataset:
    """A dataset of images 0, 1 ... with such columns."""
    count = len(next(iter(columns.values())))
    content = [{"bytes": pictures.png(i), "path": None} for i in range(count)]
    features = datasets.Features(
        {"picture": datasets.Image()}
        | {
            name: CLASSES
            if name == "animal"
            else datasets.Value("string" if isinstance(values[0], str) else "int64")
            for name, values in columns.items()
        }
    )
    return datasets.Dataset.from_dict({"picture": content} | columns, features=features)


def saved(data: datasets.Dataset | datasets.DatasetDict, path: Path) -> str:
    data.save_to_disk(str(path), num_proc=None)
    return f"hf:{path}"


def test_features_say_what_images_and_classes_are(tmp_path: Path):
    source = hub(saved(images(animal=[2, 0, 2]), tmp_path / "saved"), COMMON_NAMES)
    assert source.classes == ("cat", "dog", "owl")
    assert [(r.key, r.label, r.split) for r in source.records] == [
        ("image-00000000", 2, None),
        ("image-00000001", 0, None),
        ("image-00000002", 2, None),
    ]
    load = pickle.loads(pickle.dumps(source.load))
    assert [load(r) for r in source.records] == [pictures.png(i) for i in range(3)]


def test_splits_are_those_of_the_dataset(tmp_path: Path):
    data = datasets.DatasetDict(
        {split: images(animal=[1]) for split in ("train", "validation", "test", "extra")}
    )
    source = hub(saved(data, tmp_path / "saved"), COMMON_NAMES)
    assert [(r.key, r.split) for r in source.records] == [
        ("train-00000000", "train"),
        ("validation-00000000", "val"),
        ("test-00000000", "test"),
        ("extra-00000000", None),
    ]


def test_images_come_in_the_order_of_a_shuffled_dataset(tmp_path: Path):
    data = images(animal=[0, 1, 2, 0]).select([2, 0])
    source = hub(saved(data, tmp_path / "saved"), COMMON_NAMES)
    assert [r.label for r in source.records] == [2, 0]
    assert [source.load(r) for r in source.records] == [pictures.png(2), pictures.png(0)]


def test_columns_without_features_are_found_by_name(tmp_path: Path):
    data = images(label=["b", "a"], text=["one", "two"], group=["x", "y"])
    source = hub(saved(data, tmp_path / "saved"), COMMON_NAMES)
    assert source.classes == ("a", "b")
    assert [(r.label, r.caption, r.group) for r in source.records] == [
        (1, "one", "x"),
        (0, "two", "y"),
    ]


def test_a_key_or_split_is_only_read_if_asked_for(tmp_path: Path):
    location = saved(images(id=["a.b", "c.d"], split=["x", "y"]), tmp_path / "saved")
    assert [(r.key, r.split) for r in hub(location, COMMON_NAMES).records] == [
        ("image-00000000", None),
        ("image-00000001", None),
    ]
    with pytest.raises(DataError, match=r"row 0 has key 'a.b': keys have no dots"):
        hub(location, Columns(key="id"))
    with pytest.raises(DataError, match="row 0 has split 'x'"):
        hub(location, Columns(split="split"))


def test_a_label_asked_for_wins_over_the_class_feature(tmp_path: Path):
    location = saved(images(animal=[0, 1], size=[10, 9]), tmp_path / "saved")
    source = hub(location, Columns(label="size"))
    assert (source.classes, [r.label for r in source.records]) == (("9", "10"), [1, 0])


@pytest.mark.parametrize("missing", [-1, None])
def test_an_unlabelled_row_among_others_is_named(tmp_path: Path, missing: int | None):
    data = datasets.DatasetDict({"train": images(animal=[0, missing])})
    with pytest.raises(DataError, match=r"row 1 of 'train' has no class, but .* has 'cat'"):
        hub(saved(data, tmp_path / "saved"), COMMON_NAMES)


@pytest.mark.parametrize("missing", [-1, None])
def test_a_split_of_unlabelled_rows_only_has_classes_but_no_labels(
    tmp_path: Path, missing: int | None
):
    source = hub(saved(images(animal=[missing, missing]), tmp_path / "saved"), COMMON_NAMES)
    assert [r.label for r in source.records] == [None, None]


def test_a_column_that_is_not_there_is_named(tmp_path: Path):
    location = saved(images(animal=[0]), tmp_path / "saved")
    with pytest.raises(UsageError) as error:
        hub(location, Columns(image="picure"))
    assert str(error.value) == (
        f"image_column: {location} has no column 'picure'; it has picture, animal; "
        "did you mean 'picture'?"
    )


def test_a_column_of_something_else_is_no_image(tmp_path: Path):
    location = saved(images(animal=[0]), tmp_path / "saved")
    with pytest.raises(UsageError, match=f"column 'animal' of {location} does not hold images"):
        hub(location, Columns(image="animal"))


def test_images_may_be_files_beside_the_dataset(tmp_path: Path):
    pictures.write(str(tmp_path), ["1.png"])
    data = datasets.Dataset.from_dict({"image": [f"{tmp_path}/1.png"]})
    data = data.cast_column("image", datasets.Image(decode=False))
    location = saved(data, tmp_path / "saved")
    (tmp_path / "1.png").unlink()  # saving took it in
    source = hub(location, COMMON_NAMES)
    assert source.load(source.records[0]) == pictures.png(0)


def test_a_row_without_an_image_is_named_when_it_is_loaded(tmp_path: Path):
    data = datasets.Dataset.from_dict({"image": [None]}).cast_column("image", datasets.Image())
    source = hub(saved(data, tmp_path / "saved"), COMMON_NAMES)
    with pytest.raises(StorageError, match=r"row 0 .*has no image"):
        source.load(source.records[0])


def test_a_changed_dataset_has_other_stamps_and_gives_its_new_images(tmp_path: Path):
    location = saved(images(animal=[0, 1]), tmp_path / "saved")
    before = hub(location, COMMON_NAMES)
    assert hub(location, COMMON_NAMES).records == before.records
    assert before.load(before.records[0]) == pictures.png(0)
    saved(images(animal=[0, 1]).select([1, 0]), tmp_path / "saved")
    after = hub(location, COMMON_NAMES)
    assert after.records[0].stamp != before.records[0].stamp
    assert after.load(after.records[0]) == pictures.png(1)


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    data = datasets.DatasetDict({"train": images(animal=[0] * 50)})
    location = saved(data, tmp_path / "saved")
    capfd.readouterr()
    source = hub(location, COMMON_NAMES)
    source.load(source.records[0])
    assert capfd.readouterr() == ("", "")
    assert datasets.are_progress_bars_disabled()  # small datasets have none anyway


def test_a_dataset_that_is_not_there_is_one_line(tmp_path: Path):
    with pytest.raises(StorageError) as error:
        hub(f"hf:{tmp_path}/none", COMMON_NAMES)
    assert str(error.value).startswith(f"cannot read hf:{tmp_path}/none: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["someone/nothing", "someone/nothing:config"])
def test_without_the_network_a_dataset_of_the_hub_is_one_line(name: str):
    with pytest.raises(StorageError) as error:
        hub(f"hf:{name}", COMMON_NAMES)
    assert str(error.value).startswith(f"cannot read hf:{name}: ")
    assert "'someone/nothing'" in str(error.value)  # without the configuration
    assert "\n" not in str(error.value)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"pip install 'ray-diffusion\[hf\]'"):
        hub("hf:someone/something", COMMON_NAMES)
