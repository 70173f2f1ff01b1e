"""The order of every deterministic sampler on a mixture's probability-flow ODE, against SciPy's solution."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from genzoo.diffusion.adaptive import adaptive
from genzoo.diffusion.dpm_solver import dpm_solver_2, dpm_solver_3
from genzoo.diffusion.dpm_solver_pp import dpmpp_2m, dpmpp_2s, dpmpp_3m
from genzoo.diffusion.samplers import ddim, edm, euler, heun, midpoint
from genzoo.diffusion.unipc import unipc

HIGH, LOW = 80.0, 0.05
ORDERS = {
    "ddim": (ddim, 1),
    "euler": (euler, 1),
    "heun": (heun, 2),
    "midpoint": (midpoint, 2),
    "edm": (edm, 2),
    "dpm_solver_2": (dpm_solver_2, 2),
    "dpmpp_2s": (dpmpp_2s, 2),
    "dpmpp_2m": (dpmpp_2m, 2),
    "dpm_solver_3": (dpm_solver_3, 3),
    "dpmpp_3m": (dpmpp_3m, 3),
    # the corrector adds one to the order of the predictor (Zhao et al. 2023, Theorem 3.1)
    "unipc of order 1": (partial(unipc, order=1), 2),
    "unipc of order 2": (unipc, 3),
    "unipc of order 3": (partial(unipc, order=3), 4),
}


def log_uniform(steps: int) -> Tensor:
    """From noise 80, where x0_hat hardly changes, so that the low-order first steps of a multistep method cost
    nothing, to 0.05, where the mixture is resolved: no step into 0, which is of first order."""
    return torch.logspace(math.log10(HIGH), math.log10(LOW), steps + 1, dtype=torch.float64)


@pytest.fixture(scope="module")
def start() -> Tensor:
    return HIGH * torch.randn(6, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def solution(mixture, start: Tensor) -> Tensor:
    """Of dx / d sigma = (x - x0_hat) / sigma, by an eighth-order method in sigma itself."""

    def slope(sigma: float, x: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(x).view_as(start)
        return ((x - mixture(x, torch.tensor(sigma, dtype=x.dtype))) / sigma).flatten().numpy()

    end = solve_ivp(slope, (HIGH, LOW), start.flatten().numpy(), "DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    return torch.from_numpy(end).view_as(start)


@pytest.mark.parametrize("name", ORDERS)
def test_order_of_convergence(name: str, mixture, start: Tensor, solution: Tensor) -> None:
    """Twice the steps divide the error by 2^order."""
    sampler, order = ORDERS[name]
    coarse, fine = ((sampler(mixture, start, log_uniform(n)) - solution).abs().mean().item() for n in (500, 1000))
    assert fine < 0.01
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


def test_adaptive_is_as_exact_as_asked(mixture, start: Tensor, solution: Tensor) -> None:
    errors = [
        (adaptive(mixture, start, log_uniform(1), tolerance, tolerance) - solution).abs().max().item()
        for tolerance in (1e-3, 1e-6, 1e-9)
    ]
    assert errors[0] < 0.02 and errors[1] < 2e-5 and errors[2] < 2e-8
