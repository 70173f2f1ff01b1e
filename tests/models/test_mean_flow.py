"""Mean flow against Gaussian data, whose path is linear and known."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from genzoo.diffusion.grids import trailing
from genzoo.diffusion.samplers import ddim
from genzoo.diffusion.schedules import flow
from genzoo.generator import HasDenoiser
from genzoo.models.mean_flow import MeanFlow, jumps
from genzoo.nets.conditions import Classes
from genzoo.nets.mlp import Denoiser
from genzoo.nets.unet import UNet

SHAPE, MEAN, STD = (1, 4, 6), 0.1, 0.3


class Path(nn.Module):
    """The exact u of data N(mean, std^2), told plain times."""

    def __init__(self, mean: float = MEAN, std: float = STD) -> None:
        super().__init__()
        self.mean, self.std = nn.Parameter(torch.tensor(mean)), nn.Parameter(torch.tensor(std))

    def at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of z_t."""
        return (1 - t) * self.mean, torch.sqrt((1 - t) ** 2 * self.std**2 + t**2)

    def carried(self, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """The probability-flow ODE's map from z_t to z_r: between Gaussians in one dimension it keeps the quantile."""
        (mean_t, std_t), (mean_r, std_r) = self.at(t), self.at(r)
        return mean_r + std_r / std_t * (z - mean_t)

    def velocity(self, z: Tensor, t: Tensor) -> Tensor:
        """The limit of (z_t - z_r) / (t - r) for r -> t."""
        mean, std = self.at(t)
        slope = (t - (1 - t) * self.std**2) / std  # of std
        return -self.mean + slope / std * (z - mean)

    def forward(self, z: Tensor, times: Tensor, y: Tensor | None = None) -> Tensor:
        t, length = (time.view(-1, 1, 1, 1) for time in times.unbind(1))
        u = (z - self.carried(z, t, t - length)) / torch.where(length > 0, length, 1)
        return torch.where(length > 1e-6, u, self.velocity(z, t))


def model(net: nn.Module, shape: tuple[int, int, int] = SHAPE, **options) -> MeanFlow:
    return MeanFlow(shape, torch.optim.SGD, net, flow(), jumps, trailing, **options)


def test_jumps_needs_chords() -> None:
    with pytest.raises(ValueError, match="take sampler=euler"):
        jumps(lambda x, sigma: x, torch.zeros(1, *SHAPE), torch.tensor([1.0, 0.0]))


@pytest.fixture
def knowing() -> MeanFlow:
    return model(Path(), time_scale=1.0).double()


def point(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """z, r and t in float64, r well below t."""
    t = 0.3 + 0.7 * torch.rand(n, dtype=torch.float64)
    return torch.randn(n, *SHAPE, dtype=torch.float64), t * torch.rand(n, dtype=torch.float64) * 0.9, t


def wide(t: Tensor) -> Tensor:
    return t.view(-1, 1, 1, 1)


def test_the_exact_average_velocity_is_its_own_target(knowing: MeanFlow) -> None:
    (z, r, t), path = point(200), knowing.net
    v = path.velocity(z, wide(t))
    u, target = knowing.prediction_and_target(z, r, t, v)
    torch.testing.assert_close(u, (z - path.carried(z, wide(t), wide(r))) / wide(t - r))
    torch.testing.assert_close(target, u.detach(), atol=1e-10, rtol=0)
    assert (target - v).abs().max() > 0.1  # without the derivative it would not be


def test_the_target_is_v_where_the_times_are_one() -> None:
    m = model(UNet(SHAPE, width=8, times=2))
    t, v = torch.rand(5), torch.randn(5, *SHAPE)
    assert torch.equal(m.prediction_and_target(torch.randn(5, *SHAPE), t, t, v)[1], v)


@pytest.mark.parametrize("net", [UNet, partial(Denoiser, width=16)], ids=["UNet", "MLP"])
def test_the_derivative_is_that_of_finite_differences(net) -> None:
    net = net(SHAPE, times=2) if net is not UNet else UNet(SHAPE, width=8, blocks=1, times=2)
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    m = model(net.double(), time_scale=3.0)
    (z, r, t), v, h = point(4), torch.randn(4, *SHAPE).double(), 1e-3
    after, before = m.average_velocity(z + h * v, r, t + h), m.average_velocity(z - h * v, r, t - h)
    u, target = m.prediction_and_target(z, r, t, v)
    torch.testing.assert_close(u, m.average_velocity(z, r, t))
    # a wide step, since embeddings are computed in float32
    torch.testing.assert_close((v - target) / wide(t - r), (after - before) / (2 * h), atol=1e-3, rtol=1e-3)
    assert u.requires_grad and not target.requires_grad


@pytest.mark.parametrize("power", [0.0, 0.75, 1.0])
def test_the_weight_tames_large_errors(knowing: MeanFlow, power: float) -> None:
    knowing.power, knowing.apart = power, 0.0
    x = (MEAN + STD * torch.randn(20_000, *SHAPE)).double()
    terms = knowing.loss(x)
    d = math.prod(SHAPE)
    if power == 0:
        assert terms["loss"].item() == pytest.approx(d * terms["error"].item())
        t = torch.sigmoid(-0.4 + torch.randn(100_000, 2).double()).amax(1)  # v's variance, given z_t, is (s / std_t)^2
        assert terms["error"].item() == pytest.approx((STD / knowing.net.at(t)[1]).square().mean().item(), rel=0.01)
    else:
        assert terms["loss"].item() == pytest.approx(d ** (1 - power), rel=0.35)


def test_the_gradient_does_not_see_the_target_or_the_weight() -> None:
    m = model(Denoiser(SHAPE, width=8, times=2), power=1.0, apart=1.0)
    x = torch.rand(6, *SHAPE)
    torch.manual_seed(3)
    m.loss(x)["loss"].backward()
    seen = [p.grad.clone() for p in m.parameters()]
    m.zero_grad()
    torch.manual_seed(3)
    r, t = m.times(x)
    noise = torch.randn_like(x)
    u, target = m.prediction_and_target(torch.lerp(x, noise, wide(t)), r, t, noise - x)
    error = u.detach() - target
    weight = 1 / (error.flatten(1).square().sum(1) + 1e-3)
    u.backward(2 / 6 * wide(weight) * error)
    for gradient, p in zip(seen, m.parameters(), strict=True):
        torch.testing.assert_close(gradient, p.grad)


def test_times() -> None:
    m = model(nn.Identity(), mean=-0.4, std=1.0, apart=0.25)
    r, t = m.times(torch.empty(40_000, 1, 1, 1))
    assert (r <= t).all() and r.min() > 0 and t.max() < 1
    assert (r < t).float().mean().item() == pytest.approx(0.25, abs=0.01)
    # of two standard normals the larger has mean 1 / sqrt(pi), the smaller minus that
    assert torch.logit(t).mean().item() == pytest.approx(-0.4 + 1 / math.sqrt(math.pi), abs=0.02)
    assert torch.logit(r[r < t]).mean().item() == pytest.approx(-0.4 - 1 / math.sqrt(math.pi), abs=0.04)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_steps_of_any_number_are_the_exact_map(knowing: MeanFlow, steps: int) -> None:
    knowing.steps = steps
    sigmas = knowing.sigma_grid
    assert len(sigmas) == steps + 1 and sigmas[-1] == 0
    t = sigmas / (1 + sigmas)
    torch.testing.assert_close(t[:-1] - t[1:], torch.full((steps,), 1 / steps).double(), atol=2e-3, rtol=0)
    start = sigmas[0] * torch.randn(50, *SHAPE).double()
    with torch.no_grad():
        x = jumps(knowing.denoiser(), start, sigmas)
    torch.testing.assert_close(x, knowing.net.carried((1 - t[0]) * start, t[0], torch.zeros(())), atol=1e-6, rtol=0)
    assert knowing.nfe == steps


def test_denoise_is_the_posterior_mean(knowing: MeanFlow) -> None:
    x, sigma = torch.randn(9, *SHAPE).double(), torch.logspace(-2, 2, 9).double().view(-1, 1, 1, 1)
    expected = (STD**2 * x + sigma**2 * MEAN) / (STD**2 + sigma**2)
    with torch.no_grad():
        torch.testing.assert_close(knowing.denoise(x, sigma), expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(knowing.denoise(x, sigma[0, 0, 0, 0])[0], expected[0], atol=1e-6, rtol=0)


def test_the_sampler_can_be_exchanged(knowing: MeanFlow) -> None:
    knowing.float()
    assert isinstance(knowing, HasDenoiser)
    assert knowing.sampling == "jumps, 1 step, trailing"
    torch.manual_seed(1)
    expected = knowing.sample(3)
    assert knowing.nfe == 1
    knowing.sampler, knowing.steps = ddim, 400
    torch.manual_seed(1)
    torch.testing.assert_close(knowing.sample(3), expected, atol=0.02, rtol=0)
    assert (knowing.nfe, knowing.sampling) == (400, "ddim, 400 steps, trailing")


@pytest.mark.parametrize("apart", [0.5, 1.0])
def test_the_loss_finds_the_data(apart: float) -> None:
    """From the path of other data; with power 0, since the weighted error's minimum is not at the mean."""
    m = model(Path(mean=-0.4, std=0.8), time_scale=1.0, power=0.0, apart=apart)
    optimizer = torch.optim.Adam(m.parameters())
    for i in range(200):
        optimizer.param_groups[0]["lr"] = 0.03 * (1 - i / 200)
        optimizer.zero_grad()
        m.loss(MEAN + STD * torch.randn(128, *SHAPE))["loss"].backward()
        optimizer.step()
    assert m.net.mean.item() == pytest.approx(MEAN, abs=0.03)
    assert m.net.std.item() == pytest.approx(STD, abs=0.03)
    x = m.sample(4000)
    assert (x.mean().item(), x.std().item()) == (pytest.approx(MEAN, abs=0.03), pytest.approx(STD, abs=0.03))


# --- Conditions.

MEANS = torch.tensor([-0.4, 0.3]).double()


class Guided(nn.Module):
    """The velocity at r = t of two classes N(MEANS, STD^2), as often as each other, guided by omega; of the null, that
    of both together."""

    def __init__(self, omega: float) -> None:
        super().__init__()
        self.condition, self.omega, self.seen = Classes(2, 1), omega, []

    def forward(self, z: Tensor, times: Tensor, y: Tensor | None = None) -> Tensor:
        self.seen.append(y)
        t = times[:, 0].view(-1, 1, 1, 1)
        paths = [Path(mean, STD).double() for mean in MEANS.tolist()]
        each = torch.stack([path.velocity(z, t) for path in paths])
        log_prob = torch.stack([Normal(*path.at(t)).log_prob(z).sum((1, 2, 3), keepdim=True) for path in paths])
        both = (torch.softmax(log_prob, dim=0) * each).sum(0)
        if y is None:
            return both
        told = each[y.clamp(max=1), torch.arange(len(z))]
        return torch.where((y == 2).view(-1, 1, 1, 1), both, torch.lerp(both, told, self.omega))


@pytest.mark.parametrize("omega", [1.0, 2.5])
def test_the_target_is_the_guided_velocity_on_the_average(omega: float) -> None:
    n, shape = 40_000, (1, 1, 1)
    m = model(Guided(omega), shape, time_scale=1.0, omega=omega).double()
    y = torch.randint(3, (n,))
    x = (MEANS[torch.where(y == 2, torch.randint(2, (n,)), y)] + STD * torch.randn(n)).view(-1, *shape)
    t, noise = torch.rand(n).double(), torch.randn_like(x)
    z = torch.lerp(x, noise, wide(t))
    with torch.no_grad():
        error = m.guided(noise - x, z, t) - m.average_velocity(z, t, t, y)
    for kind in range(3):
        for probe in (torch.ones_like(z), z, t.view_as(z)):
            terms = (error * probe)[y == kind]
            assert abs(terms.mean()) < 3.5 * terms.std() / math.sqrt(len(terms))


@pytest.mark.parametrize(("omega", "calls"), [(1.0, 1), (2.0, 2)])
def test_training_drops_a_share_and_guides_by_the_null(omega: float, calls: int) -> None:
    m, y = model(Guided(omega), omega=omega, dropout=0.3, apart=0.0).double(), torch.arange(2).repeat(5000)
    m.loss(torch.zeros(10_000, *SHAPE).double(), y)
    *unconditional, seen = m.net.seen
    assert len(m.net.seen) == calls and unconditional == [None] * (calls - 1)
    assert torch.equal(seen[seen != 2], y[seen != 2])
    assert (seen == 2).double().mean().item() == pytest.approx(0.3, abs=0.02)
    with pytest.raises(ValueError, match="but the data has none: set condition=none"):
        m.loss(torch.zeros(2, *SHAPE).double())


def test_no_condition_is_the_null() -> None:
    m = model(Denoiser(SHAPE, width=8, times=2, condition=Classes(2, 4)))
    x, sigma = torch.randn(4, *SHAPE), torch.tensor(2.0)
    assert torch.equal(m.denoise(x, sigma), m.denoise(x, sigma, torch.full((4,), 2)))
    assert not torch.equal(m.denoise(x, sigma), m.denoise(x, sigma, torch.full((4,), 1)))


class Points(nn.Module):
    """The exact u of a point for each class, and of one more for the null."""

    def __init__(self, points: Tensor) -> None:
        super().__init__()
        self.condition, self.points = Classes(2, 1), nn.Parameter(points)

    def forward(self, z: Tensor, times: Tensor, y: Tensor | None = None) -> Tensor:
        point = self.points[torch.tensor([2]) if y is None else y].view(-1, 1, 1, 1)
        return (z - point) / times[:, 0].view(-1, 1, 1, 1)


def test_each_class_comes_to_its_point() -> None:
    m, y = model(Points(torch.tensor([-0.4, 0.3, 0.1])), time_scale=1.0), torch.tensor([1, 0, 1])
    expected = torch.tensor([0.3, -0.4, 0.3]).view(-1, 1, 1, 1).expand(3, *SHAPE)
    for m.steps in (1, 3):
        torch.testing.assert_close(m.sample(3, y), expected)
        assert m.nfe == m.steps
    m.after_fit([(torch.zeros(100, *SHAPE), torch.arange(100) % 4 // 3)])
    ids = (m.sample(4000)[:, 0, 0, 0] > 0).double()  # unasked, as often as in the data
    assert ids.mean().item() == pytest.approx(0.25, abs=0.03)
    with pytest.raises(ValueError, match="knows the classes 0 to 1"):
        m.sample(1, torch.tensor([2]))


@pytest.mark.parametrize("omega", [1.0, 1.5])
def test_the_loss_finds_each_class_guided_away_from_the_null(omega: float) -> None:
    """With a point c for the null, the velocity towards a class's point leads to c + omega (point - c)."""
    points, null = torch.tensor([-0.4, 0.3]), -0.05  # the mean
    m = model(Points(torch.zeros(3)), time_scale=1.0, power=0.0, apart=0.5, dropout=0.1, omega=omega)
    m.mean, optimizer = 1.0, torch.optim.Adam(m.parameters(), 0.03)  # away from t = 0, where u is steep
    for i in range(200):
        optimizer.param_groups[0]["lr"] = 0.03 * (1 - i / 200)
        optimizer.zero_grad()
        y = torch.arange(128) % 2
        m.loss(points[y].view(-1, 1, 1, 1).expand(-1, *SHAPE), y)["loss"].backward()
        optimizer.step()
    low, high, both = m.net.points.tolist()
    assert both == pytest.approx(null, abs=0.03)
    assert [low, high] == pytest.approx((null + omega * (points - null)).tolist(), abs=0.03)


def test_latents_are_not_clipped() -> None:
    m = model(Path(mean=0.0, std=5.0), time_scale=1.0)
    m.bounded = False
    assert m.sample(50).abs().max() > 5


def test_refusals() -> None:
    with pytest.raises(ValueError, match="steps=0"):
        model(nn.Identity(), steps=0)
    with pytest.raises(ValueError, match="omega=2 guides towards a condition"):
        model(nn.Identity(), omega=2)
    with pytest.raises(ValueError, match="without classes"):
        model(nn.Identity()).sample(1, torch.zeros(1, dtype=torch.long))
