import json
from itertools import chain, islice
from pathlib import Path

import pytest
import tiny_dataset
from tiny_dataset import PLENTY, SIDE, Files, Seen, example, numbered, opened, seen

from ray_diffusion.data.corruption import FREE, CorruptPolicy
from ray_diffusion.data.reader import Batch, Dataset
from ray_diffusion.data.stream import Stream
from ray_diffusion.errors import DataError
from ray_diffusion.storage import Directory

BAD: Files = {"png": b"no image", "cls": b"0"}
# Shard by shard: 1, 2, bad; bad, 4, bad, 5; 6, 7. What stands for each bad one:
SHARDS = [[example(1), example(2), BAD], [BAD, example(4), BAD, example(5)], numbered([2], 6)[0]]
SUBSTITUTES = [1, 2, 1, 4, 4, 5, 5, 6, 7]
N = len(SUBSTITUTES)


def policy(action: str, most: float = 1.0, quarantine_url: str | None = None) -> CorruptPolicy:
    return CorruptPolicy(action, most, quarantine_url)


def global_batches(url: str, of: CorruptPolicy, world: int) -> list[list[tuple[Seen, float]]]:
    """Position, number, label and weight of three epochs, as all workers together read them."""
    data = opened(url, policy=of)
    ranks = [islice(Stream(data, 3, 0, N, rank, world), 3) for rank in range(world)]
    return [sorted(chain(*map(weighted, parts))) for parts in zip(*ranks, strict=True)]


def weighted(batch: Batch) -> list[tuple[Seen, float]]:
    return list(zip(seen(batch), batch.weights.tolist(), strict=True))


def read(url: str, of: CorruptPolicy, count: int = N) -> Batch:
    with Dataset(url, "train", SIDE, PLENTY, of) as dataset:
        return dataset.read(0, count)


def test_by_default_a_bad_example_ends_the_run(url: str):
    tiny_dataset.write(url, SHARDS)
    with pytest.raises(DataError) as error:
        read(url, CorruptPolicy())
    assert str(error.value) == (
        f"{url}/train-0.tar: example 'example-2' cannot be decoded: not an image"
    )


def test_a_substitute_is_the_next_good_example_of_the_shard_from_its_end_on_from_its_start(
    url: str,
):
    tiny_dataset.write(url, SHARDS)
    batch = read(url, policy("substitute"))
    found = [(one.position, one.number, one.label) for one in seen(batch)]
    assert found == [(i, number, number % 3) for i, number in enumerate(SUBSTITUTES)]
    assert batch.weights.tolist() == [1] * N
    assert batch.bad == 3


def test_a_masked_example_is_black_and_has_weight_0(url: str):
    tiny_dataset.write(url, SHARDS)
    batch = read(url, policy("mask"))
    masked = [0 if i in (2, 3, 5) else number for i, number in enumerate(SUBSTITUTES)]
    found = [(one.position, one.number, one.label) for one in seen(batch)]
    assert found == [(i, number, number % 3) for i, number in enumerate(masked)]
    assert batch.weights.tolist() == [float(number > 0) for number in masked]
    assert batch.bad == 3


@pytest.mark.parametrize("action", ["substitute", "mask"])
@pytest.mark.parametrize("world", [2, 3, 9])
def test_any_number_of_workers_treats_bad_examples_alike(tmp_path: Path, action: str, world: int):
    tiny_dataset.write(str(tmp_path), SHARDS)
    expected = global_batches(str(tmp_path), policy(action), 1)
    assert global_batches(str(tmp_path), policy(action), world) == expected
    assert [position for (position, *_), _ in chain(*expected)] == list(range(3 * N))


def test_each_bad_example_leaves_one_file_that_says_what_is_wrong(url: str):
    shards = tiny_dataset.write(url, SHARDS).splits["train"]
    quarantine = Directory(f"{url}-quarantine")
    for world in (1, 3):
        global_batches(url, policy("mask", quarantine_url=quarantine.url), world)
    crcs = [f"{shard.crc32:08x}" for shard in shards]
    names = [f"train-{i}.tar-{crcs[i]}-{at:06d}.json" for i, at in ((0, 2), (1, 0), (1, 2))]
    assert quarantine.names() == names
    assert json.loads(quarantine.read(names[0]) or b"") == {
        "shard": f"{url}/train-0.tar",
        "position": 2,
        "key": "example-2",
        "problem": "cannot be decoded: not an image",
    }


def test_mixed_datasets_share_a_quarantine(tmp_path: Path):
    urls = [f"{tmp_path}/one", f"{tmp_path}/two"]
    for url, number in zip(urls, (1, 9), strict=True):
        tiny_dataset.write(url, [[BAD, example(number)]])
    quarantine = f"{tmp_path}/quarantine"
    next(iter(Stream(opened(*urls, policy=policy("mask", quarantine_url=quarantine)), 0, 0, 4)))
    found = [json.loads(path.read_text())["shard"] for path in Path(quarantine).iterdir()]
    assert sorted(found) == [f"{url}/train-0.tar" for url in urls]


def test_without_a_quarantine_nothing_is_written(tmp_path: Path):
    tiny_dataset.write(f"{tmp_path}/data", SHARDS)
    before = sorted(tmp_path.rglob("*"))
    read(f"{tmp_path}/data", policy("mask"))
    assert sorted(tmp_path.rglob("*")) == before


def test_each_bad_example_is_warned_of_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tiny_dataset.write(str(tmp_path), SHARDS)
    with Dataset(str(tmp_path), "train", SIDE, PLENTY, policy("substitute")) as dataset:
        for _ in range(3):
            dataset.read(0, N)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0] == (
        f"warning: {tmp_path}/train-0.tar: example 'example-2' cannot be decoded: not an image; "
        "data.corrupt_policy=substitute"
    )


@pytest.mark.parametrize("action", ["substitute", "mask"])
def test_too_many_bad_examples_end_the_run_whatever_the_policy(tmp_path: Path, action: str):
    url = str(tmp_path)
    good = numbered([100])[0]
    tiny_dataset.write(url, [[*good, *[BAD] * FREE, *good, BAD]])
    read(url, policy(action, most=0), count=100 + FREE)  # the first are no rate
    read(url, policy(action, most=0.0522), count=211)  # 11 of 211 are 5.21 %
    with pytest.raises(DataError) as error:
        read(url, policy(action, most=0.052), count=211)
    assert str(error.value) == (
        "11 of 211 examples were bad, more than data.max_corrupt, 0.052; the last: "
        f"{url}/train-0.tar: example 'example-210' cannot be decoded: not an image"
    )


def test_a_shard_without_a_good_example_has_no_substitutes(tmp_path: Path):
    tiny_dataset.write(str(tmp_path), [[BAD, BAD]])
    assert read(str(tmp_path), policy("mask"), count=2).weights.tolist() == [0, 0]
    with pytest.raises(DataError) as error:
        read(str(tmp_path), policy("substitute"), count=2)
    assert str(error.value) == f"{tmp_path}/train-0.tar holds no example that can be used"
