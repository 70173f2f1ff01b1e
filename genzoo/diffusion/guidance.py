"""What is done to x0_hat before a sampler sees it: guidance towards a condition, and limits.

predict(x, sigma, y) -> x0_hat, y (n, ...) raw conditions, such as class ids, or None for their null.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from genzoo.diffusion.samplers import Denoise

Predict = Callable[..., Tensor]


def classifier_free(
    predict: Predict,
    y: Tensor | None,
    guide: Predict | None = None,
    scale: float = 1.0,
    interval: Sequence[float] = (0.0, math.inf),
) -> Denoise:
    """D = D_weak + scale (D_strong - D_weak) (Ho & Salimans 2022, equation 6, with scale = 1 + w).

    D_strong is predict with y. D_weak is predict without y or, given a `guide`, which is a smaller or less trained
    model, guide with y (autoguidance, Karras et al. 2024). scale 1 is D_strong and 0 is D_weak, both exactly and in
    one network call; others cost two. interval: of sigma, outside which the scale is 1 (Kynkäänniemi et al. 2024).
    """
    strong = partial(predict, y=y)
    weak = partial(guide, y=y) if guide else partial(predict, y=None)
    low, high = interval

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        inside = (low < sigma) & (sigma <= high)  # () or (n, 1, 1, 1), where each image has its own sigma
        if scale == 1 or not inside.any():
            return strong(x, sigma)
        if scale == 0 and inside.all():
            return weak(x, sigma)
        x0 = strong(x, sigma)
        return torch.where(inside, torch.lerp(weak(x, sigma), x0, scale), x0)

    return strong if y is None and guide is None else denoise


def clip(x0: Tensor) -> Tensor:
    """To [-1, 1], as Ho et al.'s code does."""
    return x0.clamp(-1, 1)


def dynamic_threshold(x0: Tensor, share: float = 0.995) -> Tensor:
    """Each image scaled down until that share of its values is within [-1, 1], the rest clipped (Saharia et al. 2022,
    section 2.3)."""
    s = torch.quantile(x0.flatten(1).abs(), share, dim=1).clamp(min=1).view(-1, 1, 1, 1)
    return x0.clamp(-s, s) / s
