"""The digits and their classifier, which takes seconds to train: once for all tests here."""

from collections.abc import Iterator

import pytest

from ray_diffusion.data.reader import Dataset

PLENTY = 1 << 30  # bytes


@pytest.fixture(scope="session")
def digits_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        path = str(tmp_path_factory.mktemp("cache"))
        patch.setenv("XDG_CACHE_HOME", path)
        yield path


@pytest.fixture
def _cached(digits_cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", digits_cache)


@pytest.fixture(scope="session")
def train(digits_cache: str) -> Iterator[Dataset]:
    dataset = Dataset("builtin:digits", "train", 8, PLENTY)
    yield dataset
    dataset.close()


@pytest.fixture(scope="session")
def val(digits_cache: str) -> Iterator[Dataset]:
    dataset = Dataset("builtin:digits", "val", 8, PLENTY)
    yield dataset
    dataset.close()
