"""Convolutional and fully connected nets meet every size; what should start at zero does."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from genzoo.nets import conv, mlp
from genzoo.nets.conv import Enlarge, ResBlock, group_norm, level_channels, resolutions, zero

sides = st.integers(1, 40)
few = settings(max_examples=15, deadline=None)


@given(sides, sides)
def test_resolutions_halve_until_small(height: int, width: int) -> None:
    sizes = resolutions(height, width)
    assert sizes[0] == (height, width)
    assert min(sizes[-1]) <= 4
    assert all(min(size) > 4 for size in sizes[:-1])
    for (h, w), (h2, w2) in pairwise(sizes):
        # what a 3x3 convolution with stride 2 and padding 1 makes of h
        assert (h2, w2) == ((h + 2 - 3) // 2 + 1, (w + 2 - 3) // 2 + 1)


def test_resolutions_of_known_sizes() -> None:
    assert [len(resolutions(s, s)) for s in (1, 4, 8, 15, 28, 32, 96, 256)] == [1, 1, 2, 3, 4, 4, 6, 7]
    assert resolutions(32, 48) == [(32, 48), (16, 24), (8, 12), (4, 6)]


def test_group_norm_takes_any_width() -> None:
    for channels in range(1, 300):
        norm = group_norm(channels)
        assert channels % norm.num_groups == 0
        assert norm.num_groups <= 32
        assert channels < 4 or channels // norm.num_groups >= 4


def test_level_channels_double_up_to_a_bound() -> None:
    assert level_channels(5, 8) == [8, 16, 32, 32, 32]
    assert level_channels(3, 8, most=1) == [8, 8, 8]


@few
@given(sides, sides, st.integers(1, 3), st.sampled_from([conv, mlp]), st.integers(1, 2))
def test_encoder_and_decoder_shapes(height: int, width: int, channels: int, nets, blocks: int) -> None:
    shape = (channels, height, width)
    options = {"blocks": blocks} if nets is conv else {}
    code = nets.Encoder(shape, out_features=5, width=8, **options)(torch.randn(2, *shape))
    assert code.shape == (2, 5)
    image = nets.Decoder(shape, in_features=5, out_channels=7, width=8, **options)(code)
    assert image.shape == (2, 7, height, width)


@few
@given(sides, sides, st.sampled_from([conv, mlp]))
def test_couplings_keep_the_size_and_start_at_zero(height: int, width: int, nets) -> None:
    net = nets.Coupling(3, 5, width=8)
    y = net(torch.randn(2, 3, height, width), None)
    assert y.shape == (2, 5, height, width)
    assert not y.any()


def test_mlp_coupling_sees_one_position_at_a_time() -> None:
    net = mlp.Coupling(2, 3, width=8, blocks=2)
    nn.init.normal_(net.net[-1].weight)
    x = torch.randn(1, 2, 4, 5)
    torch.testing.assert_close(net(x)[:, :, 2:3, 3:4], net(x[:, :, 2:3, 3:4]))


def test_residual_block_is_its_skip_without_its_branch() -> None:
    x = torch.randn(2, 8, 5, 5)
    same, wider = ResBlock(8, 8), ResBlock(8, 12)
    zero(same.branch[-1]), zero(wider.branch[-1])
    assert torch.equal(same(x), x)
    torch.testing.assert_close(wider(x), nn.functional.conv2d(x, wider.skip.weight, wider.skip.bias))


@pytest.mark.parametrize("size", [(6, 10), (5, 10), (5, 9)])
def test_enlarge_is_a_convolution_of_repeated_pixels(size: tuple[int, int]) -> None:
    layer = Enlarge(3, 4, size)
    x = torch.randn(2, 3, 3, 5, requires_grad=True)
    large = nn.functional.interpolate(x, size, mode="nearest")
    plain = nn.functional.conv2d(large, layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), plain, atol=1e-6, rtol=1e-5)
    for got, wanted in zip(
        torch.autograd.grad(layer(x).square().sum(), (x, layer.weight)),
        torch.autograd.grad(plain.square().sum(), (x, layer.weight)),
    ):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("norm", [conv.identity, group_norm])
def test_the_norm_is_the_callers(norm) -> None:
    encoder = conv.Encoder((1, 8, 8), 1, width=8, norm=norm)
    assert any(isinstance(m, nn.GroupNorm) for m in encoder.modules()) == (norm is group_norm)


def test_denoiser_tells_times_apart() -> None:
    net = mlp.Denoiser((2, 1, 1), width=16)
    x = torch.randn(1, 2, 1, 1).expand(3, 2, 1, 1)
    y = net(x, torch.tensor([0, 0, 500]))
    assert y.shape == (3, 2, 1, 1)
    assert torch.equal(y[0], y[1]) and not torch.equal(y[0], y[2])
