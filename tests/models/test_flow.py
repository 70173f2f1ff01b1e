"""The flow's layers and its whole map against autograd's Jacobian, its likelihood against integration."""

import copy
import math
from functools import partial

import pytest
import torch
from nflows.transforms import AffineCouplingTransform
from nflows.transforms.base import Transform
from torch import Tensor, nn

from genzoo.generator import to_uint8
from genzoo.models.flow import Flow, even
from genzoo.nets import conv, mlp
from genzoo.nets.invertible import ActNorm, Rotation, affine, halves, spline, squeezes


def off_start(module: nn.Module, scale: float = 0.1) -> nn.Module:
    """The module in float64 with its parameters moved, so that no layer is the identity."""
    module.double()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(scale * torch.randn_like(p))
    return module.eval()


def autograd_log_det(f: Transform, x: Tensor) -> Tensor:
    """log |det| of the Jacobian of each (1, C, H, W) of x, by automatic differentiation."""
    jacobians = [torch.autograd.functional.jacobian(lambda v: f(v)[0], one[None]) for one in x]
    return torch.stack([torch.linalg.slogdet(j.reshape(x[0].numel(), -1))[1] for j in jacobians])


COUPLING_NET = partial(conv.Coupling, width=8)
LAYERS = {
    "actnorm": lambda: ActNorm(4),
    "rotation": lambda: Rotation(4),
    "affine": lambda: affine(4, COUPLING_NET),
    "affine odd": lambda: affine(5, COUPLING_NET),
    "spline": lambda: spline(4, COUPLING_NET),
    "spline mlp": lambda: spline(4, partial(mlp.Coupling, width=8), bins=5, tail=1.0),
}


def flow(
    shape: tuple[int, int, int] = (1, 8, 8), coupling=affine, steps: int = 2, net=COUPLING_NET, **options: float
) -> Flow:
    return Flow(shape, torch.optim.SGD, coupling, net, steps, **options)


def levels_of(*shape: int) -> Tensor:
    return torch.randint(256, shape) / 127.5 - 1


# --- Layers.


@pytest.mark.parametrize("name", LAYERS)
def test_layer_log_det_and_inverse(name: str) -> None:
    layer = off_start(LAYERS[name](), 0.3)
    x = 2 * torch.randn(3, 5 if "odd" in name else 4, 2, 3, dtype=torch.float64)  # also outside the spline's bins
    z, log_det = layer(x)
    assert log_det.shape == (3,)
    assert (z - x).abs().max() > 0.01
    assert (log_det - autograd_log_det(layer, x)).abs().max() < 1e-7
    back, inverse_log_det = layer.inverse(z)
    assert (back - x).abs().max() < 1e-8
    assert (inverse_log_det + log_det).abs().max() < 1e-8


@pytest.mark.parametrize("channels", [4, 5])
def test_affine_is_nflows(channels: int) -> None:
    ours = off_start(affine(channels, COUPLING_NET), 0.3)
    theirs = AffineCouplingTransform(halves(channels), lambda *_: ours.transform_net)
    x = torch.randn(3, channels, 2, 3, dtype=torch.float64)
    for found, wanted in zip((*ours(x), *ours.inverse(x)), (*theirs(x), *theirs.inverse(x))):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("coupling", [affine, spline])
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 4, 4), (1, 8, 8), (2, 1, 1), (3, 4, 6)])
def test_flow_log_det_and_inverse(coupling, shape: tuple[int, int, int]) -> None:
    f = off_start(flow(shape, coupling)).transform
    x = torch.randn(2, *shape, dtype=torch.float64)
    z, log_det = f(x)
    assert z.shape == (2, math.prod(shape))
    assert (log_det - autograd_log_det(f, x)).abs().max() < 1e-7
    back, inverse_log_det = f.inverse(z)
    assert (back - x).abs().max() < 1e-8
    assert (inverse_log_det + log_det).abs().max() < 1e-8


