"""The packer from and to an object store: a real S3 client, a server on this machine."""

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_packing import RECIPE, Killed, content, counted_stripes, stripes
from toy_source import load

from ray_diffusion import errors, pack
from ray_diffusion.data.manifest import read_manifest
from ray_diffusion.data.packing import pack as packing
from ray_diffusion.data.packing.verify import unlisted, verify
from ray_diffusion.storage import Directory

pytest_plugins = ["object_store"]

# botocore and moto call what newer Pythons deprecate.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def _strict(s3_server: int, bucket: str) -> Iterator[None]:
    """From now on the server wants credentials that it knows, of which there are none."""

    def tolerate(requests: str) -> None:
        url, kind = f"http://127.0.0.1:{s3_server}/moto-api/reset-auth", "text/plain"
        asked = urllib.request.Request(url, requests.encode(), {"Content-Type": kind})
        urllib.request.urlopen(asked).close()

    tolerate("0")
    yield
    tolerate("inf")


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert errors.run(pack.main, list(words)) == 3
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_a_killed_packer_goes_on_in_a_bucket(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(packing, "PER_TASK", 10)
    log, out = tmp_path / "log", f"{bucket}/stripes"
    with pytest.raises(Killed):
        packing.pack(counted_stripes(log, 60 + 25), RECIPE, out)
    log.unlink()
    manifest = packing.pack(counted_stripes(log), RECIPE, out)
    assert len(log.read_text().splitlines()) == 40 + 40  # of four shards and the contact sheet
    packing.pack(stripes(), RECIPE, str(tmp_path / "local"))
    assert content(out) == content(str(tmp_path / "local"))
    assert verify(out, manifest) == []
    assert unlisted(out, manifest) == []
    assert packing.pack(counted_stripes(log), RECIPE, out) == manifest


def test_images_in_a_bucket_are_packed_where_they_are(
    bucket: str, capsys: pytest.CaptureFixture[str]
):
    for record in stripes().records:
        Directory(f"{bucket}/images").write(f"{record.label}/{record.key}.png", load(record))
    words = [f"source={bucket}/images", f"out={bucket}/packed"]
    assert errors.run(pack.main, words) == 0
    assert read_manifest(f"{bucket}/packed").classes == ("0", "1", "2")
    assert errors.run(pack.main, ["verify", f"{bucket}/packed"]) == 0


def test_a_bucket_that_is_not_there_is_one_line(bucket: str, capsys: pytest.CaptureFixture[str]):
    assert complaint(capsys, "out=s3://nothing-here/data").rstrip() == (
        "error: cannot read s3://nothing-here/data/manifest.json: "
        "The specified bucket does not exist"
    )
    line = complaint(capsys, "source=s3://nothing-here/images", f"out={bucket}/data")
    assert "s3://nothing-here/images" in line
    assert "s3://nothing-here" in complaint(capsys, "index", "s3://nothing-here")
    assert "s3://nothing-here" in complaint(capsys, "verify", "s3://nothing-here/data")
    assert Directory(bucket).names() == []


@pytest.mark.usefixtures("_strict")
def test_wrong_credentials_are_one_line(bucket: str, capsys: pytest.CaptureFixture[str]):
    assert bucket in complaint(capsys, f"out={bucket}/data")
    assert bucket in complaint(capsys, f"source={bucket}/images", "out=here")
    assert bucket in complaint(capsys, "index", f"{bucket}/shards")
    assert not Path("here").exists()
