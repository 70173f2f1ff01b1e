"""Consistency training against paths that are known: data of one point, and Gaussian data."""

from functools import partial

import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from genzoo.diffusion.grids import trailing
from genzoo.diffusion.guidance import classifier_free
from genzoo.diffusion.samplers import ddim
from genzoo.diffusion.schedules import karras
from genzoo.diffusion.targets import edm
from genzoo.models.consistency import Consistency, boundary, doubling, log_normal_weights, multistep, pseudo_huber
from genzoo.nets.conditions import Classes
from genzoo.nets.mlp import Denoiser

SHAPE, MEAN, STD = (1, 4, 6), 0.1, 0.3


class Path(nn.Module):
    """The net with which f is the probability-flow ODE's map to sigma_min, for data N(MEAN, std^2)."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std
        self.unused = nn.Parameter(torch.zeros(()))

    def mean(self, y: Tensor | None) -> Tensor | float:
        return MEAN

    def forward(self, c_in_x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        m, mean = self.model[0], self.mean(y)
        sigma_min = m.sigmas[0]
        sigma = sigma_min * torch.exp(t / m.time_scale).view(-1, 1, 1, 1)
        c_skip, c_out, c_in = boundary(sigma, sigma_min, m.sigma_data)
        x = c_in_x / c_in
        shrink = torch.sqrt((self.std**2 + sigma_min**2) / (self.std**2 + sigma**2))
        f = mean + shrink * (x - mean)
        return torch.where(c_out > 0, (f - c_skip * x) / c_out, 0) + 0 * self.unused


def model(net: nn.Module, shape: tuple[int, int, int] = SHAPE, schedule=karras, **options) -> Consistency:
    return Consistency(shape, torch.optim.SGD, net, schedule, multistep, trailing, **options)


class Paths(Path):
    """Of two classes, with means of -0.2 and 0.4; the null's is 0.1."""

    def __init__(self, std: float) -> None:
        super().__init__(std)
        self.condition, self.seen = Classes(2, 1), []

    def mean(self, y: Tensor | None) -> Tensor:
        self.seen.append(y)
        return torch.tensor([-0.2, 0.4, MEAN]).to(self.unused)[torch.tensor([2]) if y is None else y].view(-1, 1, 1, 1)


def knowing(std: float, net: type[Path] = Path, **options) -> Consistency:
    net = net(std)
    m = model(net, **options).double()
    m.sigmas = karras(m.last + 1)  # the buffer was rounded
    net.model = [m]  # in a list, so that the model does not become its own submodule
    return m


def test_f_is_the_identity_at_the_boundary() -> None:
    m = model(Denoiser(SHAPE, width=8))
    x = torch.randn(50, *SHAPE)
    assert torch.equal(m.denoise(x, m.sigmas[0]), x)
    assert not torch.equal(m.denoise(x, m.sigmas[1]), x)


