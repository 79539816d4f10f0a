"""A small classifier of a dataset's own classes: judge of classes, and source of features."""

import os

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ray_diffusion.data.reader import Dataset
from ray_diffusion.errors import DataError
from ray_diffusion.models.pixels import encode
from ray_diffusion.storage import make_cache_dir

VERSION = 1  # raise it with any change below: figures of another classifier do not compare
EPOCHS = 40
BATCH = 64
FEATURES = 64


class Classifier(nn.Module):
    """Three convolutions and a layer of features."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(256, FEATURES),
        )
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self._classify(self.features(x))

    def _classify(self, features: Tensor) -> Tensor:
        return self.head(features.relu())  # type: ignore[no-any-return]

    @torch.no_grad()
    def describe(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features and most likely class of images.

        Args:
            images: uint8, shape ``(N, C, H, W)``.

        Returns:
            Features, float64, shape ``(N, 64)``, and classes, int64, shape ``(N,)``. Features are
            taken before their ReLU: some never pass it on the train split, and one that did so on
            another split would be infinitely far away.
        """
        features = self.features(encode(images))
        return features.double(), self._classify(features).argmax(1)


def _fit(dataset: Dataset) -> Classifier:
    examples = dataset.read(0, len(dataset))
    x, labels = encode(examples.images), examples.labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(VERSION)
        model = Classifier(x.shape[1], len(dataset.manifest.classes))
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
        steps = EPOCHS * -(-len(x) // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
        for _ in range(EPOCHS):
            for part in torch.split(torch.randperm(len(x)), BATCH):
                loss = nn.functional.cross_entropy(model(x[part]), labels[part])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
    return model


def classifier_of(dataset: Dataset) -> Classifier:
    """The classifier of a dataset; trained on first use, then kept in the cache.

    Args:
        dataset: The train split.

    Returns:
        The classifier, on the CPU, in evaluation mode.

    Raises:
        DataError: If the dataset has no classes.
        StorageError: If the cache cannot be written.
    """
    manifest = dataset.manifest
    if len(manifest.classes) < 2:
        raise DataError(f"{dataset.url} has no classes, so nothing can judge its images by class")
    path = make_cache_dir("classifiers") / f"{manifest.fingerprint}-v{VERSION}.safetensors"
    if path.exists():
        model = Classifier(manifest.channels, len(manifest.classes))
        model.load_state_dict(load_file(path))
    else:
        model = _fit(dataset)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")  # others may train it meanwhile
        save_file(model.state_dict(), temporary)
        temporary.replace(path)
    return model.eval().requires_grad_(False)
