"""Samplers against Ho et al.'s formulas, diffusers' schedulers, and Gaussian data whose denoiser is known."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from genzoo.diffusion.samplers import ddim, ddpm, posterior
from genzoo.diffusion.schedules import linear, sigmas_of, trailing

ALPHA_BAR = linear()
SIGMAS = sigmas_of(ALPHA_BAR)


def eps_net(x_t: Tensor, t: int) -> Tensor:
    """A smooth noise predictor with no meaning, in variance-preserving coordinates."""
    return torch.sin(x_t + 0.003 * t) + 0.3 * x_t


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    """The same as x0_hat of x = x0 + sigma * noise."""
    t = int((SIGMAS - sigma).abs().argmin())
    return x - sigma * eps_net(x / torch.sqrt(1 + sigma**2), t)


def gaussian(x: Tensor, sigma: Tensor, mean: float = 0.4, std: float = 0.5) -> Tensor:
    """E[x0 | x] of data N(mean, std^2)."""
    return (std**2 * x + sigma**2 * mean) / (std**2 + sigma**2)


def start(grid: Tensor, *shape: int) -> Tensor:
    return grid[0] * torch.randn(*shape, dtype=grid.dtype)


# --- The posterior q(x_{t-1} | x_t, x_0).


def test_posterior_is_ho_et_al() -> None:
    """Equations 6 and 7 in their own coordinates, at all steps: 1e-12."""
    x_0, x_t = torch.randn(2, 999, dtype=torch.float64)
    ab, ab_prev = ALPHA_BAR[1:], ALPHA_BAR[:-1]
    alpha, beta = ab / ab_prev, 1 - ab / ab_prev
    mean = ab_prev.sqrt() * beta / (1 - ab) * x_0 + alpha.sqrt() * (1 - ab_prev) / (1 - ab) * x_t
    variance = (1 - ab_prev) / (1 - ab) * beta
    ours_mean, ours_variance = posterior(x_t / ab.sqrt(), x_0, SIGMAS[1:], SIGMAS[:-1])
    np.testing.assert_allclose(ab_prev.sqrt() * ours_mean, mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ab_prev * ours_variance, variance, rtol=0, atol=1e-12)


def test_posterior_is_bayes() -> None:
    """q(x_next | x, x0) q(x | x0) = q(x | x_next) q(x_next | x0), all of them Gaussian."""
    x0, x, x_next = torch.randn(3, 999, dtype=torch.float64)
    sigma, sigma_next = SIGMAS[1:], SIGMAS[:-1]

    def log_normal(value: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return -0.5 * (value - mean) ** 2 / variance - 0.5 * torch.log(2 * math.pi * variance)

    # x_next at its own scale, since the last posteriors are narrow
    mean, variance = posterior(x0 + sigma * x, x0, sigma, sigma_next)
    x_next = mean + variance.sqrt() * x_next
    left = log_normal(x_next, mean, variance) + log_normal(x0 + sigma * x, x0, sigma**2)
    right = log_normal(x0 + sigma * x, x_next, sigma**2 - sigma_next**2) + log_normal(x_next, x0, sigma_next**2)
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-9)


def test_posterior_ends_at_x0() -> None:
    x, x0 = torch.randn(2, 5)
    mean, variance = posterior(x, x0, torch.tensor(0.3), torch.tensor(0.0))
    assert torch.equal(mean, x0) and variance == 0


# --- Against diffusers.


def walked(scheduler: DDIMScheduler | DDPMScheduler, x: Tensor, steps: int, **options: float) -> Tensor:
    """diffusers' own loop from x_T in its coordinates, with its float32 schedule in float64."""
    np.testing.assert_allclose(scheduler.alphas_cumprod, ALPHA_BAR, rtol=2e-5)
    scheduler.alphas_cumprod, scheduler.final_alpha_cumprod = ALPHA_BAR, torch.tensor(1.0)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(eps_net(x, int(t)), int(t), x, **options).prev_sample
    return x