def test_coefficients_are_those_of_edm_far_from_the_boundary() -> None:
    sigma = torch.logspace(-2, 2, 50, dtype=torch.float64)
    for ours, theirs in zip(boundary(sigma, torch.tensor(0.0), 0.7), edm(sigma, 0.7), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_pseudo_huber_is_a_square_near_zero_and_a_norm_far_from_it() -> None:
    a, b = torch.randn(2, 100, *SHAPE, dtype=torch.float64)
    norms = (a - b).flatten(1).norm(dim=1)
    torch.testing.assert_close(pseudo_huber(a, b, 1e-9), norms)
    torch.testing.assert_close(1e6 * pseudo_huber(a, b, 1e6), norms**2 / 2, rtol=1e-3, atol=0)


def test_levels_double() -> None:
    k = 8000 // 8  # K' of Song & Dhariwal 2024, equation 6, for K = 8000 steps
    for step in range(8000):
        assert doubling(step / 8000, 10, 1280) == min(10 * 2 ** (step // k), 1280)
    assert doubling(1.2, 10, 1280) == 1280
    assert doubling(0.7, 10, 10) == 10


def test_weights_are_the_mass_of_a_log_normal() -> None:
    sigmas = torch.logspace(-2, 1.5, 9, dtype=torch.float64)
    mass = norm(-1.1, 2.0).cdf(sigmas.log().numpy())
    torch.testing.assert_close(log_normal_weights(sigmas, -1.1, 2.0), torch.from_numpy(mass[1:] - mass[:-1]))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_path_to_one_point_has_no_loss(share: float) -> None:
    m = knowing(std=0.0)
    m.spent = share
    assert m.loss(torch.full((300, *SHAPE), MEAN).double())["distance"] == pytest.approx(0, abs=1e-9)
    assert m.loss(torch.full((300, *SHAPE), MEAN + 0.1).double())["distance"] > 1e-5


def test_the_distance_over_a_step_halves_with_the_step() -> None:
    m, x = knowing(STD, huber=1e-9), (MEAN + STD * torch.randn(4000, *SHAPE)).double()
    distances = []
    for m.first in (40, 80, 160):  # of the first stage
        torch.manual_seed(0)
        distances.append(m.loss(x)["distance"].item())
    assert distances[0] / distances[1] == pytest.approx(2, rel=0.05)
    assert distances[1] / distances[2] == pytest.approx(2, rel=0.05)


class Masks(nn.Module):
    """Dropout that remembers what it dropped and whether anyone will ask for its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.seen = nn.Parameter(torch.ones(())), []

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        out = self.scale * nn.functional.dropout(torch.ones_like(x), 0.5)
        self.seen.append((out.detach(), out.requires_grad))
        return out


def test_both_ends_share_dropout_and_one_has_the_gradient() -> None:
    m = model(Masks())
    m.loss(torch.rand(64, *SHAPE))
    (low, low_gradient), (high, high_gradient) = m.net.seen
    assert torch.equal(low, high) and low.unique().tolist() == [0, 2]
    assert (low_gradient, high_gradient) == (False, True)
    m.loss(torch.rand(64, *SHAPE))
    assert not torch.equal(m.net.seen[2][0], low)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_gaussian_data_is_sampled(steps: int) -> None:
    """The exact map of N(0, sigma_max^2) gives the data at each visit of the end, whatever the steps."""
    m = knowing(0.2, steps=steps).float()
    x = m.sample(4000)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.003)
    assert x.std().item() == pytest.approx(0.2, rel=0.01)
    assert m.nfe == steps


def test_the_sampler_can_be_exchanged() -> None:
    m = knowing(0.0, steps=3).float()
    assert m.sampling == "multistep, 3 steps, trailing"
    m.sampler, m.steps = ddim, 4
    torch.testing.assert_close(m.sample(2), torch.full((2, *SHAPE), MEAN), atol=0.01, rtol=0)
    assert (m.sampling, m.nfe) == ("ddim, 4 steps, trailing", 4)


def test_the_grid_follows_the_budget() -> None:
    m = model(Denoiser(SHAPE, width=8))
    for m.spent, levels in [(0.0, 10), (0.13, 20), (1.0, 1280)]:
        m.training_step((torch.rand(2, *SHAPE), None), 0)
        low, high = m.neighbours(torch.zeros(5000, *SHAPE))
        assert levels / 3 < len(low.unique()) <= levels
        assert torch.isin(torch.cat([low, high]), karras(levels + 1).float()).all()


def test_a_small_net_learns_gaussian_data_in_one_step() -> None:
    shape, schedule = (2, 1, 1), partial(karras, sigma_max=10.0)
    m = model(Denoiser(shape, width=32), shape, schedule=schedule, last=80, huber=0.5, time_scale=10.0)
    optimizer = torch.optim.Adam(m.parameters())
    mean, std = torch.tensor([0.3, -0.2]), torch.tensor([0.2, 0.4])
    for i in range(500):
        m.spent = i / 500
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - m.spent)
        optimizer.zero_grad()
        m.loss((mean + std * torch.randn(256, 2)).view(-1, *shape))["loss"].backward()
        optimizer.step()
    x = m.sample(10_000).flatten(1)
    torch.testing.assert_close(x.mean(0), mean, atol=0.05, rtol=0)
    torch.testing.assert_close(x.std(0), std, atol=0.07, rtol=0)


# --- Conditions.


def test_both_ends_are_told_the_same_and_a_share_nothing() -> None:
    m = knowing(0.0, Paths, dropout=0.3)
    y = torch.arange(2).repeat(5000)
    m.loss(torch.zeros(10_000, *SHAPE).double(), y)
    low, high = m.net.seen
    assert torch.equal(low, high)
    dropped = low == 2  # the null's id
    assert torch.equal(low[~dropped], y[~dropped])
    assert dropped.double().mean().item() == pytest.approx(0.3, abs=0.02)
    with pytest.raises(ValueError, match="but the data has none: set condition=none"):
        m.loss(torch.zeros(2, *SHAPE))


def test_the_paths_to_a_point_for_each_class_have_no_loss() -> None:
    m, y = knowing(0.0, Paths, dropout=0.0), torch.arange(2).repeat(200)
    x = torch.tensor([-0.2, 0.4]).double()[y].view(-1, 1, 1, 1).expand(-1, *SHAPE)
    assert m.loss(x, y)["distance"] == pytest.approx(0, abs=1e-9)
    assert m.loss(x, 1 - y)["distance"] > 1e-3


@pytest.mark.parametrize(
    ("scale", "ends", "calls"), [(1.0, (-0.2, 0.4), 2), (0.0, (0.1, 0.1), 2), (2.0, (-0.5, 0.7), 4)]
)
def test_guidance_goes_from_the_nulls_point_to_the_classes_and_beyond(scale: float, ends, calls: int) -> None:
    m = knowing(0.0, Paths, steps=2, guidance=partial(classifier_free, scale=scale)).float()
    expected = torch.tensor(ends).view(-1, 1, 1, 1).expand(2, *SHAPE)
    torch.testing.assert_close(m.sample(2, torch.arange(2)), expected, atol=0.02, rtol=0)
    assert m.nfe == calls
    assert m.sampling.startswith("multistep, 2 steps, trailing, classifier_free")


def test_no_condition_is_the_null() -> None:
    m = model(Denoiser(SHAPE, width=8, condition=Classes(2, 4)))
    x, sigma = torch.randn(4, *SHAPE), torch.tensor(2.0)
    assert torch.equal(m.denoise(x, sigma), m.denoise(x, sigma, torch.full((4,), 2)))
    assert not torch.equal(m.denoise(x, sigma), m.denoise(x, sigma, torch.full((4,), 1)))


def test_a_small_net_learns_the_point_of_each_class() -> None:
    shape, points = (2, 1, 1), torch.tensor([[0.5, -0.3], [-0.4, 0.2]])
    net = Denoiser(shape, width=32, condition=Classes(2, 8))
    m = model(net, shape, schedule=partial(karras, sigma_max=10.0), last=40, huber=0.5, time_scale=10.0)
    optimizer = torch.optim.Adam(m.parameters())
    for i in range(300):
        m.spent = i / 300
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - m.spent)
        optimizer.zero_grad()
        y = torch.randint(2, (128,))
        m.loss(points[y].view(-1, *shape), y)["loss"].backward()
        optimizer.step()
    y = torch.arange(2).repeat(100)
    m.after_fit([(points[y].view(-1, *shape), y)])
    error = m.sample(200, y).flatten(1) - points[y]
    assert error.square().mean().sqrt() < 0.1
    near = torch.cdist(m.sample(400).flatten(1), points).min(1)  # unasked, each class as often as in the data
    assert near.values.mean() < 0.1 and near.indices.double().mean().item() == pytest.approx(0.5, abs=0.1)


def test_latents_are_not_clipped() -> None:
    m = knowing(5.0).float()
    m.bounded = False
    assert m.sample(50).abs().max() > 5


def test_refusals() -> None:
    net = Denoiser(SHAPE, width=8)
    with pytest.raises(ValueError, match="steps=0"):
        model(net, steps=0)
    with pytest.raises(ValueError, match="first=20, last=10"):
        model(net, first=20, last=10)
    with pytest.raises(ValueError, match="without classes"):
        model(net).sample(1, torch.zeros(1, dtype=torch.long))
