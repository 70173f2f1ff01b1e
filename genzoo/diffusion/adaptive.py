"""The probability-flow ODE by SciPy's adaptive Runge-Kutta method, with a step size for each image of the batch.

SciPy has one step size for its whole state, by which an image would depend on those it is drawn with. So its method,
error estimate and control of the step (scipy.integrate.RK45) are applied here to n states side by side.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from scipy.integrate import RK45
from torch import Tensor

from genzoo.diffusion.samplers import Callback, Denoise


class State(NamedTuple):
    """Where each image is."""

    t: Tensor  # log sigma, (n, 1, 1, 1)
    y: Tensor  # x / sqrt(1 + sigma^2), (n, C, H, W)
    f: Tensor  # dy / dt
    x0: Tensor


Look = Callable[[Tensor, Tensor], State]


def adaptive(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    rtol: float = 1e-3,
    atol: float = 1e-3,
    callback: Callback | None = None,
) -> Tensor:
    """Runge-Kutta 5(4) from sigmas[0] to the last positive sigma, and x0_hat there if the grid then ends in 0.

    Karras et al. 2022, equation 3, in log sigma for the bounded y = x / sqrt(1 + sigma^2), to which the tolerances
    apply; the grid has no say in the steps. 6S + 1 network calls, S the steps of the image that needs most, each with
    the whole batch and every image at its own noise, sigma (n, 1, 1, 1). A callback sees each where it has come to.
    Raises ValueError where a step has to become too small.
    """

    def look(t: Tensor, y: Tensor) -> State:
        x0 = denoise(scale(t) * y, t.exp())
        return State(t, y, (y / scale(t) - x0) / scale(t), x0)

    t, end = (sigma.log().to(x).expand(len(x), 1, 1, 1) for sigma in (sigmas[0], sigmas[sigmas > 0][-1]))
    h, failed, i = torch.full_like(t, -0.1), torch.zeros_like(t, dtype=torch.bool), 0
    state = look(t, x / scale(t))
    while (running := state.t > end).any():
        h = torch.maximum(usable(h, running), end - state.t)
        new, error = attempted(look, state, h, torch.where(h > end - state.t, state.t + h, end), rtol, atol)
        good = error < 1
        state = State(*(torch.where(good, *pair) for pair in zip(new, state, strict=True)))
        factor = (0.9 * error**-0.2).clamp(0.2, 10)
        h, failed = h * torch.where(good & failed, factor.clamp(max=1), factor), ~good  # after failing, no growth
        if callback is not None and ((state.t > end).any() or sigmas[-1] > 0):
            callback(i, scale(state.t) * state.y, state.x0)
        i += 1
    if sigmas[-1] > 0:
        return scale(state.t) * state.y
    if callback is not None:
        callback(max(i - 1, 0), state.x0, state.x0)
    return state.x0


def scale(t: Tensor) -> Tensor:
    """sqrt(1 + sigma^2) of t = log sigma."""
    return torch.sqrt(1 + torch.exp(2 * t))


def usable(h: Tensor, running: Tensor) -> Tensor:
    """The steps h. Raises ValueError if that of an image that is not yet there has come to nothing."""
    if not (h[running] < -1e-6).all():
        raise ValueError(
            "sampler=adaptive finds no path for this model at these tolerances: loosen them or train it on"
        )
    return h


def attempted(look: Look, now: State, h: Tensor, t: Tensor, rtol: float, atol: float) -> tuple[State, Tensor]:
    """The state at `t`, a step h on, by Dormand & Prince's method, and its error in units of the tolerance."""
    ks = [now.f]
    for a, c in zip(RK45.A[1:], RK45.C[1:], strict=True):
        ks.append(look(now.t + float(c) * h, now.y + h * combined(a[: len(ks)], ks)).f)
    new = look(t, now.y + h * combined(RK45.B, ks))
    bound = atol + rtol * torch.maximum(now.y.abs(), new.y.abs())
    error = h * combined(RK45.E, [*ks, new.f]) / bound
    return new, error.square().mean((1, 2, 3), keepdim=True).sqrt()


def combined(weights: Sequence[float], ks: list[Tensor]) -> Tensor:
    return sum(float(weight) * k for weight, k in zip(weights, ks, strict=True))
