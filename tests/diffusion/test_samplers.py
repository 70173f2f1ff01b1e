"""What all samplers have in common, what each promises, and data whose denoiser is a closed form."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from scipy.integrate import quad, solve_ivp
from torch import Tensor

import genzoo
from genzoo.diffusion.adaptive import adaptive
from genzoo.diffusion.dpm_solver_pp import dpmpp_2m_sde, dpmpp_3m, dpmpp_sde
from genzoo.diffusion.grids import karras, log_snr, trailing
from genzoo.diffusion.samplers import ddim, ddpm, ddpm_learned, edm, euler, heun, midpoint, posterior
from genzoo.diffusion.schedules import linear
from genzoo.diffusion.unipc import advanced, unipc
from genzoo.metrics.draw import per_image

SIGMAS = linear()
ALPHA_BAR = 1 / (1 + SIGMAS**2)
CALLS = {  # of the network in S steps into 0
    "ddpm": lambda s: s,
    "ddpm_learned": lambda s: s,
    "ddim": lambda s: s,
    "euler": lambda s: s,
    "euler_ancestral": lambda s: s,
    "midpoint": lambda s: 2 * s - 1,
    "heun": lambda s: 2 * s - 1,
    "edm": lambda s: 2 * s - 1,
    "dpm_solver_1": lambda s: s,
    "dpm_solver_2": lambda s: 2 * s - 1,
    "dpm_solver_3": lambda s: 3 * s - 2,
    "dpmpp_2s": lambda s: 2 * s - 1,
    "dpmpp_2m": lambda s: s,
    "dpmpp_3m": lambda s: s,
    "dpmpp_sde": lambda s: 2 * s - 1,
    "dpmpp_2m_sde": lambda s: s,
    "unipc": lambda s: s,
    "adaptive": None,
}
OTHER_NAMES = {"dpm_solver_1": "ddim", "euler_ancestral": "ddim"}  # of one step in these coordinates
STOCHASTIC = {"ddpm", "ddpm_learned", "euler_ancestral", "edm", "dpmpp_sde", "dpmpp_2m_sde"}
CONF = Path(genzoo.__file__).parents[1] / "conf" / "sampler"


class Model:
    """A denoiser that writes down its noise levels, with the variance of DDPM for its own."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.function = function
        self.sigmas: list[Tensor] = []

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.sigmas.append(sigma)
        return self.function(x, sigma)

    def moments(self, x: Tensor, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, Tensor]:
        return self(x, sigma), posterior(x, x, sigma, sigma_next)[1]


def configured(name: str) -> Callable[..., Tensor]:
    """The sampler as conf/sampler has it."""
    return instantiate(OmegaConf.load(CONF / f"{name}.yaml")["sampler"])


def gaussian(x: Tensor, sigma: Tensor, mean: float = 0.4, std: float = 0.5) -> Tensor:
    """E[x0 | x] of data N(mean, std^2)."""
    return (std**2 * x + sigma**2 * mean) / (std**2 + sigma**2)


def point(x: Tensor, sigma: Tensor) -> Tensor:
    """Of data that is one point."""
    return torch.full_like(x, 0.2)


def start(grid: Tensor, *shape: int) -> Tensor:
    return grid[0] * torch.randn(*shape, dtype=grid.dtype)


# --- The posterior q(x_{t-1} | x_t, x_0).


def test_posterior_is_ho_et_al() -> None:
    """Equations 6 and 7 in their own coordinates, at all steps: 1e-12."""
    x_0, x_t = torch.randn(2, 999, dtype=torch.float64)
    ab, ab_prev = ALPHA_BAR[1:], ALPHA_BAR[:-1]
    alpha, beta = ab / ab_prev, 1 - ab / ab_prev
    mean = ab_prev.sqrt() * beta / (1 - ab) * x_0 + alpha.sqrt() * (1 - ab_prev) / (1 - ab) * x_t
    variance = (1 - ab_prev) / (1 - ab) * beta
    ours_mean, ours_variance = posterior(x_t / ab.sqrt(), x_0, SIGMAS[1:], SIGMAS[:-1])
    np.testing.assert_allclose(ab_prev.sqrt() * ours_mean, mean, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ab_prev * ours_variance, variance, rtol=0, atol=1e-12)


