import os
import pickle
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pictures
import pytest

from ray_diffusion.data.packing.folders import folder
from ray_diffusion.data.packing.records import IMAGES, in_order, key_of
from ray_diffusion.data.packing.source import Record, Source
from ray_diffusion.errors import DataError, StorageError
from ray_diffusion.storage import Directory

SERVER = "from moto.server import main; main()"


def classes(source: Source) -> dict[str, str | None]:
    """The class of each image, by its file."""
    return {
        record.at: None if record.label is None else source.classes[record.label]
        for record in source.records
    }


def problem(url: str) -> str:
    with pytest.raises(DataError) as error:
        folder(url)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_folder_below_is_a_class(url: str):
    pictures.write(url, ["dog/1.png", "cat/1.png", "cat/deep/er/2.png"])
    source = folder(url)
    assert source.name == url
    assert source.classes == ("cat", "dog")
    assert classes(source) == {
        "cat/1.png": "cat",
        "cat/deep/er/2.png": "cat",
        "dog/1.png": "dog",
    }
    assert [record.key for record in source.records] == ["cat-1", "cat-deep-er-2", "dog-1"]


def test_images_side_by_side_have_no_class(url: str):
    pictures.write(url, ["b.png", "a.jpg"])
    source = folder(url)
    assert source.classes == ()
    assert classes(source) == {"a.jpg": None, "b.png": None}


def test_an_image_beside_class_folders_is_named(url: str):
    pictures.write(url, ["cat/1.png", "stray.png"])
    assert problem(url) == (
        f"{url}/stray.png has no class, but {url}/cat/1.png has 'cat'; "
        "give all images a class, or none"
    )


def test_folders_named_like_splits_are_splits(url: str):
    pictures.write(url, ["train/cat/1.png", "Validation/cat/1.png", "test/dog/1.png"])
    source = folder(url)
    assert source.classes == ("cat", "dog")
    assert {record.at: record.split for record in source.records} == {
        "train/cat/1.png": "train",
        "Validation/cat/1.png": "val",
        "test/dog/1.png": "test",
    }


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_splits_need_no_classes(url: str, val: str):
    pictures.write(url, ["train/1.png", f"{val}/1.png"])
    source = folder(url)
    assert source.classes == ()
    assert [record.split for record in source.records] == ["train", "val"]


def test_without_a_val_folder_the_recipe_divides_what_is_no_test(url: str):
    pictures.write(url, ["train/1.png", "test/1.png"])
    assert [(r.at, r.split) for r in folder(url).records] == [
        ("test/1.png", "test"),
        ("train/1.png", None),
    ]


def test_among_other_folders_one_named_like_a_split_is_a_class(url: str):
    pictures.write(url, ["train/1.png", "tram/1.png"])
    source = folder(url)
    assert source.classes == ("train", "tram")
    assert {record.split for record in source.records} == {None}


def test_numbered_classes_keep_their_numbers(url: str):
    pictures.write(url, [f"{number}/1.png" for number in range(12)])
    assert folder(url).classes == tuple(str(number) for number in range(12))


def test_what_is_hidden_or_no_image_is_left_out(url: str):
    names = ["cat/1.PNG", "cat/.2.png", ".git/cat/3.png", "__MACOSX/cat/1.png", "cat/Thumbs.db"]
    pictures.write(url, [*names, "readme.txt"])
    assert list(classes(folder(url))) == ["cat/1.PNG"]


@pytest.mark.parametrize("extension", [*IMAGES, "JPG"])
def test_images_are_known_by_their_extension(url: str, extension: str):
    pictures.write(url, [f"1.{extension}"])
    assert [record.key for record in folder(url).records] == ["1"]


def test_a_text_beside_an_image_is_its_caption(url: str):
    pictures.write(url, ["a/1.png", "a/2.png", "a/3.png"])
    Directory(url).write("a/1.txt", "\ufeffeine Katze, müde\n")
    Directory(url).write("a/2.txt", "\n")
    Directory(url).write("a/3.txt", "third")
    Directory(url).write("a/4.txt", "of no image")
    captions = [record.caption for record in folder(url).records]
    assert captions == ["eine Katze, müde", None, "third"]


def test_a_caption_that_is_no_text_is_named(url: str):
    pictures.write(url, ["1.png"])
    Directory(url).write("1.txt", b"\xff\xfe")
    assert problem(url).startswith(f"{url}/1.txt is not text in UTF-8: ")


def test_every_record_loads_its_own_image_also_in_another_process(url: str):
    names = ["cat/1.png", "cat/2.png", "dog/1.png"]
    pictures.write(url, names)
    source = folder(url)
    load = pickle.loads(pickle.dumps(source.load))
    assert {r.at: load(r) for r in source.records} == {
        name: pictures.png(number) for number, name in enumerate(names)
    }


def test_an_image_that_went_away_is_named(url: str):
    pictures.write(url, ["1.png"])
    source = folder(url)
    Directory(url).remove("1.png")
    with pytest.raises(StorageError, match=r"cannot read .*/1.png: no such file"):
        source.load(source.records[0])


