"""Latent maps of every factor and size, the Gaussian bottleneck against torch, patches, perceptual losses."""

import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributions import Normal, kl_divergence

from genzoo.metrics.features import classifier, pixels
from genzoo.nets.autoencoder import Decoder, Encoder, Gaussian, halvings
from genzoo.nets.conv import identity
from genzoo.nets.patch import Patches
from genzoo.nets.perceptual import Perceptual, lpips

sides = st.integers(1, 40)


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_latents_are_smaller_by_their_factor(factor: int) -> None:
    for shape in [(1, 8, 8), (3, 32, 48), (2, 16, 8)]:
        encoder = Encoder(shape, out_channels=5, factor=factor, width=8)
        z = encoder(torch.randn(2, *shape))
        assert z.shape == (2, 5, shape[1] // factor, shape[2] // factor)
        assert encoder.size == z.shape[2:]
        assert Decoder(shape, in_channels=5, factor=factor, width=8)(z).shape == (2, *shape)


@settings(max_examples=15, deadline=None)
@given(sides, sides, st.sampled_from([1, 2, 4, 8]), st.integers(1, 3), st.integers(0, 2))
def test_sides_that_no_factor_divides_are_rounded_up(height, width, factor, channels, blocks) -> None:
    shape = (channels, height, width)
    encoder = Encoder(shape, 4, factor, width=8, blocks=blocks)
    z = encoder(torch.randn(2, *shape))
    assert z.shape == (2, 4, -(-height // factor), -(-width // factor)) == (2, 4, *encoder.size)
    assert Decoder(shape, 4, factor, width=8, blocks=blocks)(z).shape == (2, *shape)


@pytest.mark.parametrize("factor", [0, 3, 16, 2.5])
def test_other_factors_are_refused(factor: float) -> None:
    with pytest.raises(ValueError, match=rf"^factor={factor}: latents are 1, 2, 4, 8 times smaller"):
        halvings(32, 32, factor)


# --- The Gaussian bottleneck.


def test_the_kl_is_torchs() -> None:
    bottleneck, h = Gaussian(3, weight=0.1).double(), torch.randn(4, 6, 2, 5, dtype=torch.float64)
    squeezed = bottleneck(h)
    mu, log_var = h[:, :3], h[:, 3:]
    expected = kl_divergence(Normal(mu, torch.exp(log_var / 2)), Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(squeezed.terms["kl"], expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(squeezed.penalty, 0.1 * expected, rtol=1e-12, atol=0)


def test_latents_have_the_posteriors_mean_and_spread() -> None:
    bottleneck, h = Gaussian(1, weight=0.0), torch.tensor([0.7, -1.2]).view(1, 2, 1, 1)
    z = bottleneck(h.expand(20_000, 2, 1, 1)).z
    assert z.mean().item() == pytest.approx(0.7, abs=0.02)
    assert z.std().item() == pytest.approx(torch.exp(torch.tensor(-0.6)).item(), rel=0.02)
    assert bottleneck.latent(h).item() == pytest.approx(0.7)
    assert torch.equal(bottleneck.nearest(z), z)


def test_a_posterior_of_sixteen_bits_is_one_of_32() -> None:
    assert Gaussian(2, weight=0.0)(torch.randn(3, 4, 2, 2).bfloat16()).z.dtype == torch.float32


# --- What compares images.


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_logit_sees_its_patch(layers: int) -> None:
    net, seen = Patches((1, 96, 96), width=4, layers=layers, norm=identity), 6 * 2**layers - 1
    x = torch.randn(1, 1, 96, 96, requires_grad=True)
    logits = net(x)
    assert logits.shape == (1, 1, 96 // 2**layers, 96 // 2**layers)
    middle = logits.shape[2] // 2
    logits[0, 0, middle, middle].backward()
    assert (x.grad[0, 0] != 0).any(0).sum() == (x.grad[0, 0] != 0).any(1).sum() == seen


def test_patches_take_any_size() -> None:
    for shape in [(1, 1, 1), (3, 15, 17)]:
        assert Patches(shape, width=8)(torch.randn(2, *shape)).shape[:2] == (2, 1)


def test_perceptual_distance_by_hand() -> None:
    net = nn.Module()
    net.body = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.Flatten())
    net.prepare = lambda images: images / 255
    a, b = torch.rand(2, 4, 1, 2, 2).mul(2).sub(1)
    net.body[0].weight.data[:] = torch.tensor([1.0, 2, -2]).view(3, 1, 1, 1)
    # every activation is a positive multiple of (1, 2, -2), so of unit length all are one
    assert Perceptual(net)(a, b) == pytest.approx(0, abs=1e-12)
    net.prepare = lambda images: images / 127.5 - 1
    opposite = (a.sign() != b.sign()).float().mean()  # then the distance is |2 u|^2
    assert Perceptual(net, weight=0.5)(a, b).item() == pytest.approx(0.5 * 4 * opposite.item(), rel=1e-6)


def test_perceptual_loss_of_a_shipped_classifier() -> None:
    loss, x = Perceptual(classifier("digits")), torch.rand(8, 1, 8, 8) * 2 - 1
    assert loss(x, x) == 0
    noisy = [(x + s * torch.randn_like(x)).requires_grad_() for s in (0.05, 0.2, 0.8)]
    losses = [loss(y, x) for y in noisy]
    assert 0 < losses[0] < losses[1] < losses[2]
    losses[0].backward()
    assert noisy[0].grad.any()
    assert not any(p.requires_grad or p.grad is not None for p in loss.net.parameters())
    assert not isinstance(loss, nn.Module)


def test_perceptual_loss_wants_activations() -> None:
    with pytest.raises(ValueError, match="Pixels shows no activations: give"):
        Perceptual(pixels((1, 8, 8)))


def test_lpips_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ImportError, match=r"pip install genzoo\[lpips\]"):
        lpips()


def test_lpips_sees_colours_and_learns_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class LPIPS(nn.Module):
        def __init__(self, net: str, verbose: bool) -> None:
            super().__init__()
            self.net, self.scale = net, nn.Parameter(torch.ones(()))

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            assert a.shape == b.shape == (4, 3, 8, 8) and not self.training and not self.scale.requires_grad
            return (a - b).square().sum((1, 2, 3), keepdim=True) * self.scale

    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=LPIPS))
    loss, (grey, other) = lpips("alex", weight=0.5), torch.rand(2, 4, 1, 8, 8)
    assert loss(grey, other).item() == pytest.approx(0.5 * 3 * (grey - other).square().sum().item() / 4, rel=1e-5)
    assert loss(grey.expand(4, 3, 8, 8), other.expand(4, 3, 8, 8)) == loss(grey, other)
