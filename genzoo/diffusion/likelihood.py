"""How likely a diffusion model finds x: its variational bound, and the density its probability-flow ODE carries.

denoise(x, sigma) -> x0_hat, where x = x0 + sigma * noise; sigma is () or (n, 1, 1, 1). x is (n, C, H, W) in [-1, 1],
and what is returned, nats of the density there, belongs to the sampler that starts at sigma_max * noise.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from torch.special import log_ndtr

from genzoo.diffusion.samplers import Denoise, reverse_variances

Trace = Callable[[Tensor], Tensor]
StepKL = Callable[[Tensor, Tensor, Tensor], Tensor]

BIN = 1 / 127.5  # the width of one of the 256 levels in [-1, 1]

# --- The variational bound.


class Bound(NamedTuple):
    """The parts of -log p(x) <= prior + diffusion + reconstruction, each (n,) nats; only their sum has a meaning
    that two models share."""

    prior: Tensor
    diffusion: Tensor
    reconstruction: Tensor


def variational_bound(
    denoise: Denoise, x: Tensor, sigmas: Tensor, terms: int | None = None, kl: StepKL | None = None
) -> Bound:
    """The bound of the ancestral sampler over the falling, positive grid `sigmas`, at one draw of noise a term.

    x: the levels u / 127.5 - 1 of 8-bit images; the density is the level's probability over its bin's width.
    terms: network calls an image for `diffusion`, an unbiased estimate from random steps; None, or as many as there
        are steps, takes every step. One more call goes to the reconstruction.
    kl: (x, sigma, sigma_next) -> (n,) nats of a step; None is `step_kl`, that of the sampler with the small variance.
    Ho et al. 2020, equation 5.
    """
    kl = kl or partial(step_kl, denoise)
    every = terms is None or terms >= len(sigmas) - 1
    steps, factors = every_step(x, sigmas) if every else random_steps(x, sigmas, terms)  # (terms, n)
    prior = x.flatten(1).square().sum(1) / (2 * sigmas[0] ** 2)  # KL(N(x, sigma^2 I) || N(0, sigma^2 I))
    diffusion = torch.zeros_like(prior)
    for step, factor in zip(steps, factors, strict=True):
        diffusion += factor * kl(x, sigmas[step], sigmas[step + 1])
    return Bound(prior, diffusion, reconstruction(denoise, x, sigmas[-1]))


def every_step(x: Tensor, sigmas: Tensor) -> tuple[Tensor, Tensor]:
    """The steps of the grid, all with factor 1, each (len(sigmas) - 1, n)."""
    steps = torch.arange(len(sigmas) - 1, device=x.device)[:, None].expand(-1, len(x))
    return steps, torch.ones_like(steps, dtype=x.dtype)


def random_steps(x: Tensor, sigmas: Tensor, terms: int) -> tuple[Tensor, Tensor]:
    """Steps drawn for each image, and the factors with which their KLs sum to that of all in the mean, (terms, n).

    A step's KL is half the squared error of the predicted noise times the step's length in log SNR, so steps are
    drawn by that length, one from each of `terms` equal strata of it (cf. Kingma et al. 2021, appendix I.1).
    """
    lengths = torch.log(sigmas[:-1] / sigmas[1:])
    p = lengths / lengths.sum()
    strata = torch.arange(terms, device=x.device) + torch.rand(len(x), terms, device=x.device)  # (n, terms)
    steps = torch.searchsorted(p.cumsum(0), (strata / terms).to(p)).clamp(max=len(p) - 1).T
    return steps, (1 / (terms * p[steps])).to(x)


def step_kl(denoise: Denoise, x: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """KL(q(x_next | x_t, x) || p(x_next | x_t)) at one draw of x_t, (n,) nats; sigma, sigma_next (n,).

    Both are Gaussians of one variance, and what remains is equation 14 of Kingma et al. 2021.
    """
    noisy = sigma.view(-1, 1, 1, 1)
    error = x - denoise(x + noisy * torch.randn_like(x), noisy)
    return 0.5 * (1 / sigma_next**2 - 1 / sigma**2) * error.flatten(1).square().sum(1)


def learned_kl(x: Tensor, x0: Tensor, variance: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """KL(q(x_next | x_t, x) || N(mean, variance)), (n,) nats, whose mean is q's with x0 for x (Nichol & Dhariwal 2021,
    equation 4); x0, variance (n, C, H, W), sigma, sigma_next (n, 1, 1, 1)."""
    gap = (1 - (sigma_next / sigma) ** 2) * (x - x0)
    ratio = reverse_variances(sigma, sigma_next)[0] / variance
    return 0.5 * (ratio - 1 - ratio.log() + gap.square() / variance).flatten(1).sum(1)


def reconstruction(denoise: Denoise, x: Tensor, sigma: Tensor) -> Tensor:
    """-log p(x | x_1), (n,) nats: N(x0_hat, sigma^2) over each level's bin, the two end bins open (Ho et al. 2020,
    equation 13)."""
    mu = denoise(x + sigma * torch.randn_like(x), sigma)
    lower = torch.where(x < -0.999, -math.inf, (x - BIN / 2 - mu) / sigma)
    upper = torch.where(x > 0.999, math.inf, (x + BIN / 2 - mu) / sigma)
    return -(log_normal_mass(lower, upper) - math.log(BIN)).flatten(1).sum(1)


def log_normal_mass(lower: Tensor, upper: Tensor) -> Tensor:
    """log P(lower < z < upper) of z ~ N(0, 1), precise in both tails."""
    right = lower + upper > 0  # where the mass is that of the mirrored interval, computed without cancellation
    lower, upper = torch.where(right, -upper, lower), torch.where(right, -lower, upper)
    log_upper = log_ndtr(upper)
    return log_upper + torch.log1p(-torch.exp(log_ndtr(lower) - log_upper))


# --- The probability-flow ODE.


def ode_log_prob(
    denoise: Denoise,
    x: Tensor,
    sigma_min: float,
    sigma_max: float,
    trace: Trace,
    rtol: float = 1e-5,
    atol: float = 1e-5,
) -> Tensor:
    """(n,) nats of the density at x of N(0, sigma_max^2 I) carried from sigma_max down to sigma_min.

    dx / d sigma = (x - denoise(x, sigma)) / sigma (Karras et al. 2022, equation 3), and the log-density falls along
    it by the divergence (Song et al. 2021, equation 39). Solved by Runge-Kutta 5(4) in log sigma for the bounded
    y = x / sqrt(1 + sigma^2). One step size serves the whole batch, so that the batch decides the result within
    the tolerance. `x` must be continuous: dequantised images. Raises ValueError where the solver gives up.

    denoise: differentiable in x, that is, without clipping.
    trace: x -> the probes of the divergence: `exact`, `hutchinson`, or a partial of it with more of them.
    """
    probes, shape, d = trace(x), x.shape, x[0].numel()  # (k, n, C, H, W)

    def slope(log_sigma: float, state: np.ndarray) -> np.ndarray:
        sigma, scale = math.exp(log_sigma), math.hypot(1, math.exp(log_sigma))
        y = torch.from_numpy(state[: x.numel()]).to(x).view(shape)
        x0, traces = denoise_and_trace(denoise, scale * y, x.new_tensor(sigma), probes)
        return packed((y / scale - x0) / scale, d / scale**2 - traces)

    start, end = math.log(sigma_min), math.log(sigma_max)
    state = packed(x / math.hypot(1, sigma_min), x.new_zeros(len(x)))
    solution = solve_ivp(slope, (start, end), state, "RK45", t_eval=[end], rtol=rtol, atol=atol)
    if not solution.success:
        raise ValueError(f"The probability-flow ODE has no solution for this model ({solution.message}): train it on.")
    y, gained = np.split(solution.y[:, 0], [x.numel()])
    log_start = log_normal(y.reshape(len(x), d), sigma_max / math.hypot(1, sigma_max))
    log_p = log_start + gained - d * math.log(math.hypot(1, sigma_min))  # of y at sigma_min, then of x
    return torch.from_numpy(log_p).to(x)


def packed(y: Tensor, log_p: Tensor) -> np.ndarray:
    """The solver's flat float64 state of all images and their log-densities."""
    return torch.cat([y.flatten(), log_p]).cpu().double().numpy()


