"""What nets predict, with which weight, at which levels, for which noise: the papers' identities."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm
from torch import Tensor

from genzoo.diffusion import levels, targets, weights
from genzoo.diffusion.pairing import optimal_transport
from genzoo.diffusion.schedules import linear, log_linear

TARGETS = [targets.noise, targets.x0, targets.v, targets.edm, targets.velocity]
SIGMA = torch.logspace(-3, 3, 61, dtype=torch.float64).view(-1, 1, 1, 1)
X0, NOISE = torch.randn(2, 61, 1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("parametrisation", TARGETS)
def test_the_target_makes_the_denoiser_exact(parametrisation) -> None:
    c = parametrisation(SIGMA)
    x = X0 + SIGMA * NOISE
    denoised = c.c_skip * x + c.c_out * targets.target(c, X0, SIGMA, NOISE)
    torch.testing.assert_close(denoised, X0, rtol=0, atol=1e-12 * SIGMA.max().item())
    written_out = (X0 - c.c_skip * x) / c.c_out  # Karras et al. 2022, equation 8
    torch.testing.assert_close(targets.target(c, X0, SIGMA, NOISE), written_out, rtol=1e-9, atol=1e-9)


def test_targets_are_the_papers() -> None:
    alpha, sigma_vp = (1 + SIGMA**2).rsqrt(), SIGMA * (1 + SIGMA**2).rsqrt()
    expected = {
        targets.noise: NOISE,
        targets.x0: X0,
        targets.v: alpha * NOISE - sigma_vp * X0,
        targets.velocity: NOISE - X0,
    }
    for parametrisation, value in expected.items():
        got = targets.target(parametrisation(SIGMA), X0, SIGMA, NOISE)
        torch.testing.assert_close(got, value, rtol=0, atol=1e-12, msg=parametrisation.__name__)


def test_inputs_are_the_papers() -> None:
    x = X0 + SIGMA * NOISE
    x_t = (1 + SIGMA**2).rsqrt() * X0 + torch.sqrt(1 - 1 / (1 + SIGMA**2)) * NOISE
    t = SIGMA / (1 + SIGMA)
    torch.testing.assert_close(targets.v(SIGMA).c_in * x, x_t, rtol=0, atol=1e-12)
    torch.testing.assert_close(targets.velocity(SIGMA).c_in * x, (1 - t) * X0 + t * NOISE, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sigma_data", [0.3, 0.5, 1.0])
def test_edm_has_unit_variances(sigma_data: float) -> None:
    """The conditions that its coefficients are derived from (Karras et al. 2022, appendix B.6), to 1e-12."""
    c, one = targets.edm(SIGMA, sigma_data), torch.ones_like(SIGMA)
    close = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(c.c_in**2 * (sigma_data**2 + SIGMA**2), one, **close)  # equation 114
    target_variance = ((1 - c.c_skip) ** 2 * sigma_data**2 + c.c_skip**2 * SIGMA**2) / c.c_out**2
    torch.testing.assert_close(target_variance, one, **close)  # equation 115
    torch.testing.assert_close(weights.edm(SIGMA, c.c_out, sigma_data), one, **close)  # equation 144
    # c_skip makes the net's error count least: the derivative of c_out^2 by c_skip is 0 (equation 120)
    least = -2 * (1 - c.c_skip) * sigma_data**2 + 2 * c.c_skip * SIGMA**2
    torch.testing.assert_close(least, torch.zeros_like(SIGMA), **close)


@pytest.mark.parametrize("weight", [weights.snr, weights.min_snr, weights.edm])
def test_weights_on_the_image_do_not_depend_on_the_target(weight) -> None:
    on_x0 = [weight(SIGMA, (c := target(SIGMA)).c_out) / c.c_out**2 for target in TARGETS]
    for a, b in itertools.pairwise(on_x0):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


def test_weights_are_the_papers() -> None:
    c_out = targets.noise(SIGMA).c_out
    torch.testing.assert_close(weights.snr(SIGMA, c_out), torch.ones_like(SIGMA))  # SNR weighting is L_simple
    # Hang et al. 2023: min(SNR, gamma) / SNR for the noise, min(SNR, gamma) / (SNR + 1) for v
    snr = SIGMA**-2
    torch.testing.assert_close(weights.min_snr(SIGMA, c_out), snr.clamp(max=5) / snr)
    torch.testing.assert_close(weights.min_snr(SIGMA, targets.v(SIGMA).c_out), snr.clamp(max=5) / (snr + 1))


def test_uniform_levels_are_all_of_the_table() -> None:
    sigma = levels.uniform(linear(), 200_000)
    counts = np.unique(sigma, return_counts=True)[1]
    assert len(counts) == 1000 and kstest(np.searchsorted(linear(), sigma) / 1000, "uniform").pvalue > 1e-3


def test_low_discrepancy_levels_are_spread() -> None:
    table = linear().float()
    places = [torch.searchsorted(table, levels.low_discrepancy(table, 50)) for _ in range(400)]
    assert all((p.sort().values // 20 == torch.arange(50)).sum() >= 49 for p in places)  # one in each of 50 parts
    assert kstest(torch.cat(places) / 1000, "uniform").pvalue > 1e-3


def test_log_normal_levels() -> None:
    log_sigma = levels.log_normal(log_linear(), 50_000, mean=-1.0, std=1.1).log()
    assert kstest(log_sigma, norm(-1.0, 1.1).cdf).pvalue > 1e-3
    wide = levels.log_normal(log_linear(), 1000, std=100.0)
    assert wide.min() == log_linear()[0] and wide.max() == log_linear()[-1]


def test_log_normal_levels_are_logit_normal_times() -> None:
    sigma = levels.log_normal(log_linear(sigma_min=1e-9, sigma_max=1e9), 20_000, mean=0.0, std=1.0)
    t = sigma / (1 + sigma)
    assert kstest(torch.logit(t), "norm").pvalue > 1e-3


def test_optimal_transport_is_the_best_order() -> None:
    x, noise = torch.randn(2, 6, 1, 2, 2)
    paired = optimal_transport(x, noise)
    costs = [(x - noise[list(order)]).square().sum().item() for order in itertools.permutations(range(6))]
    assert (x - paired).square().sum().item() == pytest.approx(min(costs), rel=1e-5)
    assert sorted(paired.sum((1, 2, 3)).tolist()) == sorted(noise.sum((1, 2, 3)).tolist())


def test_optimal_transport_untangles_paths() -> None:
    """In one dimension the best pairing sorts both sides, so that no two paths cross."""
    x, noise = torch.randn(2, 64, 1, 1, 1)
    paired: Tensor = optimal_transport(x, noise)
    order = x.flatten().argsort()
    assert (paired.flatten()[order].diff() >= 0).all() and not math.isclose(float(x[0]), float(paired[0]))
