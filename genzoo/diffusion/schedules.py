"""Noise schedules as alpha_bar over the training steps, and the grids of sigmas that samplers walk down."""

import math

import torch
from torch import Tensor


def linear(steps: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02) -> Tensor:
    """alpha_bar (steps,) in float64 of betas that grow linearly (Ho et al. 2020, section 4).

    The two betas are those of 1000 steps; for another number they are scaled so that the whole noise stays.
    """
    scale = 1000 / steps
    betas = torch.linspace(scale * beta_min, scale * beta_max, steps, dtype=torch.float64).clamp(max=0.999)
    return torch.cumprod(1 - betas, dim=0)


def cosine(steps: int = 1000, offset: float = 0.008, beta_max: float = 0.999) -> Tensor:
    """alpha_bar (steps,) in float64 of the cosine schedule (Nichol & Dhariwal 2021, equation 17)."""
    u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    f = torch.cos((u + offset) / (1 + offset) * math.pi / 2) ** 2
    betas = (1 - f[1:] / f[:-1]).clamp(max=beta_max)
    return torch.cumprod(1 - betas, dim=0)


def sigmas_of(alpha_bar: Tensor) -> Tensor:
    """Noise to signal: x_t / sqrt(alpha_bar) = x0 + sigma * noise with sigma = sqrt((1 - alpha_bar) / alpha_bar)."""
    return torch.sqrt((1 - alpha_bar) / alpha_bar)


def trailing(sigmas: Tensor, steps: int) -> Tensor:
    """`steps` of the increasing `sigmas`, evenly spaced and counted from the noisiest one, falling, and a last 0.

    The "trailing" spacing of Lin et al. 2024 (Table 2), which always starts at the noisiest step.
    """
    total = len(sigmas)
    if not 1 <= steps <= total:
        raise ValueError(f"steps={steps} is not between 1 and the {total} steps of the noise schedule")
    t = torch.arange(total, 0, -total / steps, dtype=torch.float64).round().long()[:steps] - 1
    return torch.cat([sigmas[t.to(sigmas.device)], sigmas.new_zeros(1)])
