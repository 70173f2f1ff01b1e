"""Which noise levels a batch is trained at: (sigmas, n) -> sigma (n,), from the table of a schedule."""

import torch
from torch import Tensor


def uniform(sigmas: Tensor, n: int) -> Tensor:
    """Each image's time is any of the T."""
    return sigmas[torch.randint(len(sigmas), (n,), device=sigmas.device)]


def low_discrepancy(sigmas: Tensor, n: int) -> Tensor:
    """The batch's times lie at equal distances from one random start, which lowers the loss's variance (Kingma et al.
    2021, appendix I.1)."""
    u = (torch.rand(1, device=sigmas.device) + torch.arange(n, device=sigmas.device) / n) % 1
    return sigmas[(u * len(sigmas)).long().clamp(max=len(sigmas) - 1)]


def log_normal(sigmas: Tensor, n: int, mean: float = -1.2, std: float = 1.2) -> Tensor:
    """log sigma ~ N(mean, std^2) (Karras et al. 2022, table 1), kept within the table's ends.

    As sigma = t / (1 - t) on the straight path, this is also the logit-normal t of Esser et al. 2024, section 3.1.
    """
    sigma = torch.exp(mean + std * torch.randn(n, device=sigmas.device, dtype=sigmas.dtype))
    return sigma.clamp(sigmas[0], sigmas[-1])
