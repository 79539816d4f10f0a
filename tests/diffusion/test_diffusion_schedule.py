import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ray_diffusion.diffusion.schedule import MAX_BETA, SCHEDULES, linear, logsnr_table, table

STEPS = [2, 3, 20, 50, 999, 1000, 10_000]


@pytest.mark.parametrize("T", STEPS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_step_adds_noise_and_leaves_signal(name: str, T: int):
    betas = SCHEDULES[name](T)
    assert betas.shape == (T,)
    assert betas.dtype == torch.float64
    assert ((betas > 0) & (betas <= MAX_BETA)).all()
    logsnr = table(name, T)
    assert logsnr.shape == (T,)
    assert logsnr.dtype == torch.float64
    assert logsnr.isfinite().all()
    assert (logsnr.diff() < 0).all()
    alpha_bar = torch.sigmoid(logsnr)
    assert ((alpha_bar > 0) & (alpha_bar < 1)).all()
    assert (alpha_bar.diff() < 0).all()


@pytest.mark.parametrize("T", STEPS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_table_gives_the_betas_back(name: str, T: int):
    betas = SCHEDULES[name](T)
    log_alpha_bar = torch.nn.functional.logsigmoid(logsnr_table(betas))
    before = torch.cat([torch.zeros(1, dtype=torch.float64), log_alpha_bar[:-1]])
    # A difference of logarithms of size up to 40 keeps 1e-14 of it; the least beta is 1e-7.
    torch.testing.assert_close(-torch.expm1(log_alpha_bar - before), betas, rtol=1e-6, atol=1e-14)


@pytest.mark.parametrize(("name", "logsnr"), [("linear", -10.12), ("cosine", -19.84)])
def test_the_last_of_1000_steps_is_where_the_papers_put_it(name: str, logsnr: float):
    assert round(float(table(name, 1000)[-1]), 2) == logsnr


@pytest.mark.parametrize("T", [50, 100, 250, 500, 1000, 2000, 4000])
def test_linear_ends_in_about_the_same_noise_for_any_number_of_steps(T: int):
    # 0.28 % of the signal at T = 50 and 0.65 % at T = 4000, of which 0.63 % at T = 1000.
    assert 0.0027 < torch.sigmoid(table("linear", T)[-1]).sqrt() < 0.0066


def test_without_its_scale_linear_would_leak_signal():
    unscaled = torch.linspace(1e-4, 0.02, 250, dtype=torch.float64)
    assert torch.sigmoid(logsnr_table(unscaled)[-1]).sqrt() == pytest.approx(0.28, abs=0.005)


def test_linear_at_few_steps_is_clamped_and_finite():
    assert linear(20)[-1] == MAX_BETA
    assert table("linear", 20).isfinite().all()


def test_a_schedule_that_leaks_signal_is_refused_with_its_share():
    # Betas that sum to about 1: exp(-1 / 2) is 61 %.
    with pytest.raises(ValueError, match="the linear schedule keeps 61% of the signal, more than"):
        table("linear", 1000, beta_start=0.001, beta_end=0.001)


def test_options_of_other_schedules_are_ignored():
    torch.testing.assert_close(table("cosine", 50, beta_end=0.5), table("cosine", 50))
    torch.testing.assert_close(table("linear", 50, s=0.5), table("linear", 50))


@given(st.lists(st.floats(1e-7, MAX_BETA), min_size=2, max_size=50))
def test_any_betas_give_a_decreasing_table(betas: list[float]):
    logsnr = logsnr_table(torch.tensor(betas, dtype=torch.float64))
    assert logsnr.isfinite().all()
    assert (logsnr.diff() < 0).all()
