"""Samplers: sampler(denoise, x, sigmas) -> x, walking a falling grid of sigmas from x = sigmas[0] * noise.

denoise(x, sigma) -> x0_hat, where x = x0 + sigma * noise. The variance-preserving x_t of Ho et al. is
sqrt(alpha_bar) times this x; the reverse process is the same in both coordinates and shorter in this one.
A callback(i, x, x0_hat), if given, sees every step.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]
Callback = Callable[[int, Tensor, Tensor], None]


def ddim(denoise: Denoise, x: Tensor, sigmas: Tensor, eta: float = 0.0, callback: Callback | None = None) -> Tensor:
    """Equation 12 of Song et al. 2021: eta 0 is deterministic DDIM, eta 1 DDPM with its small variance."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        noise = eta * sigma_next * torch.sqrt(1 - (sigma_next / sigma) ** 2)  # equation 16, over sqrt(alpha_bar)
        x = x0 + torch.sqrt(sigma_next**2 - noise**2) * (x - x0) / sigma
        if eta > 0:
            x = x + noise * torch.randn_like(x)
        if callback is not None:
            callback(i, x, x0)
    return x


def ddpm(denoise: Denoise, x: Tensor, sigmas: Tensor, large: bool = False, callback: Callback | None = None) -> Tensor:
    """Ancestral sampling, Algorithm 2 of Ho et al. 2020, with variance beta_tilde or, `large`, beta (section 3.2)."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        mean, variance = posterior(x, x0, sigma, sigma_next)
        if large and sigma_next > 0:
            variance = (sigma**2 - sigma_next**2) * (1 + sigma_next**2) / (1 + sigma**2)
        x = mean + torch.sqrt(variance) * torch.randn_like(x)
        if callback is not None:
            callback(i, x, x0)
    return x


def posterior(x: Tensor, x0: Tensor, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of q(x_next | x, x0): equations 6 and 7 of Ho et al. 2020, over sqrt(alpha_bar_next)."""
    shrink = (sigma_next / sigma) ** 2
    return x0 + shrink * (x - x0), sigma_next**2 * (1 - shrink)
