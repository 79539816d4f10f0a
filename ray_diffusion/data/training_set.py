"""What a run reads: one dataset or a mixture of several, and how their order is laid out."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from ray_diffusion.config.schema import Data
from ray_diffusion.data.corruption import CorruptPolicy
from ray_diffusion.data.locality import Locality, choose_locality, explain, open_shards
from ray_diffusion.data.manifest import Manifest
from ray_diffusion.data.mixture import Mixture
from ray_diffusion.data.order import ORDER_VERSION, Order
from ray_diffusion.data.reader import Dataset
from ray_diffusion.data.shards import Place
from ray_diffusion.errors import DataError, UsageError


@dataclass(frozen=True)
class TrainingSet:
    """The train splits that a run reads.

    Attributes:
        datasets: One, or several that are mixed; all of one kind of image and the same classes.
        weights: How often an example comes from each.
        localities: How the order of each is laid out.
    """

    datasets: tuple[Dataset, ...]
    weights: tuple[float, ...]
    localities: tuple[Locality, ...]

    def __len__(self) -> int:
        return sum(map(len, self.datasets))

    @property
    def manifest(self) -> Manifest:
        """What holds for all of the images: their size, channels and classes."""
        return self.datasets[0].manifest

    @property
    def fingerprint(self) -> str:
        """Another one for other data; of a single dataset, that dataset's own."""
        found = [dataset.manifest.fingerprint for dataset in self.datasets]
        if len(found) == 1:
            return found[0]
        return hashlib.sha256(repr((found, self.weights)).encode()).hexdigest()[:16]

    @property
    def places(self) -> list[Place]:
        """All shards, numbered on through the datasets."""
        return [place for dataset in self.datasets for place in dataset.places]

    @property
    def cache_bytes(self) -> int:
        """Disk that shards may take."""
        return self.datasets[0].cache_bytes

    @property
    def policy(self) -> CorruptPolicy:
        """What becomes of examples that cannot be used."""
        return self.datasets[0].policy

    def mixture(self, seed: int) -> Mixture:
        """The order of all examples."""
        orders, first_shards, shards = [], [], 0
        for dataset, locality in zip(self.datasets, self.localities, strict=True):
            orders.append(Order(_sizes(dataset), seed, *locality))
            first_shards.append(shards)
            shards += len(dataset.shards)
        return Mixture(orders, first_shards, self.weights)

    def open_shards(self, world: int) -> int:
        """How many shards one of the workers reads from at a time."""
        pairs = zip(self.datasets, self.localities, strict=True)
        return sum(open_shards(locality, _sizes(dataset), world) for dataset, locality in pairs)

    def explain(self) -> str:
        """How the order is laid out, in words."""
        pairs = zip(self.datasets, self.localities, strict=True)
        return "; ".join(explain(locality, dataset.shards) for dataset, locality in pairs)

    def order_state(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that a resumed run reads on in the same order."""
        return {"version": ORDER_VERSION, "localities": [list(one) for one in self.localities]}

    def in_order(self, state: dict[str, Any]) -> Self:
        """The same data in the order of an earlier run, whatever the cache may hold now.

        Args:
            state: What ``order_state`` returned then.

        Raises:
            UsageError: If this program has another order.
        """
        if state["version"] != ORDER_VERSION:
            raise UsageError(
                f"the checkpoint reads its data in order version {state['version']}, this program "
                f"in version {ORDER_VERSION}; choose another run.name"
            )
        return replace(self, localities=tuple(Locality(*one) for one in state["localities"]))


def open_split(data: Data, split: str, quarantine_url: str | None = None) -> Dataset:
    """Open a split of the dataset that a configuration names.

    Args:
        data: The configuration.
        split: ``"train"``, ``"val"`` or ``"test"``.
        quarantine_url: See ``CorruptPolicy``.

    Raises:
        DataError: If it cannot be read, or does not suit the configuration.
    """
    return _opened(data, data.dataset_url, split, quarantine_url)


def open_training_set(data: Data, quarantine_url: str | None = None) -> TrainingSet:
    """Open what a configuration trains on.

    Args:
        data: The configuration.
        quarantine_url: See ``CorruptPolicy``.

    Raises:
        DataError: If a dataset cannot be read, does not suit the configuration, or the others.
    """
    urls = (data.dataset_url, *data.mixture_urls)
    datasets = tuple(_opened(data, url, "train", quarantine_url) for url in urls)
    first = datasets[0]
    for other in datasets[1:]:
        for name in ("channels", "classes"):
            ours, theirs = getattr(first.manifest, name), getattr(other.manifest, name)
            if ours != theirs:
                raise DataError(
                    f"data.mixture_urls: {other.url} has {name} {theirs}, {first.url} {ours}; "
                    "mixed datasets must agree"
                )
    share = data.cache_bytes // len(datasets)
    return TrainingSet(
        datasets,
        data.mixture_weights or tuple(float(len(dataset)) for dataset in datasets),
        tuple(choose_locality(d.shards, data.global_batch_size, share) for d in datasets),
    )


def _opened(data: Data, url: str, split: str, quarantine_url: str | None) -> Dataset:
    policy = CorruptPolicy(data.corrupt_policy, data.max_corrupt, quarantine_url)
    return Dataset(url, split, data.image_size, data.cache_bytes, policy)


def _sizes(dataset: Dataset) -> Sequence[int]:
    return [shard.examples for shard in dataset.shards]