def test_posterior_is_bayes() -> None:
    """q(x_next | x, x0) q(x | x0) = q(x | x_next) q(x_next | x0), all of them Gaussian."""
    x0, x, x_next = torch.randn(3, 999, dtype=torch.float64)
    sigma, sigma_next = SIGMAS[1:], SIGMAS[:-1]

    def log_normal(value: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return -0.5 * (value - mean) ** 2 / variance - 0.5 * torch.log(2 * math.pi * variance)

    # x_next at its own scale, since the last posteriors are narrow
    mean, variance = posterior(x0 + sigma * x, x0, sigma, sigma_next)
    x_next = mean + variance.sqrt() * x_next
    left = log_normal(x_next, mean, variance) + log_normal(x0 + sigma * x, x0, sigma**2)
    right = log_normal(x0 + sigma * x, x_next, sigma**2 - sigma_next**2) + log_normal(x_next, x0, sigma_next**2)
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-9)


def test_posterior_ends_at_x0() -> None:
    x, x0 = torch.randn(2, 5)
    mean, variance = posterior(x, x0, torch.tensor(0.3), torch.tensor(0.0))
    assert torch.equal(mean, x0) and variance == 0


# --- All samplers.


def test_each_sampler_has_its_file() -> None:
    assert {file.stem for file in CONF.glob("*.yaml")} == set(CALLS)
    assert all(configured(name).func.__name__ == OTHER_NAMES.get(name, name) for name in CALLS)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(name: str, dtype: torch.dtype, mixture) -> None:
    for grid in (log_snr(SIGMAS, 4), log_snr(SIGMAS, 4).float()):
        x = configured(name)(Model(mixture), start(grid, 3, 1, 2, 2).to(dtype), grid.to(dtype))
        assert x.dtype == dtype and x.shape == (3, 1, 2, 2)
        assert x.isfinite().all()


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_data_of_one_point_is_drawn_exactly(name: str, steps: int) -> None:
    grid = trailing(SIGMAS, steps)
    x = configured(name)(Model(point), start(grid, 3, 1, 2, 2), grid)
    assert torch.equal(x, torch.full_like(x, 0.2))


