"""Loss weights: (sigma, c_out) -> the factor on the squared error of the network's target.

An error of F is c_out times as large in x0_hat, so that a weight lambda on x0_hat's is lambda c_out^2 on F's.
"""

import torch
from torch import Tensor


def simple(sigma: Tensor, c_out: Tensor) -> Tensor:
    """1: for a net that predicts noise, L_simple (Ho et al. 2020, equation 14)."""
    return torch.ones_like(sigma)


def snr(sigma: Tensor, c_out: Tensor) -> Tensor:
    """SNR on x0_hat, which is 1 on the noise, whatever is predicted (Salimans & Ho 2022, section 4)."""
    return (c_out / sigma) ** 2


def min_snr(sigma: Tensor, c_out: Tensor, gamma: float = 5.0) -> Tensor:
    """min(SNR, gamma) on x0_hat (Hang et al. 2023, equation 5)."""
    return c_out**2 * (sigma**-2).clamp(max=gamma)


def edm(sigma: Tensor, c_out: Tensor, sigma_data: float = 0.5) -> Tensor:
    """(sigma^2 + sigma_data^2) / (sigma sigma_data)^2 on x0_hat, which is 1 on the target of edm (Karras et al. 2022,
    table 1)."""
    return (sigma**-2 + sigma_data**-2) * c_out**2
