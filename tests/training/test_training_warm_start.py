from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_config import RESOLVED, TINY
from torch import Tensor, nn
from toy import CPU

from ray_diffusion import config
from ray_diffusion.config import Config
from ray_diffusion.errors import StorageError
from ray_diffusion.models.build import build
from ray_diffusion.storage import Directory
from ray_diffusion.training import warm_start
from ray_diffusion.training.state import initial_state
from ray_diffusion.training.warm_start import CLASSES, INIT, WEIGHTS, Match

KINDS: list[dict[str, object]] = [
    {"model.kind": "unet"},
    {"model.kind": "tutorial_unet", "model.channel_mults": [1, 2]},
    {"model.kind": "dit", "model.depth": 2},
    {"model.kind": "tiny"},
]


def configured(**keys: object) -> Config:
    return config.override(Config(), TINY | RESOLVED | keys)


def stored(network: nn.Module, file: Path) -> Path:
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(tensors, file, metadata={"format": "pt"})
    return file


def loaded(source: Config, target: Config, scratch: Path) -> tuple[nn.Module, nn.Module, Match]:
    """Two networks, the second one with what it takes of the first one."""
    there, here = build(source, seed=1), build(target, seed=2)
    for parameter in there.parameters():  # nothing at zero, which would be equal by accident
        nn.init.normal_(parameter)
    return there, here, warm_start.load(stored(there, scratch / "file"), here)


def values(network: nn.Module) -> Mapping[str, Tensor]:
    return network.state_dict()


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["model.kind"])
def test_a_network_of_the_same_shape_takes_every_weight(tmp_path: Path, kind: dict[str, object]):
    there, here, found = loaded(configured(**kind), configured(**kind), tmp_path)
    assert equal(values(there), values(here))
    assert found.share == 1
    assert found.describe()[1] == ""


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["model.kind"])
@pytest.mark.parametrize(("theirs", "ours"), [(10, 4), (4, 10), (0, 3), (3, 0)])
def test_without_a_class_a_network_of_other_classes_predicts_as_its_source(
    tmp_path: Path, kind: dict[str, object], theirs: int, ours: int
):
    there, here, found = loaded(
        configured(**kind, **{"model.num_classes": theirs}),
        configured(**kind, **{"model.num_classes": ours}),
        tmp_path,
    )
    x, logsnr = torch.randn(3, 1, 8, 8), torch.linspace(-5, 5, 3)
    with torch.no_grad():
        expected = there(x, logsnr, torch.full((3,), theirs))
        assert here(x, logsnr, torch.full((3,), ours)).equal(expected)
    assert len(found.whole) == len(found.target) - 1
    told = f"last row alone (no class): {CLASSES} ({theirs + 1}, "
    assert found.describe()[1].startswith(told)


def test_the_rows_of_other_classes_keep_their_initial_values(tmp_path: Path):
    target = configured(**{"model.num_classes": 4})
    _, here, _ = loaded(configured(), target, tmp_path)
    initial = values(build(target, seed=2))[CLASSES]
    assert values(here)[CLASSES][:-1].equal(initial[:-1])
    assert not values(here)[CLASSES][-1].equal(initial[-1])


def test_images_of_other_channels_leave_the_two_ends_new(tmp_path: Path):
    target = configured(**{"model.image_channels": 3})
    there, here, found = loaded(configured(), target, tmp_path)
    initial = values(build(target, seed=2))
    assert found.new == ["conv_in.weight", "conv_out.weight", "conv_out.bias"]
    for name, value in values(here).items():
        assert value.equal((initial if name in found.new else values(there))[name]), name
    assert found.describe()[1].startswith("new: conv_in.weight (8, 1, 3, 3) -> (8, 3, 3, 3), ")


def test_a_deeper_network_takes_the_blocks_that_there_are(tmp_path: Path):
    shallow, deep = (configured(**{"model.kind": "dit", "model.depth": d}) for d in (2, 3))
    there, here, found = loaded(shallow, deep, tmp_path)
    assert {name.split(".")[1] for name in found.new} == {"2"}
    assert found.unused == []
    assert all(values(here)[name].equal(value) for name, value in values(there).items())
    assert " and 7 more" in found.describe()[1]

    _, _, found = loaded(deep, shallow, tmp_path)
    assert found.share == 1
    assert {name.split(".")[1] for name in found.unused} == {"2"}
    assert found.describe()[1].startswith("unused: blocks.2.")


def test_a_network_of_another_width_takes_no_class(tmp_path: Path):
    target = configured(**{"model.channels": 16})
    _, here, found = loaded(configured(), target, tmp_path)
    assert CLASSES in found.new
    assert found.whole == ["conv_out.bias"]
    assert values(here)[CLASSES].equal(values(build(target, seed=2))[CLASSES])


