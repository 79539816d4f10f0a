"""Whatever happens to a dataset's files, reading them again tells."""

from collections.abc import Callable
from pathlib import Path

import pytest
import toy_packing

from ray_diffusion.data.manifest import Manifest
from ray_diffusion.data.packing import files
from ray_diffusion.data.packing.pack import pack
from ray_diffusion.data.packing.stats import stats
from ray_diffusion.data.packing.verify import unlisted, verify
from ray_diffusion.storage import Directory


@pytest.fixture
def manifest(url: str) -> Manifest:
    return pack(toy_packing.stripes(), toy_packing.RECIPE, url)


def changed(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def test_a_dataset_is_whole_after_packing(url: str, manifest: Manifest):
    told: list[tuple[str, int, int]] = []
    assert verify(url, manifest, progress=lambda *said: told.append(said)) == []
    assert told == [("verified", n, 6) for n in range(1, 7)]
    assert unlisted(url, manifest) == []


@pytest.mark.parametrize(
    ("damage", "keys"),
    [
        (lambda content: changed(content, 600), ["crc32", "sha256"]),
        (lambda content: content + bytes(512), ["bytes", "crc32", "sha256"]),
        (
            lambda content: content[: 8 * 512] + bytes(1024),
            ["examples", "bytes", "crc32", "sha256"],
        ),
    ],
)
def test_every_difference_of_every_shard_has_a_line(
    url: str, manifest: Manifest, damage: Callable[[bytes], bytes], keys: list[str]
):
    names = [manifest.splits["train"][1].name, manifest.splits["val"][0].name]
    for name in names:
        content = Directory(url).read(name)
        assert content is not None
        Directory(url).write(name, damage(content))
    problems = verify(url, manifest)
    assert len(problems) == len(names) * len(keys)
    for name in names:
        of = [line for line in problems if line.startswith(f"{url}/{name} has ")]
        assert [line.split(" has ")[1].split()[0] for line in of] == keys
        assert all(", the manifest says " in line for line in of)


def test_large_shards_are_read_in_parts(
    url: str, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(files, "CHUNK", 1000)
    assert verify(url, manifest) == []


def test_a_shard_that_is_missing_or_no_tar_file_is_named(url: str, manifest: Manifest):
    one, two = (shard.name for shard in manifest.splits["val"])
    Directory(url).remove(one)
    Directory(url).write(two, b"no tar file" * 100)
    missing, spoiled = verify(url, manifest)
    assert missing == f"{url}/{one} is missing"
    assert spoiled.startswith(f"{url}/{two} is no tar file, or is damaged: ")


def test_files_that_no_manifest_lists_are_told(url: str, manifest: Manifest):
    Directory(url).write("train-000009-01234567.tar", b"")
    Directory(url).write("mine/notes.txt", b"")
    assert unlisted(url, manifest) == ["mine/notes.txt", "train-000009-01234567.tar"]
    assert verify(url, manifest) == []


def test_reading_a_dataset_again_does_not_change_it(tmp_path: Path):
    manifest = pack(toy_packing.stripes(), toy_packing.RECIPE, str(tmp_path))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    verify(str(tmp_path), manifest)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_stats_say_all_of_a_manifest(tmp_path: Path):
    manifest = pack(toy_packing.stripes(), toy_packing.RECIPE, str(tmp_path))
    lines = [line.strip() for line in stats(manifest).splitlines()]
    assert "images       8x8 pixels, colour" in lines
    assert f"fingerprint  {manifest.fingerprint}" in lines
    assert "many  20 train, 10 val" in lines
    assert "few   7 train, 3 val" in lines
    assert any(line.startswith("train  40 images, 4 shards, 0.") for line in lines)
    assert any(line.split() == ["examples_per_shard", "10"] for line in lines)
    assert any(line.split() == ["image_size", "null"] for line in lines)
