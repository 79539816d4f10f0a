"""Ways to describe images by features, which most figures are distances between.

To add one that needs nothing but the dataset, write a function ``(train) -> Features`` and add it
to ``FEATURES``. Any network that the user has can be given as a file, see ``scripted_features``.
"""

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import Tensor, nn

from ray_diffusion.data.reader import Dataset
from ray_diffusion.errors import UsageError
from ray_diffusion.evaluation.classifier import Classifier, classifier_of
from ray_diffusion.evaluation.distances import Array
from ray_diffusion.evaluation.reference import BATCH, REFERENCE_IMAGES, in_batches
from ray_diffusion.models.pixels import encode
from ray_diffusion.storage import digest

SEED = 0  # of the random convolutions; another one makes other figures
SUFFIX = ".pt"


@dataclass(frozen=True)
class Features:
    """A way to describe images.

    Attributes:
        name: What people call it.
        fingerprint: Digest of its weights; figures made with different ones do not compare.
        embed: Images, uint8 ``(N, C, H, W)`` -> features, float64 ``(N, D)``.
    """

    name: str
    fingerprint: str
    embed: Callable[[Tensor], Array]


@torch.no_grad()
def _run(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    parts = [network(encode(part)) for part in torch.split(images, BATCH)]
    return torch.cat(parts).double()


def _fingerprint(network: nn.Module) -> str:
    weights = (value.numpy().tobytes() for _, value in sorted(network.state_dict().items()))
    return hashlib.sha256(b"".join(weights)).hexdigest()[:16]


def _standardised(name: str, network: nn.Module, train: Dataset) -> Features:
    """Each feature divided by its deviation on the train split: none counts for its scale alone."""
    parts = [_run(network, batch.images) for batch in in_batches(train, REFERENCE_IMAGES)]
    reference = torch.cat(parts)
    center, scale = reference.mean(0), reference.std(0)
    scale[scale <= 1e-6 * scale.max()] = torch.inf  # the same for all images: it says nothing

    def embed(images: Tensor) -> Array:
        return ((_run(network, images) - center) / scale).numpy()

    return Features(name, _fingerprint(network), embed)


def classifier_features(train: Dataset) -> Features:
    """Features of the dataset's own classifier, see ``classifier_of``.

    Args:
        train: The train split.

    Returns:
        64 features, each with mean 0 and deviation 1 on the train split.

    Raises:
        DataError: If the dataset has no classes.
        StorageError: If the cache cannot be written.
    """
    return _standardised("classifier", classifier_of(train).features, train)


def random_features(train: Dataset) -> Features:
    """Features of the classifier's layers with random weights: for datasets without classes.

    Args:
        train: The train split.

    Returns:
        64 features, each with mean 0 and deviation 1 on the train split; the same in each process.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        network = Classifier(train.manifest.channels, classes=2).features
    return _standardised("random", network.eval().requires_grad_(False), train)


FEATURES: dict[str, Callable[[Dataset], Features]] = {
    "classifier": classifier_features,
    "random": random_features,
}


def scripted_features(path: Path, train: Dataset) -> Features:
    """Features of a TorchScript file, such as Inception or DINOv2.

    The module is called with images as the dataset has them, float32 in [-1, 1], shape
    ``(B, C, H, W)``, and must return floats of shape ``(B, D)``. What the network inside wants
    beyond that (another size, three channels, other means) is up to the module. Its features are
    taken as they are, as the published distances do.

    Args:
        path: The file; it runs on the GPU if there is one.
        train: The train split; the module is tried on its first images.

    Returns:
        The features; the file's SHA-256 is their fingerprint.

    Raises:
        UsageError: If there is no such file, it holds no TorchScript module, or the module fails
            on the dataset's images or returns another shape.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not path.is_file():
        raise UsageError(f"features: there is no file {path}")
    try:
        with warnings.catch_warnings():
            # Of torch.jit; but it is what Inception and DINOv2 are handed around as.
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise UsageError(f"features: {path} is not a TorchScript file") from error
    module.eval()

    def call(x: Tensor) -> Tensor:
        where = f"features: {path}, called with float32 {tuple(x.shape)},"
        try:
            found = module(x.to(device))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UsageError(f"{where} failed: {reason}") from error
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(x):
            raise UsageError(f"{where} must return shape ({len(x)}, D), returned {shape}")
        return found.cpu()

    def embed(images: Tensor) -> Array:
        return _run(call, images).numpy()

    embed(train.read(0, 2).images)
    return Features(path.name, str(digest(path)["sha256"]), embed)


def features_of(name: str | None, train: Dataset) -> Features:
    """The features that a request asks for.

    Args:
        name: A key of ``FEATURES`` or the path of a TorchScript file, ``….pt``; None for the
            classifier's, or random ones where the dataset has no classes.
        train: The train split.

    Returns:
        The features.

    Raises:
        UsageError: If there is no such way or file.
        DataError: If the dataset lacks what they need.
    """
    if name is None:
        name = "classifier" if len(train.manifest.classes) > 1 else "random"
    if name.endswith(SUFFIX):
        return scripted_features(Path(name).expanduser(), train)
    if name not in FEATURES:
        near = get_close_matches(name, FEATURES)
        hint = f"did you mean '{near[0]}'?" if near else f"there is {', '.join(FEATURES)}"
        raise UsageError(f"features: no '{name}'; {hint} (or the path of a {SUFFIX} file)")
    return FEATURES[name](train)
