import json
from pathlib import Path

import pytest

from ray_diffusion.data import builtin
from ray_diffusion.data.builtin import resolve
from ray_diffusion.data.manifest import read_manifest
from ray_diffusion.data.packing.embedded import EMBEDDED, digits
from ray_diffusion.data.packing.source import Source
from ray_diffusion.errors import StorageError, UsageError
from ray_diffusion.storage import MANIFEST


@pytest.fixture(autouse=True)
def _few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EMBEDDED, "few", lambda number: digits(60))


def content(url: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(url).iterdir()}


def test_a_path_or_url_is_its_own_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    assert resolve("s3://bucket/data", 8) == "s3://bucket/data"
    assert resolve("data", 8) == f"{tmp_path}/data"


def test_a_builtin_is_packed_once_for_each_size(cache: Path):
    url = resolve("builtin:few", 8)
    assert Path(url).parent == cache / "datasets"
    written = {path: path.stat().st_mtime_ns for path in Path(url).iterdir()}
    assert resolve("builtin:few", 8) == url
    assert {path: path.stat().st_mtime_ns for path in Path(url).iterdir()} == written
    assert read_manifest(url).image_size == 8
    other = resolve("builtin:few", 16)
    assert other != url
    assert read_manifest(other).image_size == 16


def test_another_packer_has_a_place_of_its_own(monkeypatch: pytest.MonkeyPatch):
    url = resolve("builtin:few", 8)
    monkeypatch.setattr(builtin.request, "VERSION", builtin.request.VERSION + 1)
    assert resolve("builtin:few", 8) != url


def test_a_builtin_whose_packing_was_interrupted_is_packed_again():
    url = resolve("builtin:few", 8)
    whole = content(url)
    manifest = Path(url, MANIFEST)
    manifest.unlink()
    assert resolve("builtin:few", 8) == url
    assert content(url) == whole
    manifest.write_text(json.dumps({"version": 0}))
    resolve("builtin:few", 8)
    assert content(url) == whole


def test_what_a_process_packed_while_another_waited_is_not_packed_twice(
    monkeypatch: pytest.MonkeyPatch,
):
    packed: list[str] = []

    def source(number: int | None) -> Source:
        if not packed:  # between this process's first look and its turn
            packed.append("by another process")
            resolve("builtin:few", 8)
        return digits(60)

    monkeypatch.setitem(EMBEDDED, "few", source)
    inner = builtin.pack
    monkeypatch.setattr(builtin, "pack", lambda *a, **k: packed.append(a[2]) or inner(*a, **k))
    url = resolve("builtin:few", 8)
    assert packed == ["by another process", url]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("digit", "no built-in dataset 'digit'; did you mean 'builtin:digits'?"),
        ("imagenet", "no built-in dataset 'imagenet'; there is digits, shapes, photos, few"),
        ("../digits", "no built-in dataset '../digits'; did you mean 'builtin:digits'?"),
    ],
)
def test_a_name_that_is_none_is_met_with_what_there_is(cache: Path, name: str, line: str):
    with pytest.raises(UsageError) as error:
        resolve(f"builtin:{name}", 8)
    assert str(error.value) == line
    assert list((cache / "datasets").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_a_storage_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "plain").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "plain"))
    with pytest.raises(StorageError, match="set XDG_CACHE_HOME"):
        resolve("builtin:few", 8)


def test_packing_that_takes_a_while_is_announced_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    resolve("builtin:few", 8)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(builtin, "AT_ONCE", 59)
    for _ in range(2):
        resolve("builtin:few", 16)
    assert capsys.readouterr().err == "packing the 60 images of builtin:few, this once\n"
