"""Guidance's convention and the limits of x0_hat."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal

from genzoo.diffusion.guidance import classifier_free, clip, dynamic_threshold

X, SIGMA, Y = torch.randn(5, 1, 2, 2), torch.tensor(0.7), torch.tensor([0, 1, 0, 1, 1])
MU = torch.tensor([-1.0, 1.0, 0.0])  # the last one, of the null, is the mixture's mean


class Predict:
    """The denoiser of N(MU[y], 1) that counts its calls."""

    def __init__(self, gain: float = 1.0) -> None:
        self.gain, self.seen = gain, []

    def __call__(self, x: Tensor, sigma: Tensor, y: Tensor | None = None) -> Tensor:
        self.seen.append(y)
        mu = MU[torch.full((len(x),), 2) if y is None else y].view(-1, 1, 1, 1)
        return self.gain * (x + sigma**2 * mu) / (1 + sigma**2)


def test_the_ends_are_exact_and_cost_one_call() -> None:
    predict = Predict()
    assert torch.equal(classifier_free(predict, Y, scale=1.0)(X, SIGMA), predict(X, SIGMA, Y))
    assert torch.equal(classifier_free(predict, Y, scale=0.0)(X, SIGMA), predict(X, SIGMA, None))
    assert len(predict.seen) == 4
    near = classifier_free(predict, Y, scale=1 + 1e-7)(X, SIGMA)
    torch.testing.assert_close(near, predict(X, SIGMA, Y), rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [-0.5, 0.3, 2.0, 7.5])
def test_the_scale_goes_on_in_a_straight_line(scale: float) -> None:
    predict = Predict()
    weak, strong = predict(X, SIGMA), predict(X, SIGMA, Y)
    torch.testing.assert_close(classifier_free(predict, Y, scale=scale)(X, SIGMA), weak + scale * (strong - weak))


def test_outside_the_interval_nothing_is_guided() -> None:
    predict = Predict()
    guided = classifier_free(predict, Y, scale=3.0, interval=(0.5, 1.0))
    for sigma, calls in ((0.4, 1), (0.5, 1), (0.7, 2), (1.0, 2), (1.1, 1)):
        predict.seen.clear()
        x0 = guided(X, torch.tensor(sigma))
        assert len(predict.seen) == calls
        assert torch.equal(x0, predict(X, torch.tensor(sigma), Y)) == (calls == 1)


def test_each_image_has_its_own_interval() -> None:
    predict, sigma = Predict(), torch.linspace(0.2, 1.4, 5).view(-1, 1, 1, 1)
    guided = classifier_free(predict, Y, scale=3.0, interval=(0.5, 1.0))
    together = guided(X, sigma)
    for i in range(5):
        alone = classifier_free(predict, Y[i : i + 1], scale=3.0, interval=(0.5, 1.0))(X[i : i + 1], sigma[i])
        torch.testing.assert_close(together[i : i + 1], alone)


def test_a_weaker_model_guides_with_the_same_class() -> None:
    predict, guide = Predict(), Predict(gain=0.9)
    x0 = classifier_free(predict, Y, guide, scale=2.0)(X, SIGMA)
    torch.testing.assert_close(x0, 1.1 * Predict()(X, SIGMA, Y))
    assert torch.equal(guide.seen[0], Y)
    unconditional = classifier_free(predict, None, guide, scale=2.0)(X, SIGMA)
    torch.testing.assert_close(unconditional, 1.1 * Predict()(X, SIGMA))


def test_without_class_there_is_nothing_to_guide_to() -> None:
    predict = Predict()
    assert torch.equal(classifier_free(predict, None, scale=5.0)(X, SIGMA), predict(X, SIGMA))
    assert len(predict.seen) == 2


def test_guided_score_is_that_of_the_sharpened_class() -> None:
    """(D - x) / sigma^2 is the gradient of log p(x) + w log p(y | x) (Ho & Salimans 2022, equation 5), by autograd."""
    sigma, w, x = 0.8, 2.5, X.double().requires_grad_()
    std = (1 + sigma**2) ** 0.5
    mu = MU[:2].double()
    mixture = MixtureSameFamily(Categorical(torch.ones(2).double()), Normal(mu, std))
    log_p_class = Normal(mu[Y].view(-1, 1, 1, 1), std).log_prob(x) - mixture.log_prob(x)
    (gradient,) = torch.autograd.grad((mixture.log_prob(x) + w * log_p_class).sum(), x)

    def predict(x: Tensor, sigma: Tensor, y: Tensor | None = None) -> Tensor:
        if y is not None:
            return (x + sigma**2 * mu[y].view(-1, 1, 1, 1)) / (1 + sigma**2)
        p = torch.softmax(Normal(mu, std).log_prob(x[..., None]), -1)
        return (x + sigma**2 * (p * mu).sum(-1)) / (1 + sigma**2)

    x = x.detach()
    x0 = classifier_free(predict, Y, scale=w)(x, torch.tensor(sigma).double())
    torch.testing.assert_close((x0 - x) / sigma**2, gradient, rtol=1e-6, atol=1e-6)


def test_limits() -> None:
    x0 = 3 * torch.randn(7, 3, 4, 5)
    assert torch.equal(clip(x0), x0.clamp(-1, 1))
    inside = x0 / 20
    assert torch.equal(dynamic_threshold(inside), inside)
    got = dynamic_threshold(x0, 0.9)
    for image, limited in zip(x0.numpy(), got.numpy(), strict=True):
        s = np.percentile(np.abs(image), 90)
        np.testing.assert_allclose(limited, np.clip(image, -s, s) / s, rtol=1e-5)
