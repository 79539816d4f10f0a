import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from ray_diffusion.diffusion.random import BLOCK, Draws, generator, per_example_noise

NAMES = st.lists(st.integers(-(2**40), 2**40) | st.text(max_size=8), min_size=1, max_size=4)


def draw(*name: str | int) -> Tensor:
    return torch.rand(4, generator=generator(*name))


@given(NAMES)
def test_the_same_name_gives_the_same_draw(name: list[str | int]):
    assert draw(*name).equal(draw(*name))


@given(NAMES, NAMES)
def test_another_name_gives_another_draw(name: list[str | int], other: list[str | int]):
    assume(name != other)
    assert not draw(*name).equal(draw(*other))


@pytest.mark.parametrize(
    "other",
    [("step", 0, 128, 1), ("step", 0, 256, 0), ("step", 1, 128, 0), ("flip", 0, 128, 0),
     ("step", "0", 128, 0), ("step", 0, 12, 80)],
)  # fmt: skip
def test_every_part_of_a_name_counts(other: tuple[str | int, ...]):
    assert not draw("step", 0, 128, 0).equal(draw(*other))


def test_a_draw_does_not_touch_the_global_generator():
    before = torch.get_rng_state()
    draw("anything")
    assert torch.get_rng_state().equal(before)


def test_neighbouring_names_are_uncorrelated():
    n = 10_000
    first, second = (torch.randn(n, generator=generator("step", 0, i, 0)) for i in (128, 256))
    assert abs((first * second).mean()) < 4 / n**0.5


def test_the_arithmetic_of_names_is_frozen():
    # Runs are continued, and images made again, by versions to come.
    draws = torch.randint(1000, (4,), generator=generator("step", 0, 0, 0))
    assert draws.tolist() == [276, 928, 511, 657]


def test_noise_of_an_example_does_not_depend_on_the_others():
    noise = per_example_noise("x_T", 7, [3, 0, 3], (2, 4), "cpu")
    assert noise.shape == (3, 2, 4)
    assert noise[0].equal(noise[2])
    assert noise[1].equal(per_example_noise("x_T", 7, [0], (2, 4), "cpu")[0])
    assert not noise[0].equal(noise[1])
    assert not noise.equal(per_example_noise("step 0", 7, [3, 0, 3], (2, 4), "cpu"))
    assert not noise.equal(per_example_noise("x_T", 8, [3, 0, 3], (2, 4), "cpu"))


@given(st.integers(1, 3 * BLOCK), st.lists(st.integers(1, 3 * BLOCK), max_size=4))
def test_places_draw_the_same_however_a_batch_is_divided(batch: int, cuts: list[int]):
    def drawn(places: range) -> list[Tensor]:
        draws = Draws("step", 0, 0, places=places)
        return [draws.normal(2, 3), draws.uniform(), draws.normal()]

    edges = [0, *sorted({cut for cut in cuts if cut < batch}), batch]
    parts = [drawn(range(*edges[i : i + 2])) for i in range(len(edges) - 1)]
    for whole, *divided in zip(drawn(range(batch)), *parts, strict=True):
        assert torch.cat(divided).equal(whole)


def test_no_two_places_draw_the_same_and_none_what_another_name_draws():
    n = 4 * BLOCK
    noise = torch.cat([Draws("step", 0, seen, places=range(n)).normal(64) for seen in (0, n)])
    correlation = torch.corrcoef(noise).fill_diagonal_(0)
    assert correlation.abs().max() < 6 / 64**0.5


def test_places_draw_by_a_standard_normal_and_a_uniform_law():
    draws = Draws("step", 0, 0, places=range(5, 5 + 400 * BLOCK))
    for values, law in (
        (draws.normal(2).flatten(), torch.special.ndtr),
        (draws.uniform(), lambda share: share),
    ):
        n = len(values)
        distance = law(values.sort().values.double()) - (torch.arange(n) + 0.5) / n
        assert distance.abs().max() < 1.95 / n**0.5  # Kolmogorov and Smirnov, 1 in 1000


def test_the_draws_of_places_are_frozen():
    draws = Draws("step", 0, 0, places=range(30, 34))
    assert (draws.uniform() * 1000).long().tolist() == [395, 699, 705, 30]
