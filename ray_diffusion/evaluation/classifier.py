"""A small classifier of a dataset's own classes: judge of classes, and source of features."""

import os

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ray_diffusion.data.reader import Dataset
from ray_diffusion.errors import DataError
from ray_diffusion.evaluation.reference import BATCH
from ray_diffusion.models.pixels import encode
from ray_diffusion.models.threads import one_thread
from ray_diffusion.storage import make_cache_dir

VERSION = 2  # raise it with any change below: a kept classifier is found by it
MOST_IMAGES = 50_000  # that it is trained on: the first of a split, which is shuffled
MOST_EPOCHS = 40
LEARNING_IMAGES = 200_000  # seen in all, which bounds the time that a large dataset takes
LEARNING_BATCH = 64
FEATURES = 64


class Classifier(nn.Module):
    """Three convolutions and a layer of features.

    The features are taken before their ReLU: some never pass it on the train split, and one that
    did so on another split would be infinitely far away.
    """

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
        return self.head(self.features(x).relu())  # type: ignore[no-any-return]

    @torch.no_grad()
    def classify(self, images: Tensor) -> Tensor:
        """The most likely class of each image.

        Args:
            images: uint8, shape ``(N, C, H, W)``.

        Returns:
            int64, shape ``(N,)``.
        """
        return torch.cat([self(encode(part)).argmax(1) for part in torch.split(images, BATCH)])


def _fit(model: Classifier, dataset: Dataset) -> None:
    images, labels, *_ = dataset.read(0, min(len(dataset), MOST_IMAGES))
    epochs = max(1, min(MOST_EPOCHS, LEARNING_IMAGES // len(images)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = epochs * -(-len(images) // LEARNING_BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(epochs):
        for part in torch.split(torch.randperm(len(images)), LEARNING_BATCH):
            loss = nn.functional.cross_entropy(model(encode(images[part])), labels[part])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()


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
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(VERSION)
        model = Classifier(manifest.channels, len(manifest.classes))
        if path.exists():
            model.load_state_dict(load_file(path))
        else:
            _fit(model, dataset)
            temporary = path.with_suffix(f".{os.getpid()}.tmp")  # others may train it meanwhile
            save_file(model.state_dict(), temporary)
            temporary.replace(path)
    return model.eval().requires_grad_(False)
