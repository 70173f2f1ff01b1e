"""Residual convolutional encoder and decoder, their depth chosen from the image's size."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]


def resolutions(height: int, width: int, smallest: int = 4) -> list[tuple[int, int]]:
    """The sizes a net works at: halved, rounding up, until the shorter side is at most `smallest`.

    Raises ValueError for images without pixels.

    >>> resolutions(28, 28)
    [(28, 28), (14, 14), (7, 7), (4, 4)]
    """
    if min(height, width) < 1:
        raise ValueError(f"images of {height}x{width} pixels cannot be learned: give them sides of at least 1")
    sizes = [(height, width)]
    while min(sizes[-1]) > smallest:
        sizes.append(tuple(math.ceil(s / 2) for s in sizes[-1]))
    return sizes


def group_norm(channels: int) -> nn.Module:
    """Group normalisation with groups of at least 4 channels and at most 32 groups."""
    return nn.GroupNorm(math.gcd(32, channels // 4) if channels % 4 == 0 else 1, channels)


def identity(channels: int) -> nn.Module:
    """No normalisation: what a critic under a gradient penalty wants."""
    return nn.Identity()


def conv3x3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1)


def zero(module: nn.Module) -> nn.Module:
    """The module with its parameters set to zero, so that a residual branch starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class ResBlock(nn.Module):
    """x + conv(act(norm(conv(act(norm(x)))))), with a 1x1 skip where the channels change (He et al. 2016)."""

    def __init__(self, channels_in: int, channels_out: int, norm: Norm = group_norm) -> None:
        super().__init__()
        self.skip = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)
        self.branch = nn.Sequential(
            norm(channels_in),
            nn.SiLU(),
            conv3x3(channels_in, channels_out),
            norm(channels_out),
            nn.SiLU(),
            conv3x3(channels_out, channels_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.branch(x)


def enlarged(conv: nn.Conv2d, x: Tensor, size: Sequence[int]) -> Tensor:
    """The 3x3 convolution of x resized to `size` (h, w) by nearest neighbours, which also meets odd sizes.

    A doubled image repeats its pixels, so that three neighbours show only two values. Their weights added up make it
    a transposed convolution of x itself, equal but for rounding, with 4/9 of the multiply-adds.
    """
    height, width = x.shape[-2:]
    if tuple(size) != (2 * height, 2 * width):
        return F.conv2d(F.interpolate(x, tuple(size), mode="nearest"), conv.weight, conv.bias, padding=1)
    return F.conv_transpose2d(x, doubling(conv.weight), conv.bias, stride=2, padding=1)


def doubling(weight: Tensor) -> Tensor:
    """(out, in, 3, 3) -> (in, out, 4, 4): a tap is the sum of all that meet the same pixel of x."""
    w = F.pad(weight.transpose(0, 1).flip(2, 3), (1, 1, 1, 1))
    rows = w[:, :, :-1] + w[:, :, 1:]
    return rows[..., :-1] + rows[..., 1:]


class Enlarge(nn.Conv2d):
    """A 3x3 convolution of its input resized to a fixed size by nearest neighbours."""

    def __init__(self, channels_in: int, channels_out: int, size: tuple[int, int]) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1)
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return enlarged(self, x, self.size)


def level_channels(levels: int, width: int, most: int = 4) -> list[int]:
    """Channels at each resolution: doubling from `width` up to `most` times it."""
    return [width * min(2**i, most) for i in range(levels)]


class Encoder(nn.Sequential):
    """Image (n, C, H, W) -> vector (n, out_features)."""

    def __init__(
        self, image_shape: Sequence[int], out_features: int, width: int, blocks: int = 1, norm: Norm = group_norm
    ) -> None:
        channels, height, breadth = image_shape
        sizes = resolutions(height, breadth)
        widths = level_channels(len(sizes), width)
        layers: list[nn.Module] = [conv3x3(channels, width)]
        for i, w in enumerate(widths):
            if i > 0:
                layers.append(conv3x3(widths[i - 1], w, stride=2))
            layers += [ResBlock(w, w, norm) for _ in range(blocks)]
        area = sizes[-1][0] * sizes[-1][1]
        layers += [norm(widths[-1]), nn.SiLU(), nn.Flatten(), nn.Linear(widths[-1] * area, out_features)]
        super().__init__(*layers)


class Decoder(nn.Sequential):
    """Vector (n, in_features) -> (n, out_channels, H, W), unbounded."""

    def __init__(
        self,
        image_shape: Sequence[int],
        in_features: int,
        out_channels: int,
        width: int,
        blocks: int = 1,
        norm: Norm = group_norm,
    ) -> None:
        _, height, breadth = image_shape
        sizes = resolutions(height, breadth)[::-1]
        widths = level_channels(len(sizes), width)[::-1]
        layers: list[nn.Module] = [
            nn.Linear(in_features, widths[0] * sizes[0][0] * sizes[0][1]),
            nn.Unflatten(1, (widths[0], *sizes[0])),
        ]
        for i, (size, w) in enumerate(zip(sizes, widths, strict=True)):
            if i > 0:
                layers.append(Enlarge(widths[i - 1], w, size))
            layers += [ResBlock(w, w, norm) for _ in range(blocks)]
        layers += [norm(widths[-1]), nn.SiLU(), conv3x3(widths[-1], out_channels)]
        super().__init__(*layers)


def with_planes(x: Tensor, vector: Tensor | None) -> Tensor:
    """x (n, C, h, w) with a constant plane behind it for each number of a vector (n, d); None is none."""
    if vector is None or not vector.shape[1]:
        return x
    return torch.cat([x, vector[:, :, None, None].expand(-1, -1, *x.shape[2:])], dim=1)


class Coupling(nn.Module):
    """The network of a coupling layer: (n, in_channels, h, w) and a context (n, context) -> (n, out_channels, h, w), at
    first 0; each number of the context is a plane of the input."""

    def __init__(self, in_channels: int, out_channels: int, width: int, blocks: int = 1, context: int = 0) -> None:
        super().__init__()
        self.hidden_channels = width  # by which nflows scales a spline's parameters
        self.net = nn.Sequential(
            conv3x3(in_channels + context, width),
            *[ResBlock(width, width, identity) for _ in range(blocks)],
            nn.SiLU(),
            zero(conv3x3(width, out_channels)),
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.net(with_planes(x, context))
