"""What the network F is trained to predict: D(x; sigma) = c_skip x + c_out F(c_in x), x = x0 + sigma * noise.

Every parametrisation is a function sigma -> (c_skip, c_out, c_in) (Karras et al. 2022, equation 7), and F's target is
what makes D equal x0.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Coefficients(NamedTuple):
    """Each shaped as sigma."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor


def noise(sigma: Tensor) -> Coefficients:
    """F is the noise of the variance-preserving x_t = x / sqrt(1 + sigma^2) (Ho et al. 2020, section 3.2)."""
    return Coefficients(torch.ones_like(sigma), -sigma, (1 + sigma**2).rsqrt())


def x0(sigma: Tensor) -> Coefficients:
    """F is the image."""
    return Coefficients(torch.zeros_like(sigma), torch.ones_like(sigma), (1 + sigma**2).rsqrt())


def v(sigma: Tensor) -> Coefficients:
    """F is v = alpha noise - sigma x0 of the variance-preserving alpha and sigma (Salimans & Ho 2022, section 4)."""
    alpha = (1 + sigma**2).rsqrt()
    return Coefficients(alpha**2, -sigma * alpha, alpha)


def edm(sigma: Tensor, sigma_data: float = 0.5) -> Coefficients:
    """F has inputs and targets of variance 1 for data of variance sigma_data^2 (Karras et al. 2022, table 1)."""
    total = sigma**2 + sigma_data**2
    return Coefficients(sigma_data**2 / total, sigma * sigma_data * total.rsqrt(), total.rsqrt())


def velocity(sigma: Tensor) -> Coefficients:
    """F is noise - x0, the speed along x_t = (1 - t) x0 + t noise = x / (1 + sigma) (Liu et al. 2023; its sign is that
    of Lipman et al. 2023 with noise at t = 1)."""
    c_in = 1 / (1 + sigma)
    return Coefficients(c_in, -sigma * c_in, c_in)


def target(c: Coefficients, x: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """What F should be for the image x (n, C, H, W) under sigma * noise; written so that no small number is a
    difference of large ones."""
    return (1 - c.c_skip) / c.c_out * x - c.c_skip * sigma / c.c_out * noise