def test_weights_of_another_precision_take_that_of_the_network(tmp_path: Path):
    there, here = build(configured(), seed=1).to(torch.bfloat16), build(configured(), seed=2)
    warm_start.load(stored(there, tmp_path / "file"), here)
    assert all(value.dtype == torch.float32 for value in values(here).values())
    assert equal(values(there.float()), values(here))


def test_the_memory_format_is_kept(tmp_path: Path):
    _, here, _ = loaded(configured(), configured(), tmp_path)
    convolutions = [p for p in here.parameters() if p.ndim == 4]
    assert convolutions
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in convolutions)


names = st.sampled_from([CLASSES, "conv_in.weight", "conv_in.bias", "out.bias"])
shapes = st.dictionaries(names, st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple))


@given(shapes, shapes.filter(bool))
def test_every_tensor_is_whole_or_new_or_a_row(
    source: warm_start.Shapes, target: warm_start.Shapes
):
    found = Match(source, target)
    row = [CLASSES] if found.no_class else []
    assert sorted([*found.whole, *found.new, *row]) == sorted(target)
    assert set(found.unused) == source.keys() - target.keys()
    taken = sum(torch.Size(target[name]).numel() for name in found.whole)
    taken += torch.Size(target[CLASSES][1:]).numel() if row else 0
    total = sum(torch.Size(shape).numel() for shape in target.values())
    assert found.share == taken / total
    assert (found.share == 1) == (not found.new and (not row or target[CLASSES][0] == 1))
    assert found.describe()[0].startswith(f"{len(found.whole)} of {len(target)} tensors (")


@pytest.mark.parametrize("url", ["{tmp_path}", "memory://warm-start/{tmp_path}"])
def test_shapes_are_read_without_the_weights(tmp_path: Path, url: str):
    network, directory = build(configured(), seed=0), Directory(url.format(tmp_path=tmp_path))
    file = stored(network, tmp_path / "whole")
    length = int.from_bytes(file.read_bytes()[:8], "little")
    directory.write("header", file.read_bytes()[: 8 + length])
    with torch.device("meta"):
        expected = warm_start.shapes_of(build(configured()))
    assert warm_start.stored_shapes(directory, "header") == expected
    assert warm_start.stored_shapes(directory, "absent") is None


@pytest.mark.parametrize(
    "content",
    [b"", b"abc", b"\xff" * 100, b"\2" + b"\0" * 7 + b"[]", b"\7" + b"\0" * 7 + b'{"a":1}'],
)
def test_a_file_that_holds_no_tensors_is_damaged(tmp_path: Path, content: bytes):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(StorageError, match="file is damaged: no safetensors header"):
        warm_start.stored_shapes(Directory(str(tmp_path)), "file")


@pytest.fixture
def started(tmp_path: Path) -> tuple[Directory, nn.Module]:
    """A run's directory with published first weights, and the network that has them."""
    run, content = Directory(str(tmp_path / "run")), tmp_path / "content"
    content.mkdir()
    network = build(configured(), seed=1)
    stored(network, content / WEIGHTS)
    run.publish(content, INIT)
    return run, network


def test_a_started_state_has_the_published_weights_and_an_average_equal_to_them(
    started: tuple[Directory, nn.Module],
):
    run, network = started
    assert not equal(values(initial_state(configured(), CPU).network), values(network))
    state = initial_state(configured(), CPU, run)
    assert equal(values(state.network), values(network))
    assert equal(values(state.average), values(network))
    assert (state.images_seen, state.steps) == (0, 0)


def test_a_started_state_is_what_its_optimizer_moves(started: tuple[Directory, nn.Module]):
    run, network = started
    state = initial_state(configured(), CPU, run)
    for parameter in state.network.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()
    moved = values(state.network)
    assert not any(moved[name].equal(value) for name, value in values(network).items())
    assert equal(values(state.average), values(network))


@pytest.mark.parametrize("damage", ["lacks", "has a damaged"])
def test_damaged_first_weights_are_refused(started: tuple[Directory, nn.Module], damage: str):
    run, _ = started
    file = Path(run.url, INIT, WEIGHTS)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()
    if damage == "has a damaged":
        file.write_bytes(content)
    with pytest.raises(StorageError, match=f"{INIT} {damage} {WEIGHTS}; delete it"):
        initial_state(configured(), CPU, run)


def test_the_published_weights_are_read_as_they_were_written(started: tuple[Directory, nn.Module]):
    run, network = started
    assert equal(load_file(Path(run.url, INIT, WEIGHTS)), values(network))
