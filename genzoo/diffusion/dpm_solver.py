"""DPM-Solver (Lu et al. 2022, NeurIPS): singlestep exponential integrators of the predicted noise. The first is `ddim`.

As in samplers.py, x = x0 + sigma * noise, so alpha is 1, lambda is -ln sigma, and h is what lambda gains in a step;
the paper's sigma_s (e^h - 1) is then the sigma that the step takes away. All end above 0 or on x0_hat.
"""

import math

import torch
from torch import Tensor

from genzoo.diffusion.samplers import Callback, Denoise, slope, walk


def dpm_solver_2(denoise: Denoise, x: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
    """Algorithm 1: the noise predicted in the middle of the step in lambda. 2S - 1 network calls."""

    def step(x: Tensor, x0: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        middle = torch.sqrt(sigma * sigma_next)
        u = x - (sigma - middle) * slope(x, x0, sigma)
        return x - (sigma - sigma_next) * slope(u, denoise(u, middle), middle)

    return walk(denoise, step, x, sigmas, callback)


def dpm_solver_3(denoise: Denoise, x: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
    """Algorithm 2, with r1 = 1/3 and r2 = 2/3. 3S - 2 network calls."""

    def step(x: Tensor, x0: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        h = math.log(sigma / sigma_next)
        sigma_1, sigma_2 = sigma * math.exp(-h / 3), sigma * math.exp(-2 * h / 3)
        eps = slope(x, x0, sigma)
        u = x - (sigma - sigma_1) * eps
        d = slope(u, denoise(u, sigma_1), sigma_1) - eps
        u = x - (sigma - sigma_2) * eps - 2 * sigma_2 * phi(2 * h / 3) * d
        d = slope(u, denoise(u, sigma_2), sigma_2) - eps
        return x - (sigma - sigma_next) * eps - 1.5 * sigma_next * phi(h) * d

    return walk(denoise, step, x, sigmas, callback)


def phi(h: float) -> float:
    """(e^h - 1) / h - 1."""
    return math.expm1(h) / h - 1
