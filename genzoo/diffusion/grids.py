"""Grids: grid(sigmas, steps) -> (steps + 1,) noise levels that fall to 0, for a sampler to walk down.

sigmas: (T,) rising noise levels of the training steps t = 0, ..., T - 1. All raise ValueError for a number of steps
that they do not have.
"""

import math

import numpy as np
import torch
from torch import Tensor

# --- Whole training steps, as Lin et al. 2024 (Table 2) and diffusers name them.


def trailing(sigmas: Tensor, steps: int) -> Tensor:
    """Evenly spaced and counted from the noisiest one, where it always starts."""
    total = whole(sigmas, steps)
    return down_to_zero(sigmas, np.arange(total, 0, -total / steps).round()[:steps] - 1)


def leading(sigmas: Tensor, steps: int) -> Tensor:
    """Every (T // steps)-th one from t = 0: it starts short of the noisiest, and a single step is only t = 0."""
    total = whole(sigmas, steps)
    return down_to_zero(sigmas, np.arange(steps)[::-1] * (total // steps))


def linspace(sigmas: Tensor, steps: int) -> Tensor:
    """Evenly spaced from t = T - 1 to t = 0, both included; a single step is only t = 0."""
    total = whole(sigmas, steps)
    return down_to_zero(sigmas, np.linspace(0, total - 1, steps).round()[::-1])


def whole(sigmas: Tensor, steps: int) -> int:
    """T. Raises ValueError if `steps` of its steps cannot be chosen."""
    if not 1 <= steps <= len(sigmas):
        raise ValueError(f"steps={steps} is not between 1 and the {len(sigmas)} steps of the noise schedule")
    return len(sigmas)


def down_to_zero(sigmas: Tensor, t: np.ndarray) -> Tensor:
    """sigma at the falling t (steps,), log-linear between whole ones, and a last 0."""
    t = torch.from_numpy(t.astype(np.float64)).to(sigmas.device)
    below = t.long()
    low, high = sigmas[below], sigmas[(below + 1).clamp(max=len(sigmas) - 1)]
    return ending(low * (high / low) ** (t - below).to(sigmas))


def ending(sigmas: Tensor) -> Tensor:
    return torch.cat([sigmas, sigmas.new_zeros(1)])


# --- Any number of steps.


def uniform(sigmas: Tensor, steps: int) -> Tensor:
    """Equal distances in t from T - 1 to 0, between whole steps, too."""
    return down_to_zero(sigmas, np.linspace(len(sigmas) - 1, 0, counted(steps)))


def quadratic(sigmas: Tensor, steps: int) -> Tensor:
    """Equal distances in sqrt(t) from T - 1 to 0 (Song et al. 2021, appendix D.2, which leaves the end open)."""
    return down_to_zero(sigmas, np.linspace(math.sqrt(len(sigmas) - 1), 0, counted(steps)) ** 2)


def log_snr(sigmas: Tensor, steps: int) -> Tensor:
    """Equal distances in log sigma between the ends of the table (Lu et al. 2022, section 3.3)."""
    return ending(torch.exp(ramp(sigmas, sigmas[-1].log(), sigmas[0].log(), steps)))


def karras(
    sigmas: Tensor, steps: int, rho: float = 7.0, sigma_min: float | None = None, sigma_max: float | None = None
) -> Tensor:
    """Equal distances in sigma^(1 / rho) between sigma_max and sigma_min, or the table's ends (Karras et al. 2022,
    equation 5)."""
    low = sigmas[0] if sigma_min is None else sigmas.new_tensor(sigma_min)
    high = sigmas[-1] if sigma_max is None else sigmas.new_tensor(sigma_max)
    return ending(ramp(sigmas, high ** (1 / rho), low ** (1 / rho), steps) ** rho)


def ramp(sigmas: Tensor, start: Tensor, end: Tensor, steps: int) -> Tensor:
    """(steps,) from start to end in equal distances; a single one is the start."""
    u = torch.linspace(0, 1, counted(steps), dtype=sigmas.dtype, device=sigmas.device)
    return start + u * (end - start)


def counted(steps: int) -> int:
    if steps < 1:
        raise ValueError(f"steps={steps} of the sampler is below 1")
    return steps
