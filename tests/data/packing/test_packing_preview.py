from dataclasses import replace
from pathlib import Path

import pytest
from toy_packing import RECIPE, counted_stripes, stripes

from ray_diffusion.data.packing import preview as previews
from ray_diffusion.data.packing.preview import preview
from ray_diffusion.data.packing.source import Record
from ray_diffusion.errors import StorageError


def test_the_sample_is_spread_over_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(previews, "SAMPLE", 7)
    log = tmp_path / "log"
    said = preview(counted_stripes(log), RECIPE)
    loaded = [int(key.removeprefix("stripes-")) for key in log.read_text().split()]
    assert loaded == [60 * i // 7 for i in range(7)]
    assert "7 images, 8x8 pixels, colour" in said


def test_a_source_that_cannot_be_read_can_be_counted():
    def load(record: Record) -> bytes:
        raise StorageError("the network is down")

    said = preview(replace(stripes(), load=load), RECIPE).splitlines()
    assert said[2].endswith("60 images, none of them readable")
    assert said[3].endswith("60 of the sample: cannot be read")
    assert [line.split() for line in said[4:]] == [
        ["train", "40", "images,", "4", "shards"],
        ["val", "20", "images,", "2", "shards"],
    ]
