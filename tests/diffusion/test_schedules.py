"""Schedules against diffusers' and against their definitions."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler

from genzoo.diffusion.schedules import cosine, flow, karras, linear, log_linear, sigmoid, time_of

SCHEDULES = [linear, cosine, sigmoid, karras, log_linear, flow]


def alpha_bar(sigmas: torch.Tensor) -> torch.Tensor:
    return 1 / (1 + sigmas**2)


@pytest.mark.parametrize(("ours", "theirs"), [(linear, "linear"), (cosine, "squaredcos_cap_v2")])
def test_alpha_bar_is_diffusers(ours, theirs: str) -> None:
    expected = DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02, beta_schedule=theirs).alphas_cumprod
    np.testing.assert_allclose(alpha_bar(ours(1000)), expected, rtol=2e-5)  # theirs is a float32 product


def test_karras_is_diffusers() -> None:
    scheduler = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, rho=7.0, sigma_schedule="karras")
    scheduler.set_timesteps(40)
    np.testing.assert_allclose(karras(40).flip(0), scheduler.sigmas[:-1], rtol=1e-5)


def test_log_linear_is_diffusers() -> None:
    scheduler = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_schedule="exponential")
    scheduler.set_timesteps(40)
    np.testing.assert_allclose(log_linear(40).flip(0), scheduler.sigmas[:-1], rtol=1e-5)


@pytest.mark.parametrize("steps", [2, 10, 50, 1000, 4000])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_sigmas_rise_to_noise(schedule, steps: int) -> None:
    sigmas = schedule(steps)
    assert sigmas.shape == (steps,) and sigmas.dtype == torch.float64
    assert (sigmas.diff() > 0).all() and sigmas[0] > 0
    if steps >= 10:
        assert alpha_bar(sigmas[-1]) < 4e-3 and sigmas.isfinite().all()


def test_linear_keeps_the_whole_noise() -> None:
    # sum of betas, which is -log(alpha_bar_T) to first order, does not depend on the number of steps
    bars = [alpha_bar(linear(steps)) for steps in (1000, 100, 250)]
    betas = [1 - torch.cat([a[:1], a[1:] / a[:-1]]) for a in bars]
    np.testing.assert_allclose([b.sum() for b in betas], (1e-4 + 0.02) / 2 * 1000, rtol=1e-9)


@pytest.mark.parametrize(("start", "end", "tau"), [(-3.0, 3.0, 1.0), (0.0, 3.0, 0.7)])
def test_sigmoid_is_its_formula(start: float, end: float, tau: float) -> None:
    def logistic(z: float) -> float:
        return 1 / (1 + math.exp(-z))

    first, last = logistic(start / tau), logistic(end / tau)
    ends = [(last - logistic((start + (end - start) * i / 200) / tau)) / (last - first) for i in range(1, 200)]
    np.testing.assert_allclose(alpha_bar(sigmoid(200, start, end, tau))[:-1], ends, rtol=1e-9)


def test_flow_is_a_straight_path() -> None:
    t = flow(500) / (1 + flow(500))
    np.testing.assert_allclose(t, (np.arange(500) + 0.5) / 500, rtol=1e-12)
    shifted = flow(500, shift=3) / (1 + flow(500, shift=3))
    np.testing.assert_allclose(shifted, 3 * t / (1 + 2 * t), rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_time_is_the_place_in_the_table(schedule, dtype: torch.dtype) -> None:
    sigmas = schedule().float()
    assert torch.equal(time_of(sigmas, sigmas.to(dtype)), torch.arange(1000, dtype=dtype))
    between = torch.sqrt(sigmas.double()[1:] * sigmas.double()[:-1])
    torch.testing.assert_close(time_of(sigmas, between), torch.arange(999.0).double() + 0.5, rtol=0, atol=2e-4)
    assert time_of(sigmas, torch.tensor([0.0, 1e9])).tolist() == [0, 999]


def test_the_time_of_log_linear_is_edms_c_noise() -> None:
    sigma = torch.logspace(-2, 1, 50, dtype=torch.float64)
    slope, shift = np.polyfit(sigma.log() / 4, time_of(log_linear(), sigma), 1)
    np.testing.assert_allclose(time_of(log_linear(), sigma), slope * sigma.log() / 4 + shift, rtol=1e-9)
