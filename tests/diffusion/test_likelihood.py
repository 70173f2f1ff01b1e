"""Bound and ODE on Gaussian data, whose denoiser, KLs and density are closed forms, and on a mixture."""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from genzoo.diffusion.likelihood import (
    BIN,
    exact,
    hutchinson,
    learned_kl,
    log_normal_mass,
    ode_log_prob,
    random_steps,
    reconstruction,
    step_kl,
    variational_bound,
)
from genzoo.diffusion.samplers import posterior, reverse_variances
from genzoo.diffusion.schedules import cosine, flow, karras, linear, log_linear, sigmoid

MEAN, STD = 0.1, 0.3
LEVELS = (torch.arange(256).double() / 127.5 - 1).view(-1, 1, 1, 1)


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | x] of data N(MEAN, STD^2)."""
    return (STD**2 * x + sigma**2 * MEAN) / (STD**2 + sigma**2)


def grid(steps: int = 1000, schedule=linear) -> Tensor:
    """The falling sigmas of a schedule."""
    return schedule(steps).flip(0)


def closed_form(x: Tensor, sigmas: Tensor) -> Tensor:
    """The expectation over the noise of the sum of all KLs at each value x, with gaussian's denoiser."""
    now, after = sigmas[:-1], sigmas[1:]
    c = STD**2 / (STD**2 + now**2)
    squared = (1 - c) ** 2 * (x[..., None] - MEAN) ** 2 + c**2 * now**2  # E (x0 - x0_hat)^2
    return (0.5 * (1 / after**2 - 1 / now**2) * squared).sum(-1)


def assert_mean(values: Tensor, expected: float) -> None:
    error = values.std().item() / math.sqrt(len(values))
    assert abs(values.mean().item() - expected) < 4 * error
    assert error < 0.03 * expected


# --- The variational bound.


def test_step_kl_is_that_of_the_two_posteriors() -> None:
    sigmas = grid()
    x = torch.randn(7, 1, 2, 2, dtype=torch.float64)
    now, after = sigmas[:-1][[0, 10, 500, 900, 990, 997, 998]], sigmas[1:][[0, 10, 500, 900, 990, 997, 998]]
    torch.manual_seed(1)
    kl = step_kl(gaussian, x, now, after)
    torch.manual_seed(1)
    now, after = now.view(-1, 1, 1, 1), after.view(-1, 1, 1, 1)
    x_t = x + now * torch.randn_like(x)
    mean, variance = posterior(x_t, x, now, after)
    guess, _ = posterior(x_t, gaussian(x_t, now), now, after)
    expected = kl_divergence(Normal(mean, variance.sqrt()), Normal(guess, variance.sqrt())).sum((1, 2, 3))
    np.testing.assert_allclose(kl, expected, rtol=1e-9)


@pytest.mark.parametrize("schedule", [linear, cosine])
def test_diffusion_and_prior_have_their_closed_forms(schedule) -> None:
    sigmas = grid(40, schedule)
    x = torch.full((5000, 1, 1, 2), 0.7, dtype=torch.float64)
    bound = variational_bound(gaussian, x, sigmas)
    assert_mean(bound.diffusion, 2 * closed_form(torch.tensor(0.7), sigmas).item())
    start = Normal(0.0, sigmas[0])
    expected = 2 * kl_divergence(Normal(torch.tensor(0.7, dtype=torch.float64), sigmas[0]), start)
    np.testing.assert_allclose(bound.prior, expected.expand(5000), rtol=1e-9)


@pytest.mark.parametrize("schedule", [linear, cosine])
@pytest.mark.parametrize("terms", [5, 50])
def test_random_steps_are_unbiased(schedule, terms: int) -> None:
    sigmas = grid(200, schedule)
    x = torch.full((5000, 1, 1, 1), -0.4, dtype=torch.float64)
    bound = variational_bound(gaussian, x, sigmas, terms)
    assert_mean(bound.diffusion, closed_form(torch.tensor(-0.4), sigmas).item())


def test_random_steps_are_stratified_and_each_image_has_its_own() -> None:
    sigmas = grid()
    steps, factors = random_steps(torch.zeros(500, 1, 1, 1), sigmas, 20)
    assert steps.shape == factors.shape == (20, 500)
    log_snr = -2 * sigmas[steps].log()
    width = 2 * math.log(sigmas[0] / sigmas[-1]) / 20
    assert (log_snr.diff(dim=0) > -1e-6).all()  # one stratum after the other
    assert (log_snr.mean(1).diff() - width).abs()[1:-3].max() < 0.15 * width  # the last steps are longer than one
    assert len(steps[5].unique()) > 10


