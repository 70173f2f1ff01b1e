"""The UNet's parts against diffusers and torch, and its whole on every size."""

import diffusers.models.attention_processor
import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from genzoo.nets.conditions import Classes, Layout
from genzoo.nets.unet import Attention, CrossAttention, TimeResBlock, UNet, positions, timestep_embedding


@pytest.mark.parametrize("dim", [2, 8, 33, 128])
def test_timestep_embedding_is_diffusers(dim: int) -> None:
    t = torch.tensor([0, 1, 7, 500, 999])
    expected = get_timestep_embedding(t, dim, flip_sin_to_cos=False, downscale_freq_shift=0)
    torch.testing.assert_close(timestep_embedding(t, dim), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("channels", "heads"), [(8, 1), (64, 1), (128, 2), (192, 3)])
def test_attention_is_torchs(channels: int, heads: int) -> None:
    ours = Attention(channels)
    nn.init.normal_(ours.out.weight, std=channels**-0.5)
    nn.init.normal_(ours.out.bias)
    theirs = nn.MultiheadAttention(channels, heads, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.copy_(ours.qkv.bias)
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    x = torch.randn(2, channels, 3, 5)
    tokens = ours.norm(x).flatten(2).mT  # (n, h * w, C)
    attended = theirs(tokens, tokens, tokens, need_weights=False)[0].mT.view_as(x)
    torch.testing.assert_close(ours(x), x + attended, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channels", "heads"), [(8, 1), (64, 1), (128, 2), (192, 3)])
def test_cross_attention_is_diffusers(channels: int, heads: int) -> None:
    ours = CrossAttention(channels, tokens=20)
    nn.init.normal_(ours.out.weight, std=channels**-0.5)
    nn.init.normal_(ours.out.bias)
    theirs = diffusers.models.attention_processor.Attention(
        channels, cross_attention_dim=20, heads=heads, dim_head=channels // heads, bias=True
    )
    k, v = ours.kv.weight.chunk(2), ours.kv.bias.chunk(2)
    parts = {"to_q": (ours.q.weight, ours.q.bias), "to_k": (k[0], v[0]), "to_v": (k[1], v[1])}
    parts["to_out.0"] = (ours.out.weight, ours.out.bias)
    theirs.load_state_dict(
        {f"{name}.{key}": p for name, two in parts.items() for key, p in zip(("weight", "bias"), two)}
    )
    x, tokens = torch.randn(2, channels, 3, 5), torch.randn(2, 7, 20)
    places = ours.norm(x).flatten(2).mT + positions(3, 5, channels)  # (n, h * w, C)
    expected = x + theirs(places, tokens).mT.view_as(x)
    torch.testing.assert_close(ours(x, tokens), expected, rtol=0, atol=1e-5)
    assert (ours(x, tokens) - x).abs().max() > 0.1


def test_cross_attention_stands_behind_attention_and_starts_as_nothing() -> None:
    net = UNet((1, 16, 24), width=8, blocks=2, attention=(8,), condition=Layout(3, 2, 12))
    assert sum(isinstance(m, CrossAttention) for m in net.modules()) == 1 + 2 + 3
    x, tokens = torch.randn(2, 8, 4, 4), torch.randn(2, 3, 12)
    assert torch.equal(CrossAttention(8, 12)(x, tokens), x)


def test_without_tokens_the_net_is_what_it_was() -> None:
    """A condition's vector adds its own parameters, no other: nothing of attention to tokens."""
    plain, told = UNet((1, 8, 8), width=8), UNet((1, 8, 8), width=8, condition=Classes(10, 16))
    more = {"condition.embedding.weight", "conditioning.vector.weight", "conditioning.vector.bias"}
    assert told.state_dict().keys() - plain.state_dict().keys() == more
    assert plain.state_dict().keys() < told.state_dict().keys()


def test_five_classes_are_five_conditions() -> None:
    """The null is one class more, and each image hears its own."""
    net = randomised(UNet((1, 8, 8), width=8, condition=Classes(4, 16)))
    x, t = torch.randn(1, 1, 8, 8), torch.zeros(5)
    found = net(x.expand(5, -1, -1, -1), t, torch.arange(5))
    torch.testing.assert_close(found[4:], net(x, t[:1]), rtol=1e-4, atol=1e-5)
    assert (found[:, None] - found).flatten(2).abs().amax(2).add(torch.eye(5)).min() > 1e-4


@pytest.mark.parametrize("channels", [4, 60, 100, 144, 200, 224, 260])
def test_attention_takes_any_multiple_of_four(channels: int) -> None:
    x = torch.randn(1, channels, 2, 2)
    assert torch.equal(Attention(channels)(x), x)  # its last layer starts at zero


@pytest.mark.parametrize("width", [12, 17, 30])
def test_unet_takes_any_width(width: int) -> None:
    assert UNet((1, 5, 5), width)(torch.randn(1, 1, 5, 5), torch.zeros(1)).shape == (1, 1, 5, 5)


def randomised(net: nn.Module) -> nn.Module:
    """The net with its zero layers filled, so that its output says something."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return net.eval()


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 3))
def test_any_size_starts_at_zero(height: int, width: int, channels: int) -> None:
    net = UNet((channels, height, width), width=8, blocks=1)
    x, t = torch.randn(2, channels, height, width), torch.tensor([3, 700])
    y = net(x, t)
    assert y.shape == x.shape
    assert not y.any()
    y = randomised(net)(x, t)
    assert y.isfinite().all() and y.std() > 0


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("multipliers", [(1,), (1, 2, 2, 4)])
def test_depth_and_width_are_free(blocks: int, multipliers: tuple[int, ...]) -> None:
    net = UNet((1, 12, 9), width=8, multipliers=multipliers, blocks=blocks)
    assert net(torch.randn(1, 1, 12, 9), torch.zeros(1)).shape == (1, 1, 12, 9)


def test_attention_stands_where_it_was_asked_for() -> None:
    def count(*sides: int) -> int:
        net = UNet((1, 16, 24), width=8, blocks=2, attention=sides)
        return sum(isinstance(m, Attention) for m in net.modules())

    assert count() == 1  # the middle always has one
    assert count(8) == 1 + 2 + 3  # two blocks down, three up
    assert count(16, 8, 4) == 1 + 3 * 5


def test_each_image_has_its_own_time() -> None:
    net = randomised(UNet((1, 8, 8), width=8))
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([0, 400, 999])
    together = net(x, t)
    apart = torch.cat([net(x[i : i + 1], t[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    assert (net(x, t) - net(x, t.flip(0)))[1].abs().max() < 1e-5  # the middle one kept its time
    assert (net(x, t) - net(x, t.flip(0)))[0].abs().max() > 1e-4


def test_residual_block_starts_as_its_skip() -> None:
    x, time = torch.randn(2, 8, 5, 5), torch.randn(2, 32)
    assert torch.equal(TimeResBlock(8, 8, 32, dropout=0.0)(x, time), x)


def test_dropout_is_for_training() -> None:
    net = randomised(UNet((1, 8, 8), width=8, dropout=0.5))
    x, t = torch.randn(1, 1, 8, 8), torch.zeros(1)
    assert torch.equal(net(x, t), net(x, t))
    net.train()
    assert not torch.equal(net(x, t), net(x, t))