@pytest.mark.parametrize("steps", [1, 8, 50, 1000])  # divisors: diffusers steps to t - T // S, not to the next t
@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_ddim_is_diffusers(steps: int, eta: float) -> None:
    scheduler = DDIMScheduler(
        1000, 1e-4, 0.02, "linear", clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing"
    )
    grid = trailing(SIGMAS, steps)
    x = start(grid, 4, 3)
    torch.manual_seed(1)
    ours = ddim(denoise, x, grid, eta=eta)
    torch.manual_seed(1)
    theirs = walked(scheduler, x / torch.sqrt(1 + grid[0] ** 2), steps, eta=eta)
    np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("steps", "large", "variance_type"),
    # with fewer steps diffusers' fixed_large adds noise to the last one, too
    [(50, False, "fixed_small"), (1000, False, "fixed_small"), (1000, True, "fixed_large")],
)
def test_ddpm_is_diffusers(steps: int, large: bool, variance_type: str) -> None:
    scheduler = DDPMScheduler(
        1000, 1e-4, 0.02, "linear", variance_type=variance_type, clip_sample=False, timestep_spacing="trailing"
    )
    grid = trailing(SIGMAS, steps)
    x = start(grid, 4, 3)
    torch.manual_seed(1)
    ours = ddpm(denoise, x, grid, large=large)
    torch.manual_seed(1)
    theirs = walked(scheduler, x / torch.sqrt(1 + grid[0] ** 2), steps)
    np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-8)


# --- Among themselves and against data that is known.


@pytest.mark.parametrize("steps", [1, 10, 1000])
def test_ddpm_is_ddim_with_eta_one(steps: int) -> None:
    grid = trailing(SIGMAS, steps)
    x = start(grid, 8)
    torch.manual_seed(1)
    ancestral = ddpm(denoise, x, grid)
    torch.manual_seed(1)
    np.testing.assert_allclose(ddim(denoise, x, grid, eta=1.0), ancestral, rtol=1e-9, atol=1e-9)


def test_large_variance_is_beta() -> None:
    """With x0_hat = x the mean stays where it is, and what one step adds is the noise alone."""
    for t in (1, 10, 500, 999):
        beta = 1 - ALPHA_BAR[t] / ALPHA_BAR[t - 1]
        x = torch.zeros(1, dtype=torch.float64)
        torch.manual_seed(1)
        y = ddpm(lambda x, _: x, x, torch.stack([SIGMAS[t], SIGMAS[t - 1]]), large=True)
        torch.manual_seed(1)
        noise = torch.randn(1, dtype=torch.float64)
        np.testing.assert_allclose(y * ALPHA_BAR[t - 1].sqrt(), beta.sqrt() * noise, rtol=1e-10)


@pytest.mark.parametrize(
    "sampler", [ddpm, partial(ddpm, large=True), ddim, partial(ddim, eta=1.0)], ids=["ddpm", "large", "ddim", "eta=1"]
)
def test_gaussian_data_comes_back(sampler) -> None:
    """With the exact denoiser of N(0.4, 0.5^2) and all steps, samples have that mean and deviation."""
    grid = trailing(SIGMAS, 1000)
    x = sampler(gaussian, start(grid, 20_000), grid)
    assert x.mean() == pytest.approx(0.4, abs=4 * 0.5 / math.sqrt(20_000))
    assert x.std() == pytest.approx(0.5, rel=0.03)


def test_ddim_step_on_gaussian_data_is_the_closed_form() -> None:
    """A step is linear in x: with c = std^2 / (std^2 + sigma^2), x - mean shrinks by c + (1 - c) sigma' / sigma."""
    grid = trailing(SIGMAS, 20)
    x = start(grid, 6)
    c = 0.25 / (0.25 + grid[:-1] ** 2)
    factor = torch.prod(c + (1 - c) * grid[1:] / grid[:-1])
    np.testing.assert_allclose(ddim(gaussian, x, grid), 0.4 + factor * (x - 0.4), rtol=1e-10)


@pytest.mark.parametrize("sampler", [ddim, ddpm])
def test_a_grid_may_end_above_zero(sampler) -> None:
    """Data that is one point: what is left at the last sigma is that much noise."""
    x = sampler(lambda x, _: torch.full_like(x, 0.2), start(SIGMAS[-1:], 20_000), SIGMAS.flip(0)[:501])
    assert (x - 0.2).std() == pytest.approx(float(SIGMAS[499]), rel=0.03)


@pytest.mark.parametrize("sampler", [ddim, ddpm])
def test_callback_sees_every_step(sampler) -> None:
    seen = []
    grid = trailing(SIGMAS, 12)
    x = sampler(denoise, start(grid, 2, 3), grid, callback=lambda i, x, x0: seen.append((i, x, x0)))
    assert [i for i, _, _ in seen] == list(range(12))
    assert torch.equal(seen[-1][1], x) and torch.equal(seen[-1][2], x)  # the last step lands on x0_hat
    assert all(x0.shape == (2, 3) for _, _, x0 in seen)


@pytest.mark.parametrize("sampler", [ddim, ddpm])
def test_input_is_left_alone(sampler) -> None:
    grid = trailing(SIGMAS, 3)
    x = start(grid, 4)
    held = x.clone()
    sampler(denoise, x, grid)
    assert torch.equal(x, held)
