"""DDPM's two coordinate systems and its view `denoise`, with nets that know the answer."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from genzoo.diffusion.samplers import ddim, ddpm
from genzoo.diffusion.schedules import cosine, linear
from genzoo.generator import HasLikelihood, HasLikelihoods, HasSampler
from genzoo.models.ddpm import DDPM
from genzoo.nets.mlp import Denoiser


class Answer(nn.Module):
    """A net that says what it was told to, and remembers what it saw."""

    def __init__(self, answer: Tensor | None = None) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.x, self.t = x, t
        return self.answer


class Point(nn.Module):
    """The exact noise predictor of data that is one point."""

    def __init__(self, x0: Tensor, alpha_bar: Tensor) -> None:
        super().__init__()
        self.x0, self.alpha_bar = x0, alpha_bar

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        assert torch.equal(t, t.round())  # losses and samplers stay on the training grid
        alpha_bar = self.alpha_bar[t.long()].view(-1, 1, 1, 1)
        return ((x - alpha_bar.sqrt() * self.x0) / (1 - alpha_bar).sqrt()).float()


def model(net: nn.Module, schedule=linear, sampler=ddim, steps: int = 10) -> DDPM:
    return DDPM((1, 4, 6), torch.optim.SGD, net, schedule(), sampler, steps)


@pytest.mark.parametrize("schedule", [linear, cosine])
def test_step_of_inverts_sigmas(schedule) -> None:
    m = model(nn.Identity(), schedule)
    assert torch.equal(m.step_of(m.sigmas), torch.arange(1000.0))
    assert torch.equal(m.step_of(m.sigmas.double()), torch.arange(1000.0).double())
    halfway = torch.sqrt(m.sigmas.double()[1:] * m.sigmas.double()[:-1])
    torch.testing.assert_close(m.step_of(halfway), torch.arange(999.0).double() + 0.5, rtol=0, atol=1e-4)
    assert m.step_of(torch.tensor([0.0, 1e9])).tolist() == [0, 999]


def test_denoise_with_a_perfect_net_gives_x0() -> None:
    x0, noise = 2 * torch.rand(1000, 1, 4, 6).double() - 1, torch.randn(1000, 1, 4, 6).double()
    m = model(Answer(noise)).double()
    sigma = m.sigmas.view(-1, 1, 1, 1)
    torch.testing.assert_close(m.denoise(x0 + sigma * noise, sigma), x0, rtol=0, atol=1e-12)
    assert torch.equal(m.net.t, torch.arange(1000))
    # what the net saw is x_t of equation 4
    torch.testing.assert_close(m.net.x, m.diffuse(x0, m.net.t.long(), noise), rtol=0, atol=1e-5)  # float32 buffers


def test_denoise_clips_and_takes_one_sigma_for_all() -> None:
    m = model(Answer(torch.zeros(2, 1, 4, 6)))
    x = torch.stack([torch.full((1, 4, 6), 3.0), torch.full((1, 4, 6), -0.5)])
    x0 = m.denoise(x, torch.tensor(2.0))
    assert (x0[0] == 1).all() and (x0[1] == -0.5).all()
    torch.testing.assert_close(m.net.x, x / math.sqrt(5))


def test_predict_is_unclipped_and_continuous() -> None:
    m = model(Denoiser((1, 4, 6), width=8)).double()
    x = 3 * torch.randn(1, 1, 4, 6).double()
    assert m.predict(x, torch.tensor(0.5)).abs().max() > 1
    assert torch.equal(m.denoise(x, torch.tensor(0.5)), m.predict(x, torch.tensor(0.5)).clamp(-1, 1))
    sigma = torch.linspace(0.4, 0.6, 20_001).double()[:, None, None, None]  # across many steps of the grid
    assert m.predict(x.expand(20_001, -1, -1, -1), sigma).diff(dim=0).abs().max() < 1e-3


def test_loss_is_the_mean_squared_error_of_the_noise() -> None:
    x = torch.rand(4000, 1, 4, 6) * 2 - 1
    silent = model(Answer(torch.zeros(4000, 1, 4, 6)))
    assert silent.loss(x)["loss"].item() == pytest.approx(1.0, abs=0.02)  # E|noise|^2
    assert silent.net.t.float().mean() == pytest.approx(499.5, abs=5 * 1000 / math.sqrt(12 * 4000))
    assert silent.net.t.min() < 10 and silent.net.t.max() > 989
    x0 = torch.rand(1, 4, 6)
    knowing = model(Point(x0, linear()))
    assert knowing.loss(x0.expand(500, 1, 4, 6))["loss"].item() == pytest.approx(0, abs=1e-6)


def test_diffuse_has_ho_et_als_mean_and_variance() -> None:
    m = model(nn.Identity())
    x = torch.full((100_000, 1, 1, 1), 0.7)
    x_t = m.diffuse(x, torch.full((100_000,), 300), torch.randn(100_000, 1, 1, 1))
    alpha_bar = math.prod(1 - (1e-4 + i * (0.02 - 1e-4) / 999) for i in range(301))
    assert x_t.mean() == pytest.approx(0.7 * math.sqrt(alpha_bar), abs=0.015)
    assert x_t.var() == pytest.approx(1 - alpha_bar, rel=0.02)


@pytest.mark.parametrize("sampler", [ddim, ddpm, partial(ddim, eta=1.0)], ids=["ddim", "ddpm", "eta=1"])
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_data_of_one_point_is_sampled(sampler, steps: int) -> None:
    x0 = torch.rand(1, 4, 6) * 1.8 - 0.9
    x = model(Point(x0, linear()), sampler=sampler, steps=steps).sample(3)
    torch.testing.assert_close(x, x0.expand(3, 1, 4, 6), rtol=0, atol=1e-4)


def test_the_sampler_can_be_exchanged() -> None:
    m = model(Point(torch.zeros(1, 4, 6), linear()), steps=10)
    assert isinstance(m, HasSampler)
    assert (m.nfe, m.sampling) == (10, "ddim, 10 steps")
    m.sampler, m.steps = partial(ddim, eta=0.5), 4
    assert (m.nfe, m.sampling) == (4, "ddim, 4 steps, eta 0.5")
    calls = []
    m.net.register_forward_hook(lambda *_: calls.append(1))
    m.sample(2)
    assert len(calls) == m.nfe


class GaussianNoise(nn.Module):
    """The exact noise predictor of data N(0.1, 0.3^2), which also knows what lies between the steps."""

    def __init__(self, sigmas: Tensor) -> None:
        super().__init__()
        self.log_sigmas = sigmas.log()

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        below = t.long().clamp(max=len(self.log_sigmas) - 2)
        sigma = torch.lerp(self.log_sigmas[below], self.log_sigmas[below + 1], t - below).exp().view(-1, 1, 1, 1)
        x = x_t * torch.sqrt(1 + sigma**2)
        return (x - (0.3**2 * x + sigma**2 * 0.1) / (0.3**2 + sigma**2)) / sigma


@pytest.fixture
def gaussian() -> DDPM:
    m = model(nn.Identity()).double()
    m.net = GaussianNoise(m.sigmas)
    return m


@pytest.mark.parametrize("shape", [(1, 2, 3), (1, 4, 6)])
def test_likelihoods_of_gaussian_data(gaussian: DDPM, shape: tuple[int, int, int]) -> None:
    """Both ways against N(0.1, 0.3^2): exact and Hutchinson's trace, and a bound whose gap the coarse steps explain."""
    x = ((Normal(0.1, 0.3).sample((400, *shape)) * 127.5 + 128).floor().clamp(0, 255) / 127.5 - 1).double()
    gaussian.image_shape = shape
    assert isinstance(gaussian, HasLikelihood) and isinstance(gaussian, HasLikelihoods)
    assert gaussian.likelihood == "lower bound"
    bound, ode = gaussian.likelihoods()
    trace = "exact trace" if shape == (1, 2, 3) else "Hutchinson trace, 1 probe"
    assert bound[:2] == ("lower bound", "VLB, 25 of 999 terms")
    assert ode[:2] == ("estimate", f"probability-flow ODE, RK45, tolerance 0.0001, {trace}")
    # at the smallest sigma the data have that much noise more; the bins are too narrow to matter
    sigma_min = gaussian.sigmas[0].item()
    log_p = Normal(0.1, math.hypot(0.3, sigma_min)).log_prob(x).sum((1, 2, 3))
    d = math.prod(shape)
    assert (ode.log_prob(x) - log_p).mean().item() == pytest.approx(0, abs=0.003 * d)
    gap = (log_p - bound.log_prob(x)) / d
    waste = sum(0.5 * (r**2 - 1) - math.log(r) for r in (gaussian.sigmas[1:] / gaussian.sigmas[:-1]).tolist()[:300])
    assert gap.mean().item() == pytest.approx(waste, abs=0.1)
    assert gap.mean() > 0


