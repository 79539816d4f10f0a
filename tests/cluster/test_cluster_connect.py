"""Which cluster a command reaches, and what it says when it reaches none."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from local_cluster import TINY, free_ports


def train(tmp_path: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    without = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    return subprocess.run(
        [
            *(sys.executable, "-m", "ray_diffusion.train", *TINY, *arguments),
            f"run.storage_url={tmp_path / 'runs'}",
        ],
        env=without | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)} | env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_that_does_not_answer_is_one_line_and_exit_code_3(tmp_path: Path, scheme: str):
    [port] = free_ports(1)
    done = train(tmp_path, RAY_ADDRESS=f"{scheme}127.0.0.1:{port}")
    assert done.returncode == 3
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: no Ray cluster answers at {scheme}127.0.0.1:{port}")
    assert "unset RAY_ADDRESS" in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.ray
def test_without_an_address_ray_starts_on_this_machine_and_ends_with_the_command(tmp_path: Path):
    short = ["training.total_images=640", "training.log_every_images=64"]
    # Ray's sockets have paths of at most 107 characters, pytest's directories are too deep.
    ray_directory = Path(tempfile.mkdtemp(prefix="rd"))
    done = train(tmp_path, *short, RAY_TMPDIR=str(ray_directory))
    shutil.rmtree(ray_directory)
    assert done.returncode == 0, done.stderr
    assert "finished after 640 images, 10 steps" in done.stdout
    assert (tmp_path / "runs/digits/model/ema.safetensors").exists()
    assert (tmp_path / "runs/digits/samples/000000000640.png").exists()
    assert (tmp_path / "runs/digits/loss.png").exists()
    mine = [p for p in Path("/proc").iterdir() if p.name.isdigit() and _mentions(p, ray_directory)]
    assert mine == []


def _mentions(process: Path, what: Path) -> bool:
    try:
        return str(what).encode() in (process / "cmdline").read_bytes()
    except OSError:
        return False
