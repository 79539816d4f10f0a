import struct
from pathlib import Path

from ray_diffusion.tracking.curve import plot_loss, read_metrics
from ray_diffusion.tracking.spool import Spool


def write_losses(path: Path, *values: float) -> None:
    spool = Spool(path)
    for i, value in enumerate(values):
        spool.log(1000 * i, {"train/loss": value, "train/lr": 1e-3})
        if i % 3 == 0:
            spool.log(1000 * i, {"val/loss": value * 1.1})
    spool.close()


def test_a_curve_is_drawn_900_by_540(tmp_path: Path) -> None:
    write_losses(tmp_path / "train.jsonl", *(1 / (1 + i) for i in range(20)))
    header = plot_loss(tmp_path / "train.jsonl", title="digits")[:24]
    assert header.startswith(b"\x89PNG")
    assert struct.unpack(">II", header[16:]) == (900, 540)


def test_losses_that_are_not_positive_or_finite_are_drawn_too(tmp_path: Path) -> None:
    write_losses(tmp_path / "train.jsonl", 1.0, 0.0, -1.0, float("nan"), float("inf"))
    assert plot_loss(tmp_path / "train.jsonl", title="digits")


def test_without_losses_there_is_no_picture(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "train.jsonl")
    spool.log(1, {"train/lr": 1.0})
    spool.close()
    assert plot_loss(tmp_path / "train.jsonl", title="digits") == b""


def test_an_open_spool_can_be_read(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "train.jsonl")
    spool.log(64, {"train/loss": 0.5})
    assert read_metrics(tmp_path / "train.jsonl") == {"train/loss": [(64, 0.5)]}
    spool.close()
