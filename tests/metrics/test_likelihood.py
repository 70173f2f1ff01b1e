"""Rows of bits per dimension: known values, honest intervals, nothing dropped, no trace of the batch size."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from genzoo.diffusion.grids import trailing
from genzoo.diffusion.samplers import ddim
from genzoo.diffusion.schedules import linear
from genzoo.generator import Generator, Likelihood, dequantise, to_uint8
from genzoo.metrics.likelihood import bits_per_dim_rows, log_probs, ways
from genzoo.models.diffusion import Diffusion
from genzoo.models.flow import Flow
from genzoo.models.vae import VAE
from genzoo.nets import mlp
from genzoo.nets.heads import Gaussian
from genzoo.nets.invertible import affine

SHAPE = (2, 1, 3)
IMAGES = torch.randint(256, (10, *SHAPE), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


class Known(Generator):
    """A family with one way, given."""

    likelihood = "exact"

    def __init__(self, log_prob) -> None:
        super().__init__(SHAPE, torch.optim.SGD)
        self.log_prob = log_prob


def uniform(x: Tensor) -> Tensor:
    """The density of the 256 bins together, 256 / 127.5 wide."""
    return torch.full((len(x),), 6 * math.log(127.5 / 256), dtype=torch.float64)


def test_the_uniform_density_has_eight_bits() -> None:
    (row,) = bits_per_dim_rows(Known(uniform), IMAGES)
    assert row["value"] == pytest.approx(8, abs=1e-12)
    assert row["ci95"] == pytest.approx([8, 8], abs=1e-12)
    assert (row["n"], row["kind"], row["method"]) == (10, "exact", "log p(x)")


def test_the_interval_is_students() -> None:
    bits = torch.tensor([1.0, 2.0, 4.0, 9.0], dtype=torch.float64)
    nats = 6 * math.log(2) * (math.log2(127.5) - bits)
    (row,) = bits_per_dim_rows(Known(lambda x: nats), IMAGES[:4])
    half = 3.182446305 * math.sqrt(38 / 3 / 4)  # t of 3 degrees of freedom; the squares sum to 38
    assert row["value"] == pytest.approx(4)
    assert row["ci95"] == pytest.approx([4 - half, 4 + half], rel=1e-8)


@pytest.mark.parametrize(("kinds", "kept"), [(["exact", "estimate"], ["exact"]), (["estimate"], ["estimate"])])
def test_estimates_are_left_out_where_there_is_better(kinds: list[str], kept: list[str]) -> None:
    model = Generator(SHAPE, torch.optim.SGD)
    model.likelihoods = lambda: [Likelihood(kind, "", uniform) for kind in kinds]
    assert [row["kind"] for row in bits_per_dim_rows(model, IMAGES, estimates=False)] == kept
    assert [row["kind"] for row in bits_per_dim_rows(model, IMAGES)] == kinds


def test_a_family_without_likelihood_has_no_row() -> None:
    assert bits_per_dim_rows(Generator(SHAPE, torch.optim.SGD), IMAGES) == []


def test_every_way_has_its_row() -> None:
    model = Generator(SHAPE, torch.optim.SGD)
    model.likelihoods = lambda: [Likelihood("lower bound", "A", uniform), Likelihood("estimate", "B-2", uniform)]
    rows = bits_per_dim_rows(model, IMAGES)
    assert [(row["kind"], row["method"]) for row in rows] == [("lower bound", "A"), ("estimate", "B-2")]


def test_images_arrive_as_levels_and_points_as_well() -> None:
    seen = []
    model = Known(lambda x: seen.append(x) or uniform(x))
    bits_per_dim_rows(model, IMAGES, batch_size=4)
    assert [len(x) for x in seen] == [4, 4, 2]
    assert torch.equal(torch.cat(seen), IMAGES / 127.5 - 1)
    points = torch.rand(10, *SHAPE) * 2 - 1
    bits_per_dim_rows(model, points)
    assert torch.equal(seen[3], to_uint8(points) / 127.5 - 1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nothing_is_dropped(bad: float) -> None:
    def log_prob(x: Tensor) -> Tensor:
        nats = uniform(x)
        nats[1] = bad
        return nats

    with pytest.raises(ValueError, match=r"log p\(x\): the likelihood of 3 of 10 images is NaN or infinite"):
        bits_per_dim_rows(Known(log_prob), IMAGES, batch_size=4)


def test_terms_sum_to_the_value() -> None:
    def nats(x: Tensor) -> Tensor:
        return torch.stack([uniform(x) - 3, 0 * uniform(x)], 1)

    way = Likelihood("lower bound", "two terms", nats, ("a", "b"))

    class Terms(Known):
        def likelihoods(self) -> list[Likelihood]:
            return [way]

    (row,) = bits_per_dim_rows(Terms(uniform), IMAGES)
    (whole,) = bits_per_dim_rows(Known(lambda x: uniform(x) - 3), IMAGES)
    assert sum(row["terms"].values()) == pytest.approx(row["value"]) == pytest.approx(whole["value"])
    assert row["terms"]["b"] == pytest.approx(math.log2(127.5))


def test_one_image_is_refused() -> None:
    with pytest.raises(ValueError, match="2 images or more, got 1"):
        bits_per_dim_rows(Known(uniform), IMAGES[:1])


def test_noise_is_the_seeds() -> None:
    model = Known(lambda x: dequantise(x).sum((1, 2, 3)))
    before = torch.get_rng_state()
    first, again, other = (bits_per_dim_rows(model, IMAGES, seed=seed)[0]["value"] for seed in (3, 3, 4))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)


# --- The families.


def flow(shape: tuple[int, int, int] = SHAPE) -> Flow:
    return Flow(shape, torch.optim.SGD, affine, partial(mlp.Coupling, width=8), steps=2, alpha=1e-7)


def vae() -> VAE:
    encoder, decoder = (partial(net, image_shape=SHAPE, width=8) for net in (mlp.Encoder, mlp.Decoder))
    return VAE(SHAPE, torch.optim.SGD, encoder, decoder, Gaussian(), latent_dim=2, particles=3)


def ddpm() -> Diffusion:
    net = mlp.Denoiser(SHAPE, width=8)
    return Diffusion(SHAPE, torch.optim.SGD, net, linear(20), ddim, trailing, steps=10, bound_terms=4)


def off_start(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.double().eval()


@pytest.mark.parametrize("family", [flow, vae, pytest.param(ddpm, marks=pytest.mark.slow)])
def test_the_batch_size_changes_nothing(family) -> None:
    """But for the ODE, whose step sizes are the batch's: there it changes less than the tolerance."""
    model = off_start(family())
    rows = [bits_per_dim_rows(model, IMAGES[:4], batch_size=b) for b in (1, 3, 4)]
    for one, three, four in zip(*rows):
        near = 1e-3 if one["kind"] == "estimate" else 1e-9
        assert one["value"] == pytest.approx(four["value"], abs=near)
        assert three["value"] == pytest.approx(four["value"], abs=near)
        assert one["ci95"] == pytest.approx(four["ci95"], abs=near)
        assert 0 < four["value"] < 30


def test_a_flows_probabilities_sum_to_one() -> None:
    """Over the plane's 8-bit points, every fourth in both directions, by this room's own path."""
    model = off_start(flow((2, 1, 1)))
    levels = torch.arange(2, 256, 4, dtype=torch.uint8)
    points = torch.cartesian_prod(levels, levels).view(-1, 2, 1, 1)
    log_p = log_probs(ways(model)[0], points, model, batch_size=4096, seed=0)
    assert (log_p.exp() * (4 / 127.5) ** 2).sum().item() == pytest.approx(1, abs=0.03)
