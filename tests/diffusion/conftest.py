"""Data whose denoiser is known: a mixture of three Gaussians in four dimensions, as images of 1 x 2 x 2."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

STD = 0.3
CENTRES = (
    torch.tensor([[1.0, 0.3, -0.5, 0.2], [-0.7, 0.8, 0.4, -0.2], [-0.2, -0.9, 0.1, 0.6]]).view(3, 1, 2, 2).double()
)


def mixture_mean(x: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | x], exact; x (n, 1, 2, 2), sigma () or (n, 1, 1, 1)."""
    variance, centres = STD**2 + sigma**2, CENTRES.to(x)
    distances = (x[:, None] - centres).square().flatten(2).sum(2)  # (n, 3)
    weights = torch.softmax(-distances / (2 * variance.reshape(-1, 1)), 1)
    mean = (weights[:, :, None, None, None] * centres).sum(1)
    return (STD**2 * x + sigma**2 * mean) / variance


@pytest.fixture(scope="session")
def mixture() -> Callable[[Tensor, Tensor], Tensor]:
    return mixture_mean