@pytest.mark.parametrize("name", CALLS)
def test_a_grid_may_end_above_zero(name: str) -> None:
    """For data that is one point the ODE is a straight line, and the SDE leaves that much noise."""
    grid = trailing(SIGMAS, 6)[:-1]
    x = start(grid, 5000, 1, 2, 2)
    end = configured(name)(Model(point), x, grid)
    if name in STOCHASTIC:
        assert (end - 0.2).std() == pytest.approx(grid[-1].item(), rel=4 / math.sqrt(2 * x.numel()))
    else:
        tolerance = 0.02 if name == "adaptive" else 1e-12
        np.testing.assert_allclose(end, 0.2 + grid[-1] / grid[0] * (x - 0.2), rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", sorted(CALLS.keys() - {"adaptive"}))
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_network_is_called_as_often_as_said_at_falling_noise(name: str, steps: int, mixture) -> None:
    model, grid = Model(mixture), log_snr(SIGMAS, steps)
    sampler = partial(configured(name), s_churn=0.0) if name == "edm" else configured(name)
    sampler(model, start(grid, 2, 1, 2, 2), grid)
    assert len(model.sigmas) == CALLS[name](steps)
    assert all(sigma.shape == () for sigma in model.sigmas)
    assert all(after <= before for before, after in pairwise(model.sigmas))
    assert model.sigmas[0] == grid[0] and model.sigmas[-1] == grid[-2]


@pytest.mark.parametrize("name", CALLS)
def test_one_step_is_one_call(name: str, mixture) -> None:
    grid = trailing(SIGMAS, 1)
    x = start(grid, 2, 1, 2, 2)
    np.testing.assert_allclose(configured(name)(Model(mixture), x, grid), mixture(x, grid[0]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CALLS)
def test_an_image_does_not_depend_on_its_batch(name: str, mixture) -> None:
    grid = log_snr(SIGMAS, 6)

    def drawn(first: int, n: int) -> Tensor:
        with per_image(3, first, n):
            return configured(name)(Model(mixture), start(grid, n, 1, 2, 2), grid)

    np.testing.assert_allclose(drawn(2, 3), drawn(0, 6)[2:5], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CALLS)
def test_callback_sees_every_step(name: str, mixture) -> None:
    seen, grid = [], log_snr(SIGMAS, 5)
    x = start(grid, 2, 1, 2, 2)
    held = x.clone()
    end = configured(name)(Model(mixture), x, grid, callback=lambda i, x, x0: seen.append((i, x, x0)))
    assert torch.equal(x, held)
    assert [i for i, _, _ in seen] == list(range(5 if name != "adaptive" else len(seen)))
    assert torch.equal(seen[-1][1], end) and torch.equal(seen[-1][2], end)  # the last step lands on x0_hat
    if name not in ("edm", "adaptive"):
        assert torch.equal(seen[0][2], mixture(x, grid[0]))


# --- One another.


def same_noise(*samplers: Callable[..., Tensor]) -> None:
    grid = trailing(SIGMAS, 12)
    x = start(grid, 8, 1, 2, 2)
    results = []
    for sampler in samplers:
        torch.manual_seed(1)
        results.append(sampler(Model(gaussian), x, grid))
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=0, atol=1e-9)


def test_eulers_rule_is_ddim() -> None:
    same_noise(euler, ddim)


def test_ancestral_sampling_is_ddim_with_eta_one() -> None:
    same_noise(ddpm, partial(ddim, eta=1.0), ddpm_learned)


def test_edm_without_churn_is_heun() -> None:
    same_noise(heun, edm, partial(edm, s_churn=20.0, s_min=1e9), partial(edm, s_churn=20.0, s_max=1e-9))


def test_both_ways(mixture) -> None:
    """Solvers of the ODE that know no order of noise levels also go up, and come back."""
    x = torch.randn(4, 1, 2, 2, dtype=torch.float64) / 3
    down = log_snr(SIGMAS, 400)[:-1]
    for sampler, error in ((euler, 0.1), (ddim, 0.1), (heun, 2e-3), (midpoint, 2e-3)):
        back = sampler(mixture, sampler(mixture, x, down.flip(0)), down)
        np.testing.assert_allclose(back, x, rtol=0, atol=error)


# --- Each for itself.


def test_large_variance_is_beta() -> None:
    """With x0_hat = x the mean stays where it is, and what one step adds is the noise alone."""
    for t in (1, 10, 500, 999):
        beta = 1 - ALPHA_BAR[t] / ALPHA_BAR[t - 1]
        x = torch.zeros(1, dtype=torch.float64)
        torch.manual_seed(1)
        y = ddpm(lambda x, _: x, x, torch.stack([SIGMAS[t], SIGMAS[t - 1]]), large=True)
        torch.manual_seed(1)
        noise = torch.randn(1, dtype=torch.float64)
        np.testing.assert_allclose(y * ALPHA_BAR[t - 1].sqrt(), beta.sqrt() * noise, rtol=1e-10)


def test_learned_variance_is_used_and_needed() -> None:
    model, grid = Model(lambda x, _: x), SIGMAS[[300, 200]]
    model.moments = lambda x, sigma, sigma_next: (x, torch.full_like(x, 9.0) * sigma_next)
    x = ddpm_learned(model, torch.zeros(20_000, dtype=torch.float64), grid)
    assert x.std() == pytest.approx(3 * grid[1].sqrt().item(), rel=0.03)
    with pytest.raises(ValueError, match="needs a model that learns its variance"):
        ddpm_learned(point, x, grid)


def test_ddim_step_on_gaussian_data_is_the_closed_form() -> None:
    """A step is linear in x: with c = std^2 / (std^2 + sigma^2), x - mean shrinks by c + (1 - c) sigma' / sigma."""
    grid = trailing(SIGMAS, 20)
    x = start(grid, 6)
    c = 0.25 / (0.25 + grid[:-1] ** 2)
    factor = torch.prod(c + (1 - c) * grid[1:] / grid[:-1])
    np.testing.assert_allclose(ddim(gaussian, x, grid), 0.4 + factor * (x - 0.4), rtol=1e-10)


def test_edm_step_is_algorithm_2() -> None:
    """Karras et al. 2022, line by line, for one step of three."""
    grid = torch.tensor([3.0, 1.0, 0.5, 0.2], dtype=torch.float64)
    x = start(grid, 9)
    torch.manual_seed(1)
    seen = []
    edm(gaussian, x, grid, 0.6, 0.1, 5.0, 1.1, callback=lambda i, x, x0: seen.append(x))
    torch.manual_seed(1)
    epsilon = 1.1 * torch.randn(9, dtype=torch.float64)
    gamma = 0.6 / 3
    t_hat = 3 + gamma * 3
    x_hat = x + math.sqrt(t_hat**2 - 3**2) * epsilon
    d = (x_hat - gaussian(x_hat, torch.tensor(t_hat))) / t_hat
    x_next = x_hat + (1 - t_hat) * d
    d_next = (x_next - gaussian(x_next, torch.tensor(1.0))) / 1
    np.testing.assert_allclose(seen[0], x_hat + (1 - t_hat) * (d / 2 + d_next / 2), rtol=1e-6)
    levels = Model(gaussian)
    edm(levels, x, grid, s_churn=1e9)
    assert levels.sigmas[0].item() == pytest.approx(3 * math.sqrt(2))  # and not more


def test_middle_of_dpmpp_sde_is_on_the_way() -> None:
    """Without data, x / sigma^2 is a Brownian motion in 1 / sigma^2: what it gains before and after the middle is
    independent, and each has the variance of its time."""
    sigmas, model = torch.tensor([3.0, 0.5], dtype=torch.float64), []

    def nothing(x: Tensor, sigma: Tensor) -> Tensor:
        model.append((x, sigma))
        return torch.zeros_like(x)

    end = dpmpp_sde(nothing, 3 * torch.randn(40_000, dtype=torch.float64), sigmas)
    points = [x / sigma**2 for x, sigma in [*model, (end, sigmas[1])]]
    times = torch.stack([1 / sigma**2 for _, sigma in [*model, (end, sigmas[1])]])
    gains = torch.stack([after - before for before, after in pairwise(points)]) / times.diff()[:, None].sqrt()
    np.testing.assert_allclose(gains.cov(), torch.eye(2), atol=4 * math.sqrt(2 / 40_000))


@pytest.mark.parametrize(
    ("sampler", "grid"),
    [
        (ddpm, trailing(SIGMAS, 1000)),
        (partial(ddpm, large=True), trailing(SIGMAS, 1000)),
        (partial(ddim, eta=0.5), trailing(SIGMAS, 1000)),
        (partial(edm, s_churn=40.0), log_snr(SIGMAS, 200)),
        (dpmpp_sde, log_snr(SIGMAS, 50)),
        (dpmpp_2m_sde, log_snr(SIGMAS, 100)),
        (unipc, log_snr(SIGMAS, 30)),
        (dpmpp_3m, log_snr(SIGMAS, 60)),
    ],
    ids=["ddpm", "large", "eta", "edm", "dpmpp_sde", "dpmpp_2m_sde", "unipc", "dpmpp_3m"],
)
def test_gaussian_data_comes_back(sampler, grid: Tensor) -> None:
    """With the exact denoiser of N(0.4, 0.5^2), samples have that mean and deviation within 4 standard errors."""
    n = 20_000
    x = sampler(gaussian, start(grid, n), grid)
    assert x.mean() == pytest.approx(0.4, abs=4 * 0.5 / math.sqrt(n))
    assert x.std() == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(2 * n))


