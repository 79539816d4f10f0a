import torch
from torch import nn

from ray_diffusion.models.embedding import LEAST, MOST, LogsnrEmbedding


def waves(logsnr: torch.Tensor, count: int = 32) -> torch.Tensor:
    """What the small network is shown."""
    embedding = LogsnrEmbedding(count, 8)
    embedding.mlp = nn.Identity()
    return embedding(logsnr)


def test_no_two_levels_look_alike():
    levels = torch.linspace(LEAST, MOST, 401)  # 0.1 apart
    assert torch.pdist(waves(levels)).min() > 0.1


def test_near_levels_look_alike():
    levels = torch.linspace(LEAST, MOST, 401)
    steps = (waves(levels)[1:] - waves(levels)[:-1]).norm(dim=1)
    # Each of 16 waves moves by its frequency times 0.1: sqrt(sum of squares) at most 1.02.
    assert steps.max() < 1.03


def test_a_level_beyond_the_span_looks_like_its_end():
    beyond, ends = torch.tensor([-36.0, 36.0]), torch.tensor([LEAST, MOST])
    assert waves(beyond).equal(waves(ends))


def test_levels_are_embedded_in_float32_whatever_they_come_in():
    levels = torch.tensor([-7.3, 0.0, 4.2], dtype=torch.float64)
    assert waves(levels).equal(waves(levels.float()))
