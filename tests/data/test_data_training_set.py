import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_dataset
from tiny_dataset import SIDE, numbered, opened

from ray_diffusion.config.schema import Data
from ray_diffusion.data.locality import choose_locality
from ray_diffusion.data.manifest import Shard
from ray_diffusion.data.order import ORDER_VERSION
from ray_diffusion.data.training_set import TrainingSet, open_split, open_training_set
from ray_diffusion.errors import DataError, UsageError

MIB = 2**20


def configured(url: str, *others: str, **keys: Any) -> Data:
    return Data(dataset_url=url, mixture_urls=others, image_size=SIDE, **keys)


def order(data: TrainingSet, count: int = 300) -> list[list[int]]:
    return np.stack(data.mixture(0).part(0, count, 0, 1)).tolist()


@pytest.fixture
def large(tmp_path: Path) -> str:
    """A dataset that says of itself to have shards of 10 MiB each."""
    shards = [Shard(f"train-{i}.tar", 50, 10 * MIB, i, "") for i in range(40)]
    url = str(tmp_path / "large")
    tiny_dataset.write(url, [], splits={"train": tuple(shards), "val": (shards[0],)})
    return url


def test_a_checkpointed_order_survives_another_cache(large: str):
    small = open_training_set(configured(large, cache_bytes=100 * MIB))
    state = json.loads(json.dumps(small.order_state()))  # as a checkpoint keeps it
    resumed = open_training_set(configured(large, cache_bytes=4000 * MIB))
    assert order(resumed) != order(small)
    assert order(resumed.in_order(state)) == order(small)
    assert resumed.in_order(state).cache_bytes == 4000 * MIB


def test_an_order_of_another_version_is_refused_in_one_line(large: str):
    data = open_training_set(configured(large))
    with pytest.raises(UsageError) as error:
        data.in_order(data.order_state() | {"version": ORDER_VERSION + 1})
    assert str(error.value) == (
        f"the checkpoint reads its data in order version {ORDER_VERSION + 1}, this program in "
        f"version {ORDER_VERSION}; choose another run.name"
    )


def test_the_layout_is_chosen_for_the_batch_and_each_ones_share_of_the_cache(large: str):
    data = configured(large, large, global_batch_size=60, cache_bytes=900 * MIB)
    found = open_training_set(data)
    chosen = choose_locality(found.datasets[0].shards, 60, 450 * MIB)
    assert found.localities == (chosen, chosen)
    assert found.explain() == "; ".join([open_training_set_of(large, 450 * MIB).explain()] * 2)
    assert found.open_shards(1) == 2 * open_training_set_of(large, 450 * MIB).open_shards(1)


def open_training_set_of(url: str, cache_bytes: int) -> TrainingSet:
    return open_training_set(configured(url, global_batch_size=60, cache_bytes=cache_bytes))


def test_a_mixture_is_by_default_by_numbers_of_images(tmp_path: Path):
    for name, sizes in (("one", [5, 7]), ("two", [4])):
        tiny_dataset.write(f"{tmp_path}/{name}", numbered(sizes))
    urls = f"{tmp_path}/one", f"{tmp_path}/two"
    data = open_training_set(configured(*urls))
    assert data.weights == (12.0, 4.0)
    assert len(data) == 16
    assert open_training_set(configured(*urls, mixture_weights=(1, 9))).weights == (1.0, 9.0)
    assert [str(place) for place in data.places] == [
        f"{tmp_path}/one/train-0.tar",
        f"{tmp_path}/one/train-1.tar",
        f"{tmp_path}/two/train-0.tar",
    ]


def test_the_fingerprint_of_one_is_its_own_and_of_a_mixture_hangs_on_all_of_it(tmp_path: Path):
    one, two = f"{tmp_path}/one", f"{tmp_path}/two"
    first = tiny_dataset.write(one, numbered([3]))
    tiny_dataset.write(two, numbered([3], first=9))
    assert opened(one).fingerprint == first.fingerprint
    mixtures = [
        opened(one, two),
        opened(two, one),
        opened(one, two, weights=(1.0, 2.0)),
        opened(one, one),
        opened(one),
    ]
    assert len({mixture.fingerprint for mixture in mixtures}) == len(mixtures)
    assert opened(one, two).fingerprint == mixtures[0].fingerprint


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({"classes": ("a", "b")}, "classes ('a', 'b'), {one} ('a', 'b', 'c')"),
        ({"channels": 3}, "channels 3, {one} 1"),
    ],
    ids=["classes", "channels"],
)
def test_datasets_that_do_not_go_together_are_refused(
    tmp_path: Path, said: dict[str, Any], what: str
):
    one, two = f"{tmp_path}/one", f"{tmp_path}/two"
    tiny_dataset.write(one, numbered([3]))
    tiny_dataset.write(two, numbered([3]), **said)
    with pytest.raises(DataError) as error:
        open_training_set(configured(one, two))
    assert str(error.value) == (
        f"data.mixture_urls: {two} has {what.format(one=one)}; mixed datasets must agree"
    )


def test_a_mixed_dataset_of_another_image_size_is_refused(tmp_path: Path):
    one, two = f"{tmp_path}/one", f"{tmp_path}/two"
    tiny_dataset.write(one, numbered([3]))
    tiny_dataset.write(two, numbered([3]), image_size=8)
    with pytest.raises(DataError, match="holds images of 8 pixels"):
        open_training_set(configured(one, two))


def test_the_configuration_says_what_becomes_of_bad_examples(tmp_path: Path):
    tiny_dataset.write(str(tmp_path), numbered([3]))
    data = configured(str(tmp_path), corrupt_policy="mask", max_corrupt=0.5)
    for policy in (
        open_training_set(data, "elsewhere").policy,
        open_split(data, "val", "elsewhere").policy,
    ):
        assert (policy.action, policy.most, policy.quarantine_url) == ("mask", 0.5, "elsewhere")


def test_a_training_set_is_the_same_in_another_process(tmp_path: Path):
    tiny_dataset.write(str(tmp_path), numbered([3, 4]))
    data = opened(str(tmp_path))
    data.datasets[0].read(0, 1)
    copy = pickle.loads(pickle.dumps(data))
    assert (copy.fingerprint, order(copy, 50)) == (data.fingerprint, order(data, 50))
    data.datasets[0].close()
