"""Schedules and grids against diffusers' and against their definitions."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from genzoo.diffusion.schedules import cosine, linear, sigmas_of, trailing


@pytest.mark.parametrize(("ours", "theirs"), [(linear, "linear"), (cosine, "squaredcos_cap_v2")])
def test_alpha_bar_is_diffusers(ours, theirs: str) -> None:
    expected = DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02, beta_schedule=theirs).alphas_cumprod
    assert ours(1000).dtype == torch.float64
    np.testing.assert_allclose(ours(1000), expected, rtol=2e-5)  # theirs is a float32 product of 1000 factors


@pytest.mark.parametrize("steps", [10, 50, 250, 1000, 4000])
@pytest.mark.parametrize("schedule", [linear, cosine])
def test_alpha_bar_falls_to_noise(schedule, steps: int) -> None:
    alpha_bar = schedule(steps)
    assert alpha_bar.shape == (steps,)
    assert (alpha_bar.diff() < 0).all()
    assert 0 < alpha_bar[-1] < 1e-3 and alpha_bar[0] < 1


def test_linear_keeps_the_whole_noise() -> None:
    # sum of betas, which is -log(alpha_bar_T) to first order, does not depend on the number of steps
    betas = [1 - torch.cat([a[:1], a[1:] / a[:-1]]) for a in (linear(1000), linear(100), linear(250))]
    np.testing.assert_allclose([b.sum() for b in betas], (1e-4 + 0.02) / 2 * 1000, rtol=1e-12)


def test_sigma_is_noise_over_signal() -> None:
    alpha_bar = linear()
    sigma = sigmas_of(alpha_bar)
    np.testing.assert_allclose(1 / (1 + sigma**2), alpha_bar, rtol=1e-12)
    assert (sigma.diff() > 0).all()


@given(st.data(), st.integers(1, 1000))
def test_trailing_falls_from_the_noisiest_to_zero(data: st.DataObject, total: int) -> None:
    steps = data.draw(st.integers(1, total))
    sigmas = sigmas_of(cosine(total))
    grid = trailing(sigmas, steps)
    assert grid.shape == (steps + 1,)
    assert (grid.diff() < 0).all()
    assert grid[0] == sigmas[-1] and grid[-1] == 0
    assert torch.isin(grid[:-1], sigmas).all()


def test_trailing_of_all_steps_is_all() -> None:
    sigmas = sigmas_of(linear())
    assert torch.equal(trailing(sigmas, 1000)[:-1], sigmas.flip(0))


@pytest.mark.parametrize("steps", [3, 7, 30, 64, 999])
def test_trailing_steps_are_diffusers(steps: int) -> None:
    scheduler = DDPMScheduler(1000, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    assert torch.equal(trailing(torch.arange(1000), steps)[:-1], scheduler.timesteps)


@pytest.mark.parametrize("steps", [-1, 0, 11])
def test_steps_out_of_range(steps: int) -> None:
    with pytest.raises(ValueError, match=rf"steps={steps} is not between 1 and the 10 steps"):
        trailing(torch.arange(1.0, 11), steps)