def test_as_many_terms_as_steps_is_the_whole_sum() -> None:
    x, sigmas = torch.rand(9, 1, 2, 2), grid(12).float()
    bounds = []
    for terms in (None, 11, 5000):
        torch.manual_seed(2)
        bounds.append(variational_bound(gaussian, x, sigmas, terms))
    assert all(torch.equal(sum(bounds[0]), sum(bound)) for bound in bounds[1:])
    one = variational_bound(gaussian, x, sigmas[:1])
    assert not one.diffusion.any() and one.reconstruction.all()


def test_bound_is_below_the_log_likelihood_and_approaches_it() -> None:
    """On draws of the very Gaussian, in 8-bit levels, the mean log p of any other model is lower."""
    x = (Normal(MEAN, STD).sample((4000, 1, 1, 4)) * 127.5).round().clamp(-127, 127) / 127.5 - 1 / 255
    x = x.double()
    log_p = (np.log(stats.norm.cdf(x + BIN / 2, MEAN, STD) - stats.norm.cdf(x - BIN / 2, MEAN, STD)) - np.log(BIN)).sum(
        (1, 2, 3)
    )
    grids = [torch.logspace(2, -2, t, dtype=torch.float64) for t in (20, 100, 500)]
    gaps = [torch.from_numpy(log_p) + sum(variational_bound(gaussian, x, sigmas)) for sigmas in grids]
    coarse, middle, fine = (gap.mean().item() for gap in gaps)
    assert coarse > middle > fine > 0
    assert gaps[2].std().item() / math.sqrt(len(x)) < 0.025
    assert (5 * fine - middle) / 4 == pytest.approx(0, abs=0.1)  # the limit, since a step of ratio r wastes log^2 r


@pytest.mark.parametrize("mu", [-3.0, -1.0, -0.996, 0.0017, 0.9, 1.0, 40.0])
@pytest.mark.parametrize("sigma", [1e-3, 0.01, 0.5])
def test_probabilities_of_the_levels_sum_to_one(mu: float, sigma: float) -> None:
    nats = reconstruction(lambda x, _: torch.full_like(x, mu), LEVELS, torch.tensor(sigma, dtype=torch.float64))
    assert nats.shape == (256,)
    assert (torch.exp(-nats) * BIN).sum().item() == pytest.approx(1, abs=1e-12)


def test_reconstruction_has_the_mean_and_deviation_of_the_last_step() -> None:
    x = torch.full((1, 1, 1, 3), 30 / 127.5 - 1, dtype=torch.float64)
    nats = reconstruction(lambda x, _: torch.full_like(x, -0.75), x, torch.tensor(0.02, dtype=torch.float64))
    a, b = (30 - 0.5) / 127.5 - 1, (30 + 0.5) / 127.5 - 1
    p = stats.norm.cdf(b, -0.75, 0.02) - stats.norm.cdf(a, -0.75, 0.02)
    assert nats.item() == pytest.approx(-3 * math.log(p * 127.5), rel=1e-10)


def test_log_normal_mass_is_scipys_in_both_tails() -> None:
    lower = torch.tensor([-200.0, -30.0, -3.0, -0.4, 0.0, 2.0, 30.0, 199.2, -math.inf, 5.0])
    upper = torch.tensor([-199.2, -29.2, -2.2, 0.4, 0.8, 2.8, 30.8, 200.0, -5.0, math.inf])
    a, b = lower.double().numpy(), upper.double().numpy()
    left, right = stats.norm.logcdf(b), stats.norm.logsf(a)
    with np.errstate(divide="ignore"):  # in the tail that is not taken
        expected = np.where(
            a + b <= 0,
            left + np.log1p(-np.exp(stats.norm.logcdf(a) - left)),
            right + np.log1p(-np.exp(stats.norm.logsf(b) - right)),
        )
    np.testing.assert_allclose(log_normal_mass(lower, upper), expected, rtol=1e-5)


# On N(0, 1) data the optimal denoiser is linear and every term a quadratic form of (x, noise), whose expectation is the
# mean over the four signs of both.
SIGNS = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
X, NOISE = (column.view(4, 1, 1, 1) for column in SIGNS.T)


