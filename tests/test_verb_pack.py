"""The packer from its command line to its files and exit codes."""

from pathlib import Path

import numpy as np
import pytest
import webdataset
from toy_source import png

from ray_diffusion import errors, pack
from ray_diffusion.data.manifest import Manifest, read_manifest
from ray_diffusion.data.packing.output import NOTES
from ray_diffusion.storage import MANIFEST

SIDE = 24


pytestmark = pytest.mark.usefixtures("_in_a_directory_of_its_own")


def picture(number: int) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    return np.stack([7 * number + x, 3 * number + y, x * y], -1).astype(np.uint8)


@pytest.fixture
def photographs() -> Path:
    """Thirty images in three folders."""
    for i in range(30):
        path = Path("photographs", ["cat", "dog", "owl"][i % 3], f"{i}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(picture(i)))
    return Path("photographs")


def packed(*words: str) -> Manifest:
    assert errors.run(pack.main, ["out=data", *words]) == 0
    return read_manifest("data")


def complaint(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> str:
    """The one line that a command answers with."""
    assert errors.run(pack.main, list(words)) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(lines) == 1
    return lines[0]


def test_pack_says_what_it_wrote_and_what_to_type_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    manifest = packed("image_size=16")
    said = capsys.readouterr().out
    for split in ("train", "val"):
        shards = len(manifest.splits[split])
        assert f"{manifest.examples(split):,} images, {shards} shard" in said
    assert f"report: {tmp_path}/data/report.html" in said
    assert f"{tmp_path}/data is a dataset, fingerprint {manifest.fingerprint}" in said
    assert f"data.dataset_url={tmp_path}/data data.image_size=16" in said
    assert f"python -m ray_diffusion.pack verify {tmp_path}/data" in said


def test_what_is_typed_next_is_quoted_where_it_has_to_be(
    tmp_path: Path, photographs: Path, capsys: pytest.CaptureFixture[str]
):
    assert errors.run(pack.main, [f"source={photographs}", "out=my data"]) == 0
    assert f"'data.dataset_url={tmp_path}/my data'" in capsys.readouterr().out


def test_the_same_command_is_done_at_once_the_second_time(
    photographs: Path, capsys: pytest.CaptureFixture[str]
):
    first = packed(f"source={photographs}")
    capsys.readouterr()
    assert packed(f"source={photographs}", "workers=2") == first  # Ray is not even started
    assert capsys.readouterr().out.startswith("packed already, by this very request\ntrain ")


def test_a_folder_is_packed_with_its_classes(photographs: Path):
    manifest = packed(f"source={photographs}", "val_fraction=0.4", "image_size=8")
    assert manifest.classes == ("cat", "dog", "owl")
    assert [sum(of) for of in zip(*manifest.class_counts.values(), strict=True)] == [10, 10, 10]


def test_columns_have_the_names_that_they_are_given(photographs: Path):
    rows = [f"{path},{path.parent.name},one" for path in sorted(photographs.glob("*/*.png"))]
    Path("table.csv").write_text("\n".join(["where,what,words", *rows]))
    manifest = packed(
        "source=table.csv", "image_column=where", "label_column=what", "caption_column=words"
    )
    assert manifest.classes == ("cat", "dog", "owl")
    assert packed("source=table.csv", "image_column=where", "overwrite=true").classes == ()


def test_shards_are_packed_anew(photographs: Path):
    packed(f"source={photographs}")
    assert errors.run(pack.main, ["source=data", "out=small", "image_size=8"]) == 0
    small = read_manifest("small")
    assert (small.image_size, small.classes) == (8, ("cat", "dog", "owl"))


def test_a_fraction_that_a_source_does_not_hear_is_warned_of(capsys: pytest.CaptureFixture[str]):
    assert errors.run(pack.main, ["out=digits", "val_fraction=0.5", "--dry-run"]) == 0
    said = capsys.readouterr()
    assert said.err == (
        "warning: builtin:digits has splits of its own, whatever val_fraction may be\n"
    )
    assert "1,438 images" in said.out


def test_a_dry_run_counts_and_writes_nothing(photographs: Path, capsys: pytest.CaptureFixture[str]):
    (photographs / "cat" / "0.png").write_bytes(png(picture(0)[:12]))
    (photographs / "cat" / "3.png").write_bytes(b"no image")
    before = sorted(Path().rglob("*"))
    words = [f"source={photographs}", "out=data", "examples_per_shard=4", "--dry-run"]
    assert errors.run(pack.main, words) == 0
    assert sorted(Path().rglob("*")) == before
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["source"] == "photographs: 30 images in 3 classes"
    assert rows["first"] == "key  cat-0"
    assert rows["sample"] == "30 images, 24x12 to 24x24 pixels, colour"
    assert rows["left"] == "out   1 of the sample: cannot be decoded"
    counts = {split: int(rows[split].split()[0]) for split in ("train", "val")}
    assert any(count % 4 for count in counts.values())
    assert sum(counts.values()) == 30
    for split, count in counts.items():
        shards = -(-count // 4)
        assert rows[split] == f"{count} images, {shards} shard{'s' * (shards > 1)}"


def test_a_dry_run_of_a_large_source_decodes_a_sample(capsys: pytest.CaptureFixture[str]):
    assert errors.run(pack.main, ["out=data", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "1,797 images in 10 classes" in said
    assert "100 images, 8x8 pixels, grey" in said


def test_stats_and_verify_look_at_what_was_packed(
    photographs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    manifest = packed(f"source={photographs}")
    capsys.readouterr()
    assert errors.run(pack.main, ["stats", "data"]) == 0
    assert f"fingerprint  {manifest.fingerprint}" in capsys.readouterr().out
    assert errors.run(pack.main, ["verify", "data"]) == 0
    said = f"{tmp_path}/data is whole: 2 shards, fingerprint {manifest.fingerprint}\n"
    assert capsys.readouterr().out == said


def test_verify_ends_with_3_and_a_line_for_each_problem(
    photographs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    manifest = packed(f"source={photographs}")
    lost, spoiled = (manifest.splits[split][0].name for split in ("train", "val"))
    Path("data", lost).unlink()
    content = Path("data", spoiled).read_bytes()
    Path("data", spoiled).write_bytes(content + bytes(1024))
    Path("data", "other.tar").write_bytes(b"")
    capsys.readouterr()
    assert errors.run(pack.main, ["verify", "data"]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert f"warning: {tmp_path}/data/other.tar is not in the manifest" in lines
    problems = [line for line in lines if line.startswith("error: ")]
    assert len(problems) == 4
    assert problems[0] == f"error: {tmp_path}/data/{lost} is missing"
    assert (
        f"{spoiled} has bytes {len(content) + 1024}, the manifest says {len(content)}"
        in (problems[1])
    )


def test_index_makes_a_dataset_of_foreign_shards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with webdataset.ShardWriter("foreign-%02d.tar", maxcount=6, verbose=0) as writer:
        for i in range(30):
            writer.write({"__key__": f"{i:03d}", "png": png(picture(i)), "cls": i % 2})
    assert errors.run(pack.main, ["index", ".", "val_fraction=0.1"]) == 0
    manifest = read_manifest(".")
    assert manifest.examples("train") + manifest.examples("val") == 30
    said = capsys.readouterr().out
    assert f"{tmp_path} is a dataset, fingerprint {manifest.fingerprint}" in said
    assert f"data.dataset_url={tmp_path} data.image_size={SIDE}" in said
    line = complaint(capsys, 2, "index", ".")
    assert "replace it by overwrite=true" in line
    assert errors.run(pack.main, ["index", ".", "overwrite=true", "val_fraction=0.1"]) == 0
    assert read_manifest(".") == manifest


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["out=x", "source=builtin:digitz"], "did you mean 'builtin:digits'?"),
        ([], "out"),
        (["out=x", "val_fraction=1"], "val_fraction"),
        (["out=x", "val_fraction=0.6", "test_fraction=0.6"], "leave nothing for training"),
        (["out=x", "num_examples=2000"], "1797 images, not 2000"),
        (["out=x", "image_column=a"], "image_column: builtin:digits has no columns"),
        (["out=x", "enconding=png"], "did you mean 'encoding'?"),
        (["indx", "x"], "one word too many"),
        (["index"], "url"),
        (["verify", "x", "y"], "'y': one word too many"),
    ],
)
def test_what_pack_cannot_do_is_one_line(
    capsys: pytest.CaptureFixture[str], words: list[str], line: str
):
    assert errors.run(pack.main, words) == 2
    found = capsys.readouterr().err.splitlines()
    assert line in "\n".join(found)
    assert len(found) == 1 + (words == ["indx", "x"]) * 2  # both words, and the missing out
    assert not Path("x").exists()


def test_a_folder_without_images_is_one_line(capsys: pytest.CaptureFixture[str]):
    Path("empty").mkdir()
    assert "empty is empty or does not exist" in complaint(capsys, 3, "source=empty", "out=data")
    assert not Path("data").exists()


def test_a_folder_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]):
    complaint(capsys, 3, "source=nowhere", "out=data")
    assert not Path("data").exists()


def test_damaged_images_beyond_the_share_are_one_line_that_names_the_way_out(
    photographs: Path, capsys: pytest.CaptureFixture[str]
):
    for i in (3, 7):
        next(photographs.glob(f"*/{i}.png")).write_bytes(b"no image")
    line = complaint(capsys, 3, f"source={photographs}", "out=data")
    assert "2 of 30 images (6.7%) cannot be read or decoded" in line
    assert "'cat-3'" in line
    assert not Path("data", MANIFEST).exists()
    way_out = line.split()[-1]
    assert way_out.startswith("max_unreadable=")
    manifest = packed(f"source={photographs}", way_out)
    assert manifest.rejected == {"cannot be decoded": 2}


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ("image,label\n0.png,cat\n1.png,\n", "3"),
        ("image,key\n0.png,a\n1.png,a\n", "have the same key 'a'"),
        ("image,key\n0.png,a.b\n1.png,c\n", "has key 'a.b'"),
        ("image,label\n0.png,cat\n,dog\n", "3"),
    ],
)
def test_a_table_with_a_bad_row_is_one_line_that_names_it(
    capsys: pytest.CaptureFixture[str], table: str, line: str
):
    for i in range(2):
        Path(f"{i}.png").write_bytes(png(picture(i)))
    Path("table.csv").write_text(table)
    assert line in complaint(capsys, 3, "source=table.csv", "out=data")
    assert not Path("data").exists()


def test_two_files_with_one_key_are_one_line(capsys: pytest.CaptureFixture[str]):
    for name in ("a b.png", "a_b.png"):
        Path("flat").mkdir(exist_ok=True)
        Path("flat", name).write_bytes(png(picture(1)))
    line = complaint(capsys, 3, "source=flat", "out=data")
    assert "a b.png" in line
    assert "a_b.png" in line


def test_images_of_several_sizes_need_a_size(photographs: Path, capsys: pytest.CaptureFixture[str]):
    (photographs / "cat" / "0.png").write_bytes(png(picture(0)[:12]))
    line = complaint(capsys, 2, f"source={photographs}", "out=data")
    assert "image_size=" in line
    assert not Path("data", MANIFEST).exists()


def test_a_place_that_cannot_be_written_is_one_line(capsys: pytest.CaptureFixture[str]):
    Path("plain").write_text("")
    assert "plain" in complaint(capsys, 3, "out=plain/data")


def test_another_dataset_in_the_place_is_one_line(
    photographs: Path, capsys: pytest.CaptureFixture[str]
):
    packed(f"source={photographs}")
    line = complaint(capsys, 2, f"source={photographs}", "out=data", "image_size=8")
    assert "choose another out, or overwrite=true" in line
    assert packed(f"source={photographs}", "image_size=8", "overwrite=true").image_size == 8


def test_the_packer_leaves_no_notes(photographs: Path):
    packed(f"source={photographs}")
    assert not Path("data", NOTES).exists()
