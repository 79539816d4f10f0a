"""What all tests share."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("no deadline", deadline=None)  # no test asserts a duration
settings.load_profile("no deadline")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """The same sums on every machine, and no slower: the tensors of tests are tiny."""
    torch.set_num_threads(1)