@pytest.mark.parametrize("schedule", [linear, cosine, sigmoid, karras, log_linear, flow])
def test_bound_of_the_optimal_denoiser_is_the_entropy(schedule) -> None:
    """ln(2 pi e) / 2 = 1.41893853 nats in however many steps: with the variance beta the reverse process of N(0, 1)
    data is the true one."""
    sigmas = schedule(50).flip(0).view(-1, 1, 1, 1, 1)

    def x0_hat(sigma: Tensor) -> Tensor:
        return (X + sigma * NOISE) / (1 + sigma**2)

    def kl(sigma: Tensor, sigma_next: Tensor) -> float:
        largest = reverse_variances(sigma, sigma_next)[1].expand(4, 1, 1, 1)
        return learned_kl(X, x0_hat(sigma), largest, sigma, sigma_next).mean().item()

    first = Normal(0.0, torch.sqrt(1 + sigmas[0] ** 2))
    prior = kl_divergence(Normal(X, sigmas[0]), first).mean().item()
    steps = sum(kl(*pair) for pair in pairwise(sigmas))
    last = reverse_variances(sigmas[-1], torch.zeros(()).double())[1]
    reconstruction = -Normal(x0_hat(sigmas[-1]), last.sqrt()).log_prob(X).mean().item()
    # where sigma is 2e4 the prior's KL, 1e-9, is a difference of numbers near 1
    assert prior + steps + reconstruction == pytest.approx(1.4189385332046727, rel=0, abs=1e-9)


def test_learned_kl_is_torchs() -> None:
    x, x0 = torch.randn(2, 5, 1, 2, 2, dtype=torch.float64)
    sigma, sigma_next = torch.linspace(1, 3, 5).double().view(-1, 1, 1, 1), torch.full((5, 1, 1, 1), 0.4).double()
    variance = 0.1 + torch.rand_like(x)
    x_t = torch.randn_like(x)
    mean, smallest = posterior(x_t, x, sigma, sigma_next)
    guess, _ = posterior(x_t, x0, sigma, sigma_next)
    expected = kl_divergence(Normal(mean, smallest.sqrt()), Normal(guess, variance.sqrt())).sum((1, 2, 3))
    np.testing.assert_allclose(learned_kl(x, x0, variance, sigma, sigma_next), expected, rtol=1e-12)


def test_posterior_is_bayes_rule() -> None:
    """q(x_next | x_t, x0) from q(x_next | x0) and q(x_t | x_next), to 1e-12."""
    sigma, sigma_next, x0, x_t = torch.tensor([2.3, 0.9, 0.4, -1.7], dtype=torch.float64)
    precision = 1 / sigma_next**2 + 1 / (sigma**2 - sigma_next**2)
    mean = (x0 / sigma_next**2 + x_t / (sigma**2 - sigma_next**2)) / precision
    got = posterior(x_t, x0, sigma, sigma_next)
    np.testing.assert_allclose(got, (mean, 1 / precision), rtol=0, atol=1e-12)


def test_the_bound_does_not_depend_on_the_schedule_between_its_ends(monkeypatch) -> None:
    """In the limit of many steps only the ends of the noise count (Kingma et al. 2021, section 5.1)."""
    monkeypatch.setattr(torch, "randn_like", lambda x: NOISE.to(x))
    t = torch.linspace(0, 1, 3001, dtype=torch.float64)
    low, high = 0.05, 30.0
    schedules = {
        "log-linear": low * (high / low) ** t,
        "karras": torch.lerp(*torch.tensor([[low], [high]]).double() ** (1 / 3), t) ** 3,
        "cosine": torch.tan(torch.lerp(*torch.tensor([[low], [high]]).double().atan(), t)),
    }
    between = {
        name: variational_bound(lambda x, s: x / (1 + s**2), X, sigmas.flip(0)).diffusion.mean().item()
        for name, sigmas in schedules.items()
    }
    exact = 0.5 * math.log((1 + low**-2) / (1 + high**-2))  # half the integral of the error over the SNR
    assert between == pytest.approx(dict.fromkeys(schedules, exact), rel=1e-2)


# --- The probability-flow ODE.

ENDS = {"sigma_min": 1e-4, "sigma_max": 1e6}  # the end misses the mean of the data by mean / sigma_max