def test_the_ode_starts_from_the_dequantised_image(gaussian: DDPM) -> None:
    seen = []
    gaussian.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    x = (torch.randint(256, (500, 1, 4, 6)) / 127.5 - 1).double()
    gaussian.ode_log_prob(x)
    x_t, t = seen[0]
    moved = (x_t * torch.sqrt(1 + gaussian.sigmas[0] ** 2) - x) * 127.5
    assert not t.any()
    assert moved.abs().max() <= 0.5 + 1e-9 and moved.std().item() == pytest.approx(1 / math.sqrt(12), rel=0.02)


def test_bound_takes_all_steps_where_there_are_few() -> None:
    m = model(nn.Identity(), partial(linear, 20))
    m.net = GaussianNoise(m.sigmas)
    assert m.likelihoods()[0].method == "VLB, 19 of 19 terms"
    calls = []
    m.net.register_forward_hook(lambda *_: calls.append(1))
    assert m.log_prob(torch.zeros(3, 1, 4, 6)).isfinite().all()
    assert len(calls) == 20  # and the reconstruction's


def test_refusals() -> None:
    with pytest.raises(ValueError, match="steps=1001"):
        model(Point(torch.zeros(1, 4, 6), linear()), steps=1001)
    m = model(Point(torch.zeros(1, 4, 6), linear()), steps=10)
    with pytest.raises(ValueError, match="without classes"):
        m.sample(1, torch.zeros(1, dtype=torch.long))
