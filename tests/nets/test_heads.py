"""What decoders' outputs mean, against torch.distributions and scipy, bin by bin."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import logistic
from torch import Tensor
from torch.distributions import Normal

from genzoo.generator import bits_per_dim
from genzoo.nets.heads import Bernoulli, DiscretisedLogistics, Gaussian

LEVELS = (torch.arange(256, dtype=torch.float64) / 127.5 - 1).view(-1, 1, 1, 1)
BIN = 1 / 127.5


def log_bins(head: DiscretisedLogistics | Bernoulli, out: Tensor) -> Tensor:
    """log p of each of the 256 levels of a one-value image, given its (1, P, 1, 1) decoder output."""
    return head.log_prob(LEVELS, out.expand(256, -1, 1, 1)) + math.log(BIN)


def test_gaussian_is_torchs() -> None:
    head = Gaussian(0.3).double()
    x, out = torch.randn(2, 5, 3, 4, 6, dtype=torch.float64)
    expected = Normal(out, head.log_sigma.exp()).log_prob(x).flatten(1).sum(1)
    torch.testing.assert_close(head.log_prob(x, out), expected, rtol=1e-12, atol=1e-12)
    assert head.log_sigma.exp().item() == pytest.approx(0.3)
    assert [p.requires_grad for p in head.parameters()] == [False]


def test_learned_sigma_finds_the_residuals() -> None:
    """Its maximum likelihood is the root mean square of the residuals."""
    head = Gaussian(None).double()
    x = 0.2 * torch.randn(50, 1, 8, 8, dtype=torch.float64)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=100, tolerance_change=1e-14)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -head.log_prob(x, torch.zeros_like(x)).mean() / 64
        loss.backward()
        return loss

    optimizer.step(closure)
    assert head.log_sigma.exp().item() == pytest.approx(x.square().mean().sqrt().item(), rel=1e-4)


@pytest.mark.parametrize("scale", [-6.0, -2.0, 0.0, 2.0])
@pytest.mark.parametrize("components", [1, 5])
def test_logistics_sum_to_one_and_are_scipys(components: int, scale: float) -> None:
    head = DiscretisedLogistics(components)
    out = 0.5 * torch.randn(1, head.parameters_of(1), 1, 1, dtype=torch.float64)
    out[:, 2 * components :] += scale
    log_p = log_bins(head, out)
    assert torch.logsumexp(log_p, 0).abs() < 1e-6
    log_weight, mean, log_scale = (part.flatten().numpy() for part in head.split(out))
    levels = LEVELS.flatten().numpy()[:, None]
    upper = np.where(levels > 0.999, 1.0, logistic.cdf(levels + BIN / 2, mean, np.exp(log_scale)))
    lower = np.where(levels < -0.999, 0.0, logistic.cdf(levels - BIN / 2, mean, np.exp(log_scale)))
    np.testing.assert_allclose(log_p.exp(), ((upper - lower) * np.exp(log_weight)).sum(1), rtol=1e-6, atol=1e-9)


def test_logistics_are_finite_far_from_the_mean() -> None:
    head = DiscretisedLogistics(1)
    out = torch.tensor([0.0, -40.0, -150.0]).view(1, 3, 1, 1).requires_grad_()
    log_p = head.log_prob(LEVELS.float(), out.expand(256, 3, 1, 1))
    assert log_p.isfinite().all()
    log_p.sum().backward()
    assert out.grad.isfinite().all()


def test_logistics_keep_their_channels_apart() -> None:
    head = DiscretisedLogistics(4)
    out = torch.randn(2, head.parameters_of(3), 5, 7, dtype=torch.float64)
    x = torch.randint(256, (2, 3, 5, 7)) / 127.5 - 1
    # channel c of the image belongs to every third parameter from c on
    alone = [head.log_prob(x[:, c : c + 1], out[:, c::3]) for c in range(3)]
    torch.testing.assert_close(head.log_prob(x, out), sum(alone))
    assert head.mean(out).shape == (2, 3, 5, 7)
    assert head.mean(10 * out).abs().max() <= 1


def test_discrete_heads_are_flat_within_a_bin() -> None:
    head = DiscretisedLogistics(2)
    out = torch.randn(1, 6, 1, 1, dtype=torch.float64).expand(256, 6, 1, 1)
    inside = LEVELS + 0.49 * BIN * (2 * torch.rand_like(LEVELS) - 1)
    torch.testing.assert_close(head.log_prob(inside, out), head.log_prob(LEVELS, out))


@pytest.mark.parametrize("logit", [-3.0, 0.0, 1.5])
def test_bernoulli(logit: float) -> None:
    out = torch.full((1, 1, 1, 1), logit, dtype=torch.float64)
    p = log_bins(Bernoulli(), out).exp()
    white = 1 / (1 + math.exp(-logit))
    # the constant is for 128 levels of width 2 / 255 on either side
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert p[128:].sum() == pytest.approx(white, abs=1e-12)
    assert Bernoulli().mean(out).item() == pytest.approx(2 * white - 1)


def test_an_undecided_bernoulli_is_uniform() -> None:
    x = torch.randint(256, (6, 3, 4, 4)) / 127.5 - 1
    bits = bits_per_dim(Bernoulli().log_prob(x, torch.zeros_like(x)), 48)
    torch.testing.assert_close(bits, torch.full((6,), 8.0))