def test_actnorm_starts_from_its_first_batch() -> None:
    layer = ActNorm(3)
    x = torch.randn(64, 3, 4, 4) * torch.tensor([0.2, 1.0, 30.0])[:, None, None] + 5
    y, _ = layer(x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(y.std((0, 2, 3)), torch.ones(3), rtol=1e-3, atol=0)


def test_actnorm_starts_once_and_never_in_evaluation() -> None:
    layer = ActNorm(2).eval()
    layer(torch.randn(8, 2, 3, 3) + 4)
    assert not layer.started and not layer.shift.any()
    layer.train()
    layer(torch.randn(8, 2, 3, 3) + 4)
    held = copy.deepcopy(layer.state_dict())
    assert held["started"]
    for follower in (layer, copy.deepcopy(layer), loaded(ActNorm(2), held)):
        follower.train()(torch.randn(8, 2, 3, 3) - 90)
        assert torch.equal(follower.shift, held["shift"]) and torch.equal(follower.log_scale, held["log_scale"])


def loaded(module: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    module.load_state_dict(state)
    return module


def test_actnorm_stands_a_constant_channel() -> None:
    layer = ActNorm(2)
    x = torch.randn(8, 2, 3, 3)
    x[:, 1] = 7.0
    y, log_det = layer(x)
    assert y.isfinite().all() and log_det.isfinite().all()
    assert not y[:, 1].any()


@pytest.mark.parametrize("channels", [1, 2, 12, 48])
def test_rotation_starts_as_a_rotation(channels: int) -> None:
    layer = Rotation(channels)
    torch.testing.assert_close(layer.weight @ layer.weight.T, torch.eye(channels), rtol=0, atol=1e-5)
    assert layer.log_det(torch.zeros(2, channels, 4, 4)).abs().max() < 1e-4
    assert channels == 1 or (layer.weight - torch.eye(channels)).abs().max() > 0.1


def test_couplings_start_as_elementwise_maps() -> None:
    """Their nets start at zero: no channel depends on another."""
    for coupling in (affine, spline):
        layer = coupling(4, COUPLING_NET).double()
        x = torch.randn(1, 4, 2, 2, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(lambda v, f=layer: f(v)[0], x).reshape(16, 16)
        assert (jacobian - jacobian.diag().diag()).abs().max() == 0


# --- The shape of the flow.


def test_levels_and_padding() -> None:
    sizes = [(8, 8), (28, 28), (32, 48), (16, 18), (7, 8), (1, 1)]
    assert [squeezes(*size) for size in sizes] == [2, 2, 3, 1, 0, 0]
    assert [even(side) for side in (1, 2, 3, 15, 28)] == [1, 2, 4, 16, 28]


def test_odd_sides_make_it_a_bound() -> None:
    assert flow((1, 8, 8)).likelihood == flow((2, 1, 1)).likelihood == "exact"
    for shape in ((1, 7, 8), (3, 8, 5)):
        assert flow(shape).likelihood == "lower bound"
        assert flow(shape).sample(2).shape == (2, *shape)


def test_one_channel_without_squeeze_is_refused() -> None:
    with pytest.raises(ValueError, match="1x1 greyscale images are too small"):
        flow((1, 1, 1))


# --- Likelihood.


class Flatten(nn.Module):
    """The identity as a flow."""

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        return x.flatten(1), torch.zeros(len(x), dtype=x.dtype)


def test_dequantised_logits_of_an_identity_flow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The density of u = (level + w) / 256 when logit(alpha + (1 - 2 alpha) u) is standard normal, by autograd."""
    model = flow((2, 3, 5), alpha=0.03)
    model.padded, model.transform = model.image_shape, Flatten()
    levels = torch.randint(256, (4, 2, 3, 5))
    w = torch.rand(4, 2, 3, 5, dtype=torch.float64)
    monkeypatch.setattr(torch, "rand_like", lambda x: w)
    u = ((levels + w) / 256).requires_grad_()
    z = torch.logit(0.03 + 0.94 * u)
    (slope,) = torch.autograd.grad(z.sum(), u)
    log_density_of_u = (torch.distributions.Normal(0, 1).log_prob(z) + slope.log()).flatten(1).sum(1)
    # x in [-1, 1] is 256 / 127.5 times as wide as u
    expected = log_density_of_u + 30 * math.log(127.5 / 256)
    torch.testing.assert_close(model.log_prob(levels.double() / 127.5 - 1), expected, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("coupling", [affine, spline])
def test_probabilities_of_all_points_sum_to_one(coupling) -> None:
    """Every other one of 256 values both ways, each for 4 images; alpha so small that the flow cannot leave [0, 1]."""
    model = off_start(flow((2, 1, 1), coupling, alpha=1e-7))
    grid = torch.cartesian_prod(torch.arange(0, 256, 2), torch.arange(0, 256, 2)).double() / 127.5 - 1
    log_p = torch.stack([model.log_prob(grid.view(-1, 2, 1, 1)) for _ in range(2)])
    assert (4 * log_p.exp() / 127.5**2).sum(1).mean() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("coupling", [affine, pytest.param(spline, marks=pytest.mark.slow)])
def test_probabilities_sum_to_one_for_each_class_and_over_them(coupling) -> None:
    model = off_start(flow((2, 1, 1), coupling, alpha=1e-7, classes=3))
    assert model.base.weight.any()
    model.shares.copy_(torch.tensor([0.5, 0.3, 0.2]))
    grid = torch.cartesian_prod(torch.arange(0, 256, 2), torch.arange(0, 256, 2)).double() / 127.5 - 1
    x = grid.view(-1, 2, 1, 1)  # every other level both ways: cells of 4 bins
    values = model.values(x, torch.rand_like(x))
    rows = torch.eye(3, dtype=torch.float64)
    given = [model.log_density(*values, row.expand(len(x), -1)).detach().exp() for row in rows]
    assert all(4 * p.sum() / 127.5**2 == pytest.approx(1, abs=0.01) for p in given)
    assert not torch.allclose(given[0], given[1], rtol=0.05)
    assert 4 * model.log_prob(x).exp().sum() / 127.5**2 == pytest.approx(1, abs=0.01)


def test_all_classes_are_asked_of_one_dequantised_image() -> None:
    """At its start the flow hears no class, so that their mixture is any one of them."""
    model = flow((2, 4, 4), steps=1, classes=3).double().eval()
    x = torch.randint(256, (5, 2, 4, 4)).double() / 127.5 - 1
    torch.manual_seed(1)
    log_p = model.log_prob(x)
    torch.manual_seed(1)
    alone = model.log_density(*model.values(x, torch.rand_like(x)), model.class_vector(x))
    torch.testing.assert_close(log_p, alone)


def test_an_asked_class_has_its_own_mean() -> None:
    """With every layer at its start and z of class k around k, the latents of samples are where they were asked."""
    model = flow((1, 4, 4), steps=1, classes=3, temperature=0.1)
    with torch.no_grad():
        model.base.weight[:16] = torch.arange(3.0)
    seen = []
    model.decode = lambda z, y: seen.append(z)
    y = torch.tensor([0, 2, 1]).repeat(50)
    model.sample(150, y)
    assert (seen[0].mean(1) - y).abs().max() < 0.2
    with pytest.raises(ValueError, match="classes 0 to 2"):
        model.sample(1, torch.tensor([3]))


def test_padded_likelihood_integrates_to_one() -> None:
    """Over uniform images and padding, by Monte Carlo."""
    model = off_start(flow((2, 1, 3), net=partial(mlp.Coupling, width=8), alpha=1e-7), 0.03)
    assert model.padded == (2, 1, 4)
    x = torch.randint(256, (200_000, 2, 1, 3)).double() / 127.5 - 1
    p = model.log_prob(x).exp() * (256 / 127.5) ** 6
    error = p.std() / math.sqrt(len(p))
    assert error < 0.03
    assert abs(p.mean() - 1) < 4 * error


def test_loss_is_in_bits() -> None:
    model = flow().eval()
    x = levels_of(8, 1, 8, 8)
    torch.manual_seed(3)
    loss = model.loss(x)["loss"]
    torch.manual_seed(3)
    expected = (-model.log_prob(x).mean() + 64 * math.log(127.5)) / (64 * math.log(2))
    torch.testing.assert_close(loss, expected)


def test_a_started_flow_is_near_eight_bits() -> None:
    """Uniform noise has 8 bits; ActNorm's start makes the latents of any data nearly standard normal."""
    model = flow((3, 8, 8), steps=4)
    x = levels_of(64, 3, 8, 8)
    model.loss(x)
    assert 8 < model.loss(x)["loss"].item() < 9.5


# --- Encoding and sampling.


@pytest.mark.parametrize("coupling", [affine, spline])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 7, 9), (3, 8, 12), (2, 1, 1)])
def test_encoding_keeps_every_level(coupling, shape: tuple[int, int, int]) -> None:
    model = flow(shape, coupling)
    x = levels_of(64, *shape)
    model.loss(x)
    u = to_uint8(x)
    assert len(u.unique()) > 80
    assert torch.equal(to_uint8(model.decode(model.encode(x))), u)


def test_temperature_scales_the_noise() -> None:
    model = flow((1, 4, 4))
    seen = []
    decode = model.decode
    model.decode = lambda z, y: seen.append(z) or decode(z, y)
    for temperature in (1.0, 0.5, 0.0):
        model.temperature = temperature
        torch.manual_seed(0)
        model.sample(500)
    full, half, none = seen
    assert full.std() == pytest.approx(1, abs=0.03) and full.shape == (500, 16)
    torch.testing.assert_close(half, 0.5 * full)
    assert not none.any()
    assert "0²" in model.sampling


def test_wild_latents_give_images_and_nan_stays_nan() -> None:
    x = flow().decode(torch.tensor([1e4, -1e4, math.nan])[:, None].expand(3, 64))
    assert x[:2].isfinite().all() and x[:2].abs().max() <= 1
    assert x[2].isnan().all()  # for the scores to refuse, not a grey image to score