def log_normal(x: np.ndarray, std: float) -> np.ndarray:
    """log N(x; 0, std^2 I) of rows (n, d), (n,)."""
    return -0.5 * np.sum((x / std) ** 2 + math.log(2 * math.pi * std**2), axis=1)


def denoise_and_trace(denoise: Denoise, x: Tensor, sigma: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
    """x0_hat and the sum over the probes v of v^T (d x0_hat / dx) v, (n,)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        x0 = denoise(x, sigma)
    products = [torch.autograd.grad(x0, x, v, retain_graph=True)[0] * v for v in probes]
    return x0.detach(), torch.stack(products).sum(0).flatten(1).sum(1)


def exact(x: Tensor) -> Tensor:
    """The D unit vectors (D, n, C, H, W) as probes: the trace itself, at D products an evaluation."""
    d = x[0].numel()
    return torch.eye(d, dtype=x.dtype, device=x.device).view(d, 1, *x.shape[1:]).expand(-1, len(x), -1, -1, -1)


def hutchinson(x: Tensor, probes: int = 1) -> Tensor:
    """Random signs (probes, n, C, H, W) over sqrt(probes): an unbiased trace (Hutchinson 1990; in a flow, FFJORD,
    Grathwohl et al. 2019), the same along the whole path, so that the solver sees a smooth function."""
    signs = torch.randint_like(x[:, None].expand(-1, probes, -1, -1, -1), 2) * 2 - 1  # image first: its own draws
    return signs.transpose(0, 1) / math.sqrt(probes)
