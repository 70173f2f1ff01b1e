"""DDPM's two coordinate systems and its view `denoise`, with nets that know the answer."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from genzoo.diffusion.samplers import ddim, ddpm
from genzoo.diffusion.schedules import cosine, linear
from genzoo.generator import HasSampler
from genzoo.models.ddpm import DDPM


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
        alpha_bar = self.alpha_bar[t].view(-1, 1, 1, 1)
        return ((x - alpha_bar.sqrt() * self.x0) / (1 - alpha_bar).sqrt()).float()


def model(net: nn.Module, schedule=linear, sampler=ddim, steps: int = 10) -> DDPM:
    return DDPM((1, 4, 6), torch.optim.SGD, net, schedule(), sampler, steps)


@pytest.mark.parametrize("schedule", [linear, cosine])
def test_nearest_step_inverts_sigmas(schedule) -> None:
    m = model(nn.Identity(), schedule)
    assert torch.equal(m.nearest_step(m.sigmas), torch.arange(1000))
    for off in (0.9999, 1.0001):
        assert torch.equal(m.nearest_step(m.sigmas * off), torch.arange(1000))
    assert m.nearest_step(torch.tensor([0.0, 1e9])).tolist() == [0, 999]


def test_denoise_with_a_perfect_net_gives_x0() -> None:
    x0, noise = 2 * torch.rand(1000, 1, 4, 6).double() - 1, torch.randn(1000, 1, 4, 6).double()
    m = model(Answer(noise)).double()
    sigma = m.sigmas.view(-1, 1, 1, 1)
    torch.testing.assert_close(m.denoise(x0 + sigma * noise, sigma), x0, rtol=0, atol=1e-12)
    assert torch.equal(m.net.t, torch.arange(1000))
    # what the net saw is x_t of equation 4
    torch.testing.assert_close(m.net.x, m.diffuse(x0, m.net.t, noise), rtol=0, atol=1e-5)  # float32 buffers


def test_denoise_clips_and_takes_one_sigma_for_all() -> None:
    m = model(Answer(torch.zeros(2, 1, 4, 6)))
    x = torch.stack([torch.full((1, 4, 6), 3.0), torch.full((1, 4, 6), -0.5)])
    x0 = m.denoise(x, torch.tensor(2.0))
    assert (x0[0] == 1).all() and (x0[1] == -0.5).all()
    torch.testing.assert_close(m.net.x, x / math.sqrt(5))


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


def test_refusals() -> None:
    with pytest.raises(ValueError, match="steps=1001"):
        model(Point(torch.zeros(1, 4, 6), linear()), steps=1001)
    m = model(Point(torch.zeros(1, 4, 6), linear()), steps=10)
    with pytest.raises(ValueError, match="without classes"):
        m.sample(1, torch.zeros(1, dtype=torch.long))
