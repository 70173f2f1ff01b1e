"""DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095): exponential integrators of the predicted x0, with and without noise.

As in samplers.py, x = x0 + sigma * noise, so alpha is 1, lambda is -ln sigma, and h is what lambda gains in a step.
"""

import math
from collections import deque

import torch
from torch import Tensor

from genzoo.diffusion.samplers import Callback, Denoise, posterior, walk

Past = deque[tuple[float, Tensor]]  # (lambda, x0_hat) of the latest steps, the last one last


def dpmpp_2s(denoise: Denoise, x: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
    """Algorithm 1, singlestep: x0_hat from the middle of the step in lambda. 2S - 1 network calls."""

    def step(x: Tensor, x0: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        middle = torch.sqrt(sigma * sigma_next)
        u = x0 + middle / sigma * (x - x0)
        return sigma_next / sigma * x + (1 - sigma_next / sigma) * denoise(u, middle)

    return walk(denoise, step, x, sigmas, callback)


def dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
    """Algorithm 2, multistep: x0_hat extrapolated from the last two. S network calls."""
    past: Past = deque(maxlen=2)

    def step(x: Tensor, x0: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        past.append((-math.log(sigma), x0))
        h = math.log(sigma / sigma_next)
        return math.exp(-h) * x - math.expm1(-h) * halfway(past, h)

    return walk(denoise, step, x, sigmas, callback)


def dpmpp_3m(denoise: Denoise, x: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
    """2M with the parabola through the last three x0_hats, integrated exactly. S network calls.

    The authors' code and others take half of its second derivative, with which the order is 2.
    """
    past: Past = deque(maxlen=3)

    def step(x: Tensor, x0: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        past.append((-math.log(sigma), x0))
        h = math.log(sigma / sigma_next)
        if len(past) < 3:
            return math.exp(-h) * x - math.expm1(-h) * halfway(past, h)
        first, second = derivatives(past)
        phi = h + math.expm1(-h)
        return math.exp(-h) * x - math.expm1(-h) * x0 + phi * first + (h**2 / 2 - phi) * second

    return walk(denoise, step, x, sigmas, callback)


def halfway(past: Past, h: float) -> Tensor:
    """x0_hat at half the step h, on the line through the last two; after a first step, the last one."""
    if len(past) < 2:
        return past[-1][1]
    (lambda_1, x1), (lambda_0, x0) = list(past)[-2:]
    return x0 + h / (2 * (lambda_0 - lambda_1)) * (x0 - x1)


def derivatives(past: Past) -> tuple[Tensor, Tensor]:
    """The first and second in lambda, at the last of three x0_hats, of the parabola through them."""
    (lambda_2, x2), (lambda_1, x1), (lambda_0, x0) = past
    new, old = (x0 - x1) / (lambda_0 - lambda_1), (x1 - x2) / (lambda_1 - lambda_2)
    second = 2 * (new - old) / (lambda_0 - lambda_2)
    return new + (lambda_0 - lambda_1) / 2 * second, second


# --- On the reverse SDE.


def dpmpp_sde(denoise: Denoise, x: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
    """2S on the reverse SDE, as k-diffusion's sampler of this name with eta 1. 2S - 1 network calls.

    x / sigma^2 has a Brownian motion in the time 1 / sigma^2 for its noise (Ho et al.'s posterior says so), of which
    the way to the middle is a part: what is drawn for it belongs to the whole step, too.
    """

    def step(x: Tensor, x0: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        middle = torch.sqrt(sigma * sigma_next)
        early, late = torch.randn_like(x), torch.randn_like(x)
        part = sigma_next / (sigma + sigma_next)  # of the step's time that passes before the middle
        u = ancestor(x, x0, sigma, middle, early)
        whole = torch.sqrt(part) * early + torch.sqrt(1 - part) * late
        return ancestor(x, denoise(u, middle), sigma, sigma_next, whole)

    return walk(denoise, step, x, sigmas, callback)


def dpmpp_2m_sde(denoise: Denoise, x: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
    """SDE-DPM-Solver++(2M), the paper's equation 19: 2M on the reverse SDE. S network calls."""
    past: Past = deque(maxlen=2)

    def step(x: Tensor, x0: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        past.append((-math.log(sigma), x0))
        x0 = halfway(past, math.log(sigma / sigma_next))
        return ancestor(x, x0, sigma, sigma_next, torch.randn_like(x))

    return walk(denoise, step, x, sigmas, callback)


def ancestor(x: Tensor, x0: Tensor, sigma: Tensor, sigma_next: Tensor, noise: Tensor) -> Tensor:
    """A draw of q(x_next | x, x0), made with the standard normal `noise`."""
    mean, variance = posterior(x, x0, sigma, sigma_next)
    return mean + torch.sqrt(variance) * noise
