"""Every sampler that diffusers has too gives what diffusers gives, on the exact denoiser of a mixture.

Their schedulers come with the options that make them equal, walk their own grid (which ours is told), and get the same
start and the same noise. Those of DDIM and DDPM are run in float64; the others cast to float32.
"""

import sys
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from itertools import pairwise
from types import ModuleType

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from genzoo.diffusion import grids
from genzoo.diffusion.dpm_solver import dpm_solver_2, dpm_solver_3
from genzoo.diffusion.dpm_solver_pp import dpmpp_2m, dpmpp_2m_sde, dpmpp_2s, dpmpp_sde
from genzoo.diffusion.samplers import ddim, ddpm, ddpm_learned, euler, heun, posterior
from genzoo.diffusion.schedules import linear
from genzoo.diffusion.unipc import unipc

BETAS = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
SIGMAS = linear()
ALPHA_BAR = 1 / (1 + SIGMAS**2)


def close(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


def start(sigma: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return sigma.to(dtype) * torch.randn(5, 1, 2, 2, dtype=dtype)


def seeded(function: Callable[[], Tensor]) -> Tensor:
    torch.manual_seed(1)
    return function()


# --- DDIM and DDPM, in the variance-preserving coordinates sqrt(alpha_bar) x.


def walked(scheduler: DDIMScheduler | DDPMScheduler, net: Callable[[Tensor, int], Tensor], x: Tensor, **options):
    """Their loop from x at its first step, with our schedule for their float32 one.

    They step from t to t - T // S, which is not always the next step of their own list: so S is told at each step
    what makes it so.
    """
    np.testing.assert_allclose(scheduler.alphas_cumprod, ALPHA_BAR, rtol=2e-5)
    scheduler.alphas_cumprod, scheduler.final_alpha_cumprod = ALPHA_BAR, torch.tensor(1.0)
    ts = scheduler.timesteps.tolist()
    x = ALPHA_BAR[ts[0]].sqrt() * x
    for t, t_next in pairwise([*ts, -1]):
        scheduler.num_inference_steps = Fraction(1000, t - t_next)
        x = scheduler.step(net(x, t), t, x, **options).prev_sample
    return x


def noise_net(denoise: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, int], Tensor]:
    """The noise in x_t that belongs to x0_hat."""

    def net(x_t: Tensor, t: int) -> Tensor:
        x0 = denoise(x_t / ALPHA_BAR[t].sqrt(), SIGMAS[t])
        return (x_t - ALPHA_BAR[t].sqrt() * x0) / (1 - ALPHA_BAR[t]).sqrt()

    return net


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
@pytest.mark.parametrize("steps", [2, 7, 50])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim(mixture, spacing: str, steps: int, eta: float) -> None:
    scheduler = DDIMScheduler(1000, **BETAS, clip_sample=False, set_alpha_to_one=True, timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    grid = getattr(grids, spacing)(SIGMAS, steps)
    x = start(grid[0], torch.float64)
    ours = seeded(lambda: ddim(mixture, x, grid, eta=eta))
    close(ours, seeded(lambda: walked(scheduler, noise_net(mixture), x, eta=eta)), 1e-9)


@pytest.mark.parametrize(
    ("steps", "spacing", "large"),
    # with other spacings their fixed_large adds noise to the last step, too
    [(50, "trailing", False), (7, "linspace", False), (1000, "trailing", True), (50, "leading", True)],
)
def test_ddpm(mixture, steps: int, spacing: str, large: bool) -> None:
    kind = "fixed_large" if large else "fixed_small"
    scheduler = DDPMScheduler(1000, **BETAS, variance_type=kind, clip_sample=False, timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    grid = getattr(grids, spacing)(SIGMAS, steps)
    x = start(grid[0], torch.float64)
    ours = seeded(lambda: ddpm(mixture, x, grid, large=large))
    close(ours, seeded(lambda: walked(scheduler, noise_net(mixture), x)), 1e-9)


def test_ddpm_learned(mixture) -> None:
    """Variances between the two fixed ones, by a net that knows where."""
    scheduler = DDPMScheduler(
        1000, **BETAS, variance_type="learned_range", clip_sample=False, timestep_spacing="leading"
    )
    scheduler.set_timesteps(25)

    def net(x_t: Tensor, t: int) -> Tensor:
        return torch.cat([noise_net(mixture)(x_t, t), torch.sin(3 * x_t / ALPHA_BAR[t].sqrt())], 1)

    def moments(x: Tensor, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, Tensor]:
        small = posterior(x, x, sigma, sigma_next)[1]
        large = (sigma**2 - sigma_next**2) * (1 + sigma_next**2) / (1 + sigma**2)
        return mixture(x, sigma), torch.exp(torch.lerp(small.log(), large.log(), (torch.sin(3 * x) + 1) / 2))

    denoise = partial(mixture)
    denoise.moments = moments
    grid = grids.leading(SIGMAS, 25)
    x = start(grid[0], torch.float64)
    ours = seeded(lambda: ddpm_learned(denoise, x, grid))
    close(ours, seeded(lambda: walked(scheduler, net, x)), 1e-9)


# --- k-diffusion's samplers, in our coordinates.


def stepped(scheduler, denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> Tensor:
    """Their loop over their sigmas; the noise they ask for belongs to x0_hat."""
    for i, t in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[i]
        scheduler.scale_model_input(x, t)
        x = scheduler.step((x - denoise(x, sigma)) / sigma, t, x).prev_sample
    return x


@pytest.mark.parametrize("options", [{}, {"use_karras_sigmas": True}, {"timestep_spacing": "trailing"}])
@pytest.mark.parametrize(
    ("sampler", "kind"), [(euler, EulerDiscreteScheduler), (partial(ddim, eta=1.0), EulerAncestralDiscreteScheduler)]
)
def test_euler(mixture, sampler, kind, options: dict) -> None:
    if kind is EulerAncestralDiscreteScheduler and "use_karras_sigmas" in options:
        options = {"timestep_spacing": "leading"}
    scheduler = kind(1000, **BETAS, **options)
    scheduler.set_timesteps(20)
    x = start(scheduler.sigmas[0])
    ours = seeded(lambda: sampler(mixture, x, scheduler.sigmas))
    close(ours, seeded(lambda: stepped(scheduler, mixture, x)), 1e-5)


@pytest.mark.parametrize("karras", [False, True])
def test_heun(mixture, karras: bool) -> None:
    """Their list of sigmas has all but the ends twice, for 2S - 1 calls: so have ours."""
    scheduler = HeunDiscreteScheduler(1000, **BETAS, use_karras_sigmas=karras)
    scheduler.set_timesteps(18)
    seen = []

    def counted(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(sigma)
        return mixture(x, sigma)

    grid = scheduler.sigmas.unique_consecutive()
    x = start(grid[0])
    ours = heun(counted, x, grid)
    assert torch.equal(torch.stack(seen), torch.cat([grid[:1], grid[1:-1].repeat_interleave(2)]))
    assert len(seen) == 2 * 18 - 1 == len(scheduler.timesteps)
    states = iter(seen)
    for t in scheduler.timesteps:
        sigma = next(states)
        scheduler.scale_model_input(x, t)
        x = scheduler.step((x - mixture(x, sigma)) / sigma, t, x).prev_sample
    close(ours, x, 1e-5)


def test_edm_euler(mixture) -> None:
    scheduler = EDMEulerScheduler(sigma_min=0.002, sigma_max=80, sigma_data=0.5, rho=7)
    scheduler.set_timesteps(18)
    x = start(scheduler.sigmas[0])
    close(euler(mixture, x, scheduler.sigmas), stepped_edm(scheduler, mixture, x), 1e-5)


def test_edm_2m(mixture) -> None:
    scheduler = EDMDPMSolverMultistepScheduler(sigma_min=0.002, sigma_max=80, sigma_data=0.5, rho=7, solver_order=2)
    scheduler.set_timesteps(18)
    x = start(scheduler.sigmas[0])
    close(dpmpp_2m(mixture, x, scheduler.sigmas), stepped_edm(scheduler, mixture, x), 1e-5)


def stepped_edm(scheduler, denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> Tensor:
    """Their loop, for a net F in x0_hat = c_skip x + c_out F (Karras et al. 2022, Table 1)."""
    for i, t in enumerate(scheduler.timesteps):
        sigma, data = scheduler.sigmas[i], scheduler.config.sigma_data
        c_skip, c_out = data**2 / (sigma**2 + data**2), sigma * data / (sigma**2 + data**2).sqrt()
        scheduler.scale_model_input(x, t)
        x = scheduler.step((denoise(x, sigma) - c_skip * x) / c_out, t, x).prev_sample
    return x


@pytest.fixture
def dpm_sde(monkeypatch: pytest.MonkeyPatch):
    """Their module wants torchsde for its Brownian tree, which the test replaces."""
    if diffusers.utils.is_torchsde_available():
        return diffusers.DPMSolverSDEScheduler
    monkeypatch.setitem(sys.modules, "torchsde", ModuleType("torchsde"))
    from diffusers.schedulers.scheduling_dpmsolver_sde import DPMSolverSDEScheduler

    return DPMSolverSDEScheduler


def test_dpmpp_sde(mixture, dpm_sde) -> None:
    """Their tree gives the middle and the whole step the noise that ours draws for them."""
    scheduler = dpm_sde(1000, **BETAS, use_karras_sigmas=True)
    scheduler.set_timesteps(20)
    grid = scheduler.sigmas.unique_consecutive()
    x = start(grid[0])
    ours = seeded(lambda: dpmpp_sde(mixture, x, grid))
    torch.manual_seed(1)
    drawn = []
    for sigma, sigma_next in pairwise(grid[:-1]):
        early, late = torch.randn_like(x), torch.randn_like(x)
        part = sigma_next / (sigma + sigma_next)
        drawn += [early, part.sqrt() * early + (1 - part).sqrt() * late]
    scheduler.noise_sampler = lambda sigma, sigma_next: drawn.pop(0)
    whole_and_half = torch.stack([grid[:-2], (grid[:-2] * grid[1:-1]).sqrt()], 1).flatten()
    for sigma, t in zip([*whole_and_half, grid[-2]], scheduler.timesteps, strict=True):
        scheduler.scale_model_input(x, t)
        x = scheduler.step((x - mixture(x, sigma)) / sigma, t, x).prev_sample
    close(ours, x, 1e-5)


# --- Exponential integrators, in the variance-preserving coordinates.


def solved(scheduler, denoise: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> Tensor:
    """Their loop over their sigmas, for a net that predicts x0 (prediction_type="sample")."""
    x = x / torch.sqrt(1 + scheduler.sigmas[0] ** 2)
    for i, t in enumerate(scheduler.timesteps):
        sigma = scheduler.sigmas[i]
        x = scheduler.step(denoise(x * torch.sqrt(1 + sigma**2), sigma), t, x).prev_sample
    return x * torch.sqrt(1 + scheduler.sigmas[-1] ** 2)


@pytest.mark.parametrize("grid", [{}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}])
@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        (dpmpp_2m, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
        (ddim, {"algorithm_type": "dpmsolver++", "solver_order": 1}),
        (dpmpp_2m_sde, {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}),
    ],
)
@pytest.mark.parametrize("steps", [1, 10, 25])
def test_multistep(mixture, sampler, options: dict, grid: dict, steps: int) -> None:
    scheduler = DPMSolverMultistepScheduler(
        1000, **BETAS, **options, **grid, prediction_type="sample", solver_type="midpoint", final_sigmas_type="zero"
    )
    scheduler.set_timesteps(steps)
    x = start(scheduler.sigmas[0])
    ours = seeded(lambda: sampler(mixture, x, scheduler.sigmas))
    close(ours, seeded(lambda: solved(scheduler, mixture, x)), 1e-5)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("grid", [{}, {"use_karras_sigmas": True}])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 25])
def test_unipc(mixture, order: int, grid: dict, steps: int) -> None:
    scheduler = UniPCMultistepScheduler(
        1000,
        **BETAS,
        **grid,
        prediction_type="sample",
        solver_type="bh2",
        solver_order=order,
        lower_order_final=True,
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(steps)
    x = start(scheduler.sigmas[0])
    close(unipc(mixture, x, scheduler.sigmas, order=order), solved(scheduler, mixture, x), 1e-5)


@pytest.mark.filterwarnings("ignore:.*algorithm_types=dpmsolver.*:FutureWarning")
@pytest.mark.parametrize(
    ("sampler", "order", "kind"),
    [
        (ddim, 1, "dpmsolver"),
        (dpm_solver_2, 2, "dpmsolver"),
        (dpm_solver_3, 3, "dpmsolver"),
        (dpmpp_2s, 2, "dpmsolver++"),
    ],
)
def test_singlestep(mixture, sampler, order: int, kind: str) -> None:
    """Their inner stages are points of their grid: a log-uniform one has them where ours put them. In Algorithm 2 of
    DPM-Solver the middle stage is what they call heun, and the last what they call midpoint."""
    scheduler = DPMSolverSinglestepScheduler(
        1000,
        **BETAS,
        algorithm_type=kind,
        solver_order=order,
        prediction_type="sample",
        lower_order_final=False,
        final_sigmas_type="sigma_min",
    )
    steps = 12 * order
    scheduler.set_timesteps(steps)
    scheduler.sigmas = torch.logspace(1.5, -1.5, steps + 1)
    x = start(scheduler.sigmas[0])
    ours = sampler(mixture, x, scheduler.sigmas[::order])
    stages = scheduler.singlestep_dpm_solver_second_order_update

    def second(*args, **options):
        scheduler.register_to_config(solver_type="heun" if order == 3 else "midpoint")
        x = stages(*args, **options)
        scheduler.register_to_config(solver_type="midpoint")
        return x

    scheduler.singlestep_dpm_solver_second_order_update = second
    scheduler.register_to_config(solver_type="midpoint")
    close(ours, solved(scheduler, mixture, x), 1e-5)


# --- Flow matching: x_t = (1 - t) x0 + t noise, so that sigma = t / (1 - t).


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("sampler", [euler, ddim])
def test_flow_matching(mixture, sampler, shift: float) -> None:
    """Euler's rule in t is ours in sigma: their straight line is the same, but seen in other coordinates."""
    scheduler = FlowMatchEulerDiscreteScheduler(1000, shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(0.99, 0.03, 25))
    ts = scheduler.sigmas
    grid = ts / (1 - ts)
    x = start(grid[0])
    ours, x_t = sampler(mixture, x, grid), (1 - ts[0]) * x
    for i, step in enumerate(scheduler.timesteps):
        t = ts[i]
        x0 = mixture(x_t / (1 - t), grid[i])
        velocity = (x_t - x0) / t
        x_t = scheduler.step(velocity, step, x_t).prev_sample
    close(ours, x_t, 1e-5)
