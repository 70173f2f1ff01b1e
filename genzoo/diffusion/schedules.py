"""Noise schedules: the rising sigmas, noise over signal, at the T times of training.

x_t / sqrt(alpha_bar_t) = x0 + sigma_t * noise with sigma_t = sqrt((1 - alpha_bar_t) / alpha_bar_t). Every schedule is
such a table (T,) in float64; a network is told the place of sigma in it, which is its time t.
"""

import math

import torch
from torch import Tensor


def linear(steps: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02) -> Tensor:
    """Betas that grow linearly (Ho et al. 2020, section 4).

    The two betas are those of 1000 steps; for another number they are scaled so that the whole noise stays.
    """
    scale = 1000 / steps
    betas = torch.linspace(scale * beta_min, scale * beta_max, steps, dtype=torch.float64).clamp(max=0.999)
    return sigmas_of(torch.cumprod(1 - betas, dim=0))


def cosine(steps: int = 1000, offset: float = 0.008, beta_max: float = 0.999) -> Tensor:
    """alpha_bar falls as a squared cosine (Nichol & Dhariwal 2021, equation 17)."""
    u = (times(steps) + offset) / (1 + offset)
    return falling(torch.cos(u * math.pi / 2) ** 2, beta_max)


def sigmoid(
    steps: int = 1000, start: float = -3.0, end: float = 3.0, tau: float = 1.0, beta_max: float = 0.999
) -> Tensor:
    """alpha_bar falls as a piece of the logistic function (Jabri et al. 2023, appendix B)."""
    u = torch.sigmoid(torch.lerp(*torch.tensor([[start], [end]], dtype=torch.float64), times(steps)) / tau)
    return falling((u[-1] - u) / (u[-1] - u[0]), beta_max)


def karras(steps: int = 1000, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """Equal distances in sigma^(1 / rho) (Karras et al. 2022, equation 5)."""
    ends = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return torch.linspace(*ends, steps, dtype=torch.float64) ** rho


def log_linear(steps: int = 1000, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Tensor:
    """Equal distances in log sigma, so that the time is EDM's c_noise = log(sigma) / 4 but for scale and shift."""
    return torch.logspace(math.log10(sigma_min), math.log10(sigma_max), steps, dtype=torch.float64)


def flow(steps: int = 1000, shift: float = 1.0) -> Tensor:
    """The straight path x_t = (1 - t) x0 + t noise, sigma = t / (1 - t), at the midpoints of T equal parts of (0, 1)
    (Lipman et al. 2023; Liu et al. 2023).

    shift: moves the times towards noise, t -> shift t / (1 + (shift - 1) t) (Esser et al. 2024, equation 23).
    """
    t = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    return shift * t / (1 - t)


def times(steps: int) -> Tensor:
    """The ends of `steps` equal parts of [0, 1], (steps + 1,)."""
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


def falling(curve: Tensor, beta_max: float) -> Tensor:
    """Sigmas (T,) of a curve (T + 1,) proportional to alpha_bar, no step of which takes more than beta_max."""
    betas = (1 - curve[1:] / curve[:-1]).clamp(max=beta_max)
    return sigmas_of(torch.cumprod(1 - betas, dim=0))


def sigmas_of(alpha_bar: Tensor) -> Tensor:
    return torch.sqrt((1 - alpha_bar) / alpha_bar)


def time_of(sigmas: Tensor, sigma: Tensor) -> Tensor:
    """The place of each sigma (n,) in the table: whole at its entries, between them linear in log sigma, and the
    first or last one's beyond the table."""
    table = sigmas.to(sigma.dtype).log()
    log_sigma = sigma.log().clamp(table[0], table[-1])
    below = (torch.bucketize(log_sigma, table, right=True) - 1).clamp(max=len(table) - 2)
    return below + (log_sigma - table[below]) / (table[below + 1] - table[below])


def for_each(sigma: Tensor | float, x: Tensor) -> Tensor:
    """A noise level, () or (n, 1, 1, 1), as (n, 1, 1, 1) where x (n, ...) is.

    One on the host is written on a GPU by a kernel: a copy would wait, and cannot be part of a CUDA graph.
    """
    if isinstance(sigma, Tensor) and sigma.device == x.device:
        return sigma.to(x.dtype).expand(len(x), 1, 1, 1)
    return torch.full((len(x), 1, 1, 1), float(sigma), dtype=x.dtype, device=x.device)