@pytest.mark.parametrize("trace", [exact, hutchinson], ids=["exact", "hutchinson"])
def test_ode_gives_the_density_of_a_gaussian(trace) -> None:
    """Its Jacobian is a multiple of the identity, of which one probe finds the trace."""
    x = Normal(MEAN, 2 * STD).sample((20, 2, 1, 3)).double()
    log_p = Normal(MEAN, STD).log_prob(x).sum((1, 2, 3))
    np.testing.assert_allclose(ode_log_prob(gaussian, x, **ENDS, trace=trace), log_p, rtol=0, atol=1e-3)
    close = ode_log_prob(gaussian, x, **ENDS, trace=trace, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(close, log_p, rtol=0, atol=1e-5)


def test_ode_ends_where_it_is_told() -> None:
    """The data with noise of sigma_min, and a start that is too narrow for it."""
    x = Normal(MEAN, STD).sample((50, 1, 1, 1)).double()
    at_min = ode_log_prob(gaussian, x, 0.5, 1e6, exact, 1e-8, 1e-8)
    np.testing.assert_allclose(at_min, Normal(MEAN, math.hypot(STD, 0.5)).log_prob(x).flatten(), rtol=0, atol=1e-5)
    # from sigma_max the affine map takes N(0, sigma_max^2) to this Gaussian
    shrink = math.hypot(STD, 0.5) / math.hypot(STD, 2.0)
    carried = Normal(MEAN - shrink * MEAN, shrink * 2.0).log_prob(x).flatten()
    np.testing.assert_allclose(ode_log_prob(gaussian, x, 0.5, 2.0, exact, 1e-8, 1e-8), carried, rtol=0, atol=1e-6)


def correlated() -> MultivariateNormal:
    root = torch.tensor([[0.5, 0, 0], [0.3, 0.2, 0], [-0.2, 0.1, 0.3]], dtype=torch.float64)
    return MultivariateNormal(torch.tensor([0.2, -0.1, 0.0], dtype=torch.float64), root @ root.T)


def correlated_denoiser(x: Tensor, sigma: Tensor) -> Tensor:
    p = correlated()
    gain = p.covariance_matrix @ torch.linalg.inv(p.covariance_matrix + sigma**2 * torch.eye(3, dtype=torch.float64))
    return (p.mean + (x.flatten(1) - p.mean) @ gain.T).view_as(x)


def test_hutchinson_is_unbiased_and_better_with_more_probes() -> None:
    x = torch.tensor([0.3, 0.1, -0.4], dtype=torch.float64).view(1, 3, 1, 1)
    log_p = correlated().log_prob(x.flatten()).item()
    assert ode_log_prob(correlated_denoiser, x, **ENDS, trace=exact).item() == pytest.approx(log_p, abs=1e-4)
    copies, spreads = x.expand(2000, -1, -1, -1), []
    for probes in (1, 8):
        estimates = ode_log_prob(correlated_denoiser, copies, **ENDS, trace=partial(hutchinson, probes=probes))
        spreads.append(estimates.std().item())
        assert abs(estimates.mean().item() - log_p) < 4 * spreads[-1] / math.sqrt(2000)
    assert spreads[0] / spreads[1] == pytest.approx(math.sqrt(8), rel=0.15)


CENTRES = torch.tensor([[-0.6, 0.0], [0.5, 0.4], [0.1, -0.7]], dtype=torch.float64)


def mixture(x: Tensor, sigma: float) -> Tensor:
    """log density (n, 3) of x under each equally likely N(centre, (0.15^2 + sigma^2) I)."""
    return Normal(CENTRES, math.hypot(0.15, sigma)).log_prob(x.flatten(1)[:, None]).sum(2) - math.log(3)


def mixture_denoiser(x: Tensor, sigma: Tensor) -> Tensor:
    weights = mixture(x, sigma.item()).softmax(1)
    return ((0.15**2 * x.flatten(1) + sigma**2 * (weights @ CENTRES)) / (0.15**2 + sigma**2)).view_as(x)


def test_ode_gives_the_density_of_a_mixture() -> None:
    x = torch.rand(60, 2, 1, 1, dtype=torch.float64) * 2 - 1
    expected = mixture(x, 0.0).logsumexp(1)
    for tolerance, atol in ((1e-5, 5e-3), (1e-8, 1e-5)):
        log_p = ode_log_prob(mixture_denoiser, x, **ENDS, trace=exact, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(log_p, expected, rtol=0, atol=atol)


def test_ode_takes_float32_and_leaves_gradients_alone() -> None:
    x = torch.randn(4, 1, 2, 2)
    with torch.no_grad():
        log_p = ode_log_prob(gaussian, x, **ENDS, trace=hutchinson)
    assert log_p.dtype == torch.float32 and not log_p.requires_grad and not x.requires_grad
    np.testing.assert_allclose(log_p, Normal(MEAN, STD).log_prob(x).sum((1, 2, 3)), rtol=1e-3)


def test_ode_without_a_solution_is_refused() -> None:
    with pytest.raises(ValueError, match="probability-flow ODE has no solution"):
        ode_log_prob(lambda x, _: x * math.nan, torch.zeros(2, 1, 1, 1), **ENDS, trace=exact)


def test_probes() -> None:
    x = torch.zeros(30, 2, 1, 3)
    assert torch.equal(exact(x)[:, 7].flatten(1), torch.eye(6))
    signs = hutchinson(x, probes=4) * 2
    assert signs.shape == (4, 30, 2, 1, 3)
    assert torch.equal(signs.abs(), torch.ones_like(signs))
    assert signs.mean().abs() < 4 / math.sqrt(signs.numel())
    assert not torch.equal(signs[:, 0], signs[:, 1])