@pytest.mark.parametrize("r", [[-1.2], [-0.7, -1.9], [-1.0, 1.0], [-0.8, -1.5, 1.0]])
def test_unipc_integrates_polynomials(r: list[float]) -> None:
    """x0_hat = q(lambda) makes e^lambda x gain the integral of e^lambda q: exact for as many degrees as there are other
    points, but for a single one, whose weight is rounded to half of B(h)."""
    h, degree = 0.4, len(r)
    q = np.polynomial.Polynomial(np.arange(1.0, degree + 2))
    points = [(ratio * h, torch.tensor(q(ratio * h))) for ratio in r]
    x = advanced(torch.tensor(2.0), (0.0, torch.tensor(q(0.0))), points, h)
    exact = math.exp(-h) * (2 + quad(lambda t: math.exp(t) * q(t), 0, h)[0])
    assert x.item() == pytest.approx(exact, abs=0.02 if degree == 1 else 1e-6)


def test_order_of_unipc() -> None:
    with pytest.raises(ValueError, match="order=0 of UniPC is below 1"):
        unipc(point, torch.zeros(1), SIGMAS.flip(0), order=0)


# --- The adaptive one.


def test_adaptive_is_scipys_for_each_image(mixture) -> None:
    grid = log_snr(SIGMAS, 3)[:-1]
    x = start(grid, 3, 1, 2, 2)
    model, calls = Model(mixture), []
    ours = adaptive(model, x, grid, 1e-4, 1e-5)
    for image, end in zip(x, ours):

        def slope(log_sigma: float, y: np.ndarray) -> np.ndarray:
            sigma = math.exp(log_sigma)
            scale = math.hypot(1, sigma)
            x0 = mixture(torch.from_numpy(scale * y).view(1, 1, 2, 2), torch.tensor(sigma, dtype=torch.float64))
            return (y / scale - x0.flatten().numpy()) / scale

        ends = math.log(grid[0]), math.log(grid[-1])
        y = image.flatten().numpy() / math.hypot(1, grid[0])
        alone = solve_ivp(slope, ends, y, "RK45", rtol=1e-4, atol=1e-5, first_step=0.1)
        np.testing.assert_allclose(end.flatten(), math.hypot(1, grid[-1]) * alone.y[:, -1], rtol=0, atol=1e-10)
        calls.append(alone.nfev)
    assert len(set(calls)) > 1
    assert len(model.sigmas) == max(calls)
    assert model.sigmas[0].shape == (3, 1, 1, 1)


def test_adaptive_that_cannot_go_on_says_so() -> None:
    with pytest.raises(ValueError, match="sampler=adaptive finds no path for this model"):
        adaptive(lambda x, _: x * math.nan, torch.zeros(3, 1, 2, 2), log_snr(SIGMAS, 3))


def test_adaptive_needs_nothing_of_the_grid_but_its_ends(mixture) -> None:
    x = start(log_snr(SIGMAS, 3), 3, 1, 2, 2)
    results = [adaptive(mixture, x, grid(SIGMAS, steps)) for grid, steps in ((log_snr, 2), (log_snr, 9), (karras, 5))]
    np.testing.assert_allclose(results[1], results[0], rtol=0, atol=1e-10)
    np.testing.assert_allclose(results[2], results[0], rtol=0, atol=1e-10)
