"""UniPC (Zhao et al. 2023): a multistep predictor, which the network call that follows it also corrects.

As in samplers.py, x = x0 + sigma * noise, so alpha is 1, lambda is -ln sigma, and h is what lambda gains in a step.
"""

import math
from collections import deque
from itertools import pairwise

import numpy as np
from torch import Tensor

from genzoo.diffusion.samplers import Callback, Denoise

Point = tuple[float, Tensor]  # lambda and the x0_hat there


def unipc(denoise: Denoise, x: Tensor, sigmas: Tensor, order: int = 2, callback: Callback | None = None) -> Tensor:
    """UniPC-p, p = `order`, of x0_hat (section 3, appendix A) with B(h) = e^h - 1. S network calls.

    The order grows from 1 with the points there are, and falls back to 1 towards a step into 0.
    Raises ValueError for an order below 1.
    """
    if order < 1:
        raise ValueError(f"order={order} of UniPC is below 1")
    past: deque[Point] = deque(maxlen=order)
    corrected, used = x, []
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x0 = denoise(x, sigma)
        here = -math.log(sigma), x0
        corrected = advanced(corrected, used[-1], [*used[:-1], here], here[0]) if i else x  # UniC-p
        past.append(here)
        left = len(sigmas) - 1 - i if sigmas[-1] == 0 else order
        used = list(past)[-left:]
        x = advanced(corrected, here, used[:-1], -math.log(sigma_next)) if sigma_next > 0 else x0  # UniP-p
        if callback is not None:
            callback(i, x, x0)
    return x


def advanced(x: Tensor, start: Point, others: list[Point], end: float) -> Tensor:
    """x at lambda = `end`, of which `x` is the value at `start`, by the polynomial through all points."""
    (here, x0), h = start, end - start[0]
    r = [(there - here) / h for there, _ in others]
    x = math.exp(-h) * x - math.expm1(-h) * x0
    for weight, ratio, (_, other) in zip(weights(h, r), r, others, strict=True):
        x = x + weight / ratio * (other - x0)
    return x


def weights(h: float, r: list[float]) -> list[float]:
    """a_m B(h) of the differences to the points at h r_m: R_p(h) a_p = phi_p(h) / B(h) (Theorem 3.1, of which B falls
    out). A single point has 1/2 for a_1, which keeps the order and is what the authors take."""
    if len(r) < 2:
        return [-math.expm1(-h) / 2] * len(r)
    integral, right = -math.expm1(-h), []
    for k in range(1, len(r) + 1):
        integral = 1 / math.factorial(k) - integral / h
        right.append(math.factorial(k) * integral)
    return np.linalg.solve(np.vander(r, increasing=True).T, right).tolist()
