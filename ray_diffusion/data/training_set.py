"""What a run reads: one dataset or a mixture of several, and how their order is laid out."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from ray_diffusion.config.schema import Data
from ray_diffusion.data.builtin import resolve
from ray_diffusion.data.corruption import CorruptPolicy
from ray_diffusion.data.locality import Locality, choose_locality, explain, open_shards
from ray_diffusion.data.manifest import Manifest, read_manifest
from ray_diffusion.data.mixture import Mixture
from ray_diffusion.data.order import ORDER_VERSION, Order
from ray_diffusion.data.reader import Dataset
from ray_diffusion.data.shards import Place
from ray_diffusion.errors import DataError, UsageError


@dataclass(frozen=True)
class TrainingSet:
    """The train splits that a run reads.

    Attributes:
        datasets: One, or several that are mixed; all of one kind of image and the same classes,
            or of latents of one codec.
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
        """What holds for all of the images: their size, channels and classes.

        Of latents, mean and deviation are the first dataset's.
        """
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
        of_other = _in_common(other.manifest)
        for name, ours in _in_common(first.manifest).items():
            if ours != (theirs := of_other.get(name)):
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


def images_of(data: Data) -> Data:
    """The configuration of the images whose latents a configuration trains on.

    Args:
        data: The configuration.

    Returns:
        One of the dataset that ``data.dataset_url`` was encoded from, alone; ``data`` itself if
        that holds images.

    Raises:
        DataError: If there is no such dataset any more, or another one in its place.
        StorageError: If the storage cannot be read.
    """
    url = resolve(data.dataset_url, data.image_size)
    manifest = read_manifest(url)
    latents = manifest.latents
    if latents is None:
        return data
    found = read_manifest(resolve(latents.images_url, manifest.image_size)).fingerprint
    if found != latents.images:
        raise DataError(
            f"{url} was encoded from {latents.images_url} with fingerprint {latents.images}; what "
            f"is there now has fingerprint {found}: encode it again"
        )
    return data.model_copy(
        update={
            "dataset_url": latents.images_url,
            "mixture_urls": (),
            "mixture_weights": (),
            "codec": None,
            "latent_size": None,
        }
    )


def _opened(data: Data, url: str, split: str, quarantine_url: str | None) -> Dataset:
    policy = CorruptPolicy(data.corrupt_policy, data.max_corrupt, quarantine_url)
    dataset = Dataset(url, split, data.image_size, data.cache_bytes, policy)
    _refuse_other_latents(data, dataset, split)
    return dataset


def _refuse_other_latents(data: Data, dataset: Dataset, split: str) -> None:
    """What is trained on must be what the configuration says of it."""
    url, latents = dataset.url, dataset.manifest.latents
    if latents is None:
        for key, value in (("codec", data.codec), ("latent_size", data.latent_size)):
            if value is not None:
                raise DataError(
                    f"data.{key}: {value}, but {url} holds images; encode it with "
                    f"`python -m ray_diffusion.encode`, or leave data.{key} out"
                )
        return
    if data.codec not in (None, latents.codec):
        raise DataError(
            f"data.codec: {data.codec}, but {url} was encoded by {latents.codec}; choose another "
            "data.dataset_url, or leave data.codec out"
        )
    if data.latent_size not in (None, latents.size):
        raise DataError(
            f"data.latent_size: {data.latent_size}, but {url} holds latents of side "
            f"{latents.size}; leave data.latent_size out"
        )
    if data.horizontal_flip and split == "train" and not latents.mirrored:
        raise DataError(
            f"data.horizontal_flip: {url} was encoded without mirror images; encode it again with "
            "horizontal_flip=true, or set data.horizontal_flip=false"
        )


def _in_common(manifest: Manifest) -> dict[str, object]:
    """What mixed datasets must agree in."""
    latents = manifest.latents
    found: dict[str, object] = {"channels": manifest.channels, "classes": manifest.classes}
    if latents is None:
        return found | {"codec": None}
    return found | {
        "codec": latents.codec,
        "latent channels": latents.channels,
        "latent size": latents.size,
        "moments": latents.moments,
        "mirror images": latents.mirrored,
    }


def _sizes(dataset: Dataset) -> Sequence[int]:
    return [shard.examples for shard in dataset.shards]