def test_a_changed_image_has_another_stamp_and_no_other_changes(url: str):
    pictures.write(url, ["1.png", "2.png"])
    before = folder(url).records
    assert folder(url).records == before
    Directory(url).write("1.png", b"something else")
    after = folder(url).records
    assert after[0].stamp != before[0].stamp
    assert after[1] == before[1]


def test_a_change_is_seen_by_time_or_by_size(tmp_path: Path):
    pictures.write(str(tmp_path), ["1.png"])
    path = tmp_path / "1.png"
    stamps = set()
    for size, time in ((10, 1), (11, 1), (11, 2)):
        path.write_bytes(bytes(size))
        os.utime(path, (time, time))
        stamps.add(folder(str(tmp_path)).records[0].stamp)
    assert len(stamps) == 3


def test_the_order_does_not_depend_on_that_of_writing(tmp_path: Path):
    names = [f"{c}/{i}.png" for c in "abc" for i in range(5)]
    orders = []
    for seed in range(2):
        random.Random(seed).shuffle(names)
        pictures.write(str(tmp_path / str(seed)), names)
        orders.append([record.at for record in folder(str(tmp_path / str(seed))).records])
    assert orders[0] == orders[1] == sorted(names)


def test_two_files_with_one_key_are_both_named(url: str):
    pictures.write(url, ["cat/1.png", "cat/1.jpg"])
    assert problem(url) == (
        f"{url}/cat/1.jpg and {url}/cat/1.png have the same key 'cat-1'; rename one"
    )


def test_an_empty_or_missing_folder_is_one_line(url: str, tmp_path: Path):
    (tmp_path / "dataset").mkdir()
    assert problem(url) == f"{url} is empty or does not exist"


def test_a_folder_without_images_says_what_it_looked_for(url: str):
    Directory(url).write("notes.txt", "")
    assert problem(url) == (
        f"{url} holds no images (png, jpg, jpeg, webp, gif, bmp, tif, tiff, ppm) "
        "and no shards (tar)"
    )


def test_a_file_is_no_folder(url: str):
    Directory(url).write("images.zip", b"PK")
    assert problem(f"{url}/images.zip") == (
        f"{url}/images.zip is neither a folder nor a table nor a tar file of images"
    )


def test_a_relative_path_means_the_same_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pictures.write(str(tmp_path / "images"), ["1.png"])
    monkeypatch.chdir(tmp_path)
    source = folder("images")
    monkeypatch.chdir("/")
    assert source.load(source.records[0]) == pictures.png(0)


def test_keys_are_what_tar_members_may_be_called():
    assert key_of("a/b/c") == "a-b-c"
    assert key_of("./a//b/../c") == "a-c"
    assert key_of("v1.2/my photo (3)") == "v1_2-my_photo__3_"


def test_names_in_other_scripts_stay_apart():
    assert len({key_of(name) for name in ("猫", "犬", "é", "è", "\udcff")}) == 5


def test_classes_are_ordered_by_number_only_if_all_are_numbers():
    assert in_order({"2", "10", "1"}) == ("1", "2", "10")
    assert in_order({"2", "10", "x"}) == ("10", "2", "x")
    assert in_order({"07", "7"}) == ("07", "7")
    assert in_order(()) == ()


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket on a server on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    patch = pytest.MonkeyPatch()
    try:
        assert server.stderr is not None
        while "Running on" not in (line := server.stderr.readline()):
            assert line, "the S3 server ended"
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        import s3fs

        s3fs.S3FileSystem().mkdir("images")
        yield "s3://images"
    finally:
        patch.undo()
        server.kill()
        server.communicate()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of botocore and moto
class TestInAnObjectStore:
    def test_a_folder_of_a_bucket_reads_like_one_on_disk(self, s3: str, tmp_path: Path):
        names = ["train/cat/1.png", "train/dog/1.png", "val/cat/2.png"]
        for url in (f"{s3}/pets", str(tmp_path)):
            pictures.write(url, names)
        remote, local = folder(f"{s3}/pets"), folder(str(tmp_path))

        def without_stamp(records: list[Record]) -> list[Record]:
            return [record._replace(stamp="") for record in records]

        assert without_stamp(list(remote.records)) == without_stamp(list(local.records))
        assert [remote.load(r) for r in remote.records] == [local.load(r) for r in local.records]

    def test_a_bucket_that_does_not_exist_is_one_line(self, s3: str):
        with pytest.raises(StorageError) as error:
            folder("s3://nothing-here/pets")
        assert str(error.value) == (
            "cannot list s3://nothing-here/pets: The specified bucket does not exist"
        )

    def test_without_credentials_it_is_one_line(self, s3: str, monkeypatch: pytest.MonkeyPatch):
        import s3fs

        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # asks no server on the network
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(StorageError, match=r"cannot list .*: Unable to locate credentials$"):
            folder(f"{s3}/pets")
        s3fs.S3FileSystem.clear_instance_cache()
