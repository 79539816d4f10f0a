import re
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from ray_diffusion.tracking import environment
from ray_diffusion.tracking.environment import DIFF, ENVIRONMENT, lineage_files, lineage_tags


def git(tree: Path, *arguments: str) -> None:
    name = ["-c", "user.name=me", "-c", "user.email=me@here", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(tree), *name, *arguments], check=True, capture_output=True)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work tree whose code lies in a folder of it, just committed."""
    tree = tmp_path / "tree"
    (tree / "code").mkdir(parents=True)
    (tree / "code" / "module.py").write_text("one = 1\n")
    (tree / "notes.bin").write_bytes(bytes(range(256)))
    git(tmp_path, "init", "-q", str(tree))
    git(tree, "add", ".")
    git(tree, "commit", "-qm", "first")
    monkeypatch.setattr(environment, "SOURCE", tree / "code" / "module.py")
    return tree


def test_lineage_names_versions_host_hardware_and_command(monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["python", "-m", "ray_diffusion.train", "tracking.uri=https://me:secret@mlflow"]
    monkeypatch.setattr("sys.orig_argv", command)
    tags = lineage_tags()
    assert tags["version.torch"].startswith("2.")
    assert {"host", "version.python", "version.ray", "version.mlflow"} <= tags.keys()
    assert tags["command"].endswith("-m ray_diffusion.train tracking.uri=https://me:***@mlflow")
    assert re.fullmatch(r".+, [1-9]\d* cores", tags["hardware.cpu"])
    assert re.fullmatch(r"[1-9]\d* GiB", tags["hardware.memory"])


def test_every_installed_distribution_is_told_in_order() -> None:
    head, *lines = lineage_files()[ENVIRONMENT].decode().splitlines()
    assert head.startswith("# Python 3.")
    assert lines == sorted(set(lines))
    installed = {found.metadata["Name"] for found in metadata.distributions()}
    assert {line.partition("==")[0] for line in lines} == installed
    assert f"torch=={metadata.version('torch')}" in lines


def test_the_digest_of_the_environment_changes_with_any_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = lineage_tags()["environment.digest"]
    assert lineage_tags()["environment.digest"] == before
    text = environment.environment()
    monkeypatch.setattr(environment, "environment", lambda: text.replace("torch==2", "torch==3"))
    assert lineage_tags()["environment.digest"] != before


def test_the_image_is_told_where_the_variable_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_DIFFUSION_IMAGE", raising=False)
    assert "image" not in lineage_tags()
    monkeypatch.setenv("RAY_DIFFUSION_IMAGE", "registry/ray-diffusion@sha256:abc")
    assert lineage_tags()["image"] == "registry/ray-diffusion@sha256:abc"


def test_a_clean_tree_has_no_diff(tree: Path) -> None:
    (tree / "stray.txt").write_text("git does not know me")
    tags = lineage_tags()
    assert (tags["git.dirty"], tags["git.diff"]) == ("false", "none")
    assert len(tags["git.commit"]) == 40
    assert DIFF not in lineage_files()


def test_the_diff_makes_a_clone_what_the_tree_was(tree: Path, tmp_path: Path) -> None:
    (tree / "code" / "module.py").write_bytes(b"one = 'caf\xe9'\n")  # not UTF-8
    (tree / "notes.bin").write_bytes(bytes(reversed(range(256))))
    (tree / "code" / "new.py").write_text("staged = True\n")
    git(tree, "add", "code/new.py")
    (tree / "secret.env").write_text("password: hunter2")
    git(tree, "config", "diff.noprefix", "true")
    git(tree, "config", "color.diff", "always")
    clone, patch = tmp_path / "clone", tmp_path / DIFF
    git(tmp_path, "clone", "-q", str(tree), str(clone))
    patch.write_bytes(lineage_files()[DIFF])
    git(clone, "apply", str(patch))
    for name in ("code/module.py", "notes.bin", "code/new.py"):
        assert (clone / name).read_bytes() == (tree / name).read_bytes()
    assert b"secret.env" in patch.read_bytes()
    assert b"hunter2" not in patch.read_bytes()


def test_other_changes_have_another_digest(tree: Path) -> None:
    digests = set()
    for text in ("one = 2\n", "one = 3\n", "one = 1\n"):
        (tree / "code" / "module.py").write_text(text)
        digests.add(lineage_tags()["git.diff"])
    assert len(digests) == 3
    assert "none" in digests


def test_a_long_diff_is_cut_and_says_so(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "DIFF_BYTES", 200)
    (tree / "code" / "module.py").write_text("one = 1  # very long\n" * 100)
    diff = lineage_files()[DIFF]
    head, _, rest = diff.partition(b"\n")
    assert re.fullmatch(rb"# cut: the first 200 of \d,\d{3} bytes", head)
    assert len(rest) == 200


def test_a_password_that_was_written_into_the_code_stays_here(tree: Path) -> None:
    (tree / "code" / "module.py").write_text("uri = 'http://me:hunter2@mlflow'\n")
    diff = lineage_files()[DIFF]
    assert b"http://me:***@mlflow" in diff
    assert b"hunter2" not in diff


def test_code_that_another_tree_ignores_has_no_history(tree: Path) -> None:
    git(tree, "rm", "-q", "--cached", "code/module.py")
    assert not {name for name in lineage_tags() if name.startswith("git")}
    assert DIFF not in lineage_files()


def test_lineage_does_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert not {name for name in lineage_tags() if name.startswith("git")}
    assert lineage_files().keys() == {ENVIRONMENT}


def test_a_processor_that_the_kernel_does_not_name_is_told_by_its_kind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(environment, "CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nBogoMIPS\t: 50.00\n")
    assert re.fullmatch(r"[\w-]+, \d+ cores", lineage_tags()["hardware.cpu"])
