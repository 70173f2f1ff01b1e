"""Residual encoder and decoder between images and latent maps f times smaller, and the latents that are Gaussian.

A bottleneck, what lies between the two, is a module with `channels`, those of z; `in_channels`, what it asks of the
encoder; `codes`, how many there are where z is made of such, else 0; `forward(h) -> Squeezed` to learn by; `latent(h)`,
the z of an image; `nearest(z)`, the z that may be decoded in place of any other; `draw(n, size)`, z without an image;
and in words `name` and `sampling`. h is (n, in_channels, h, w) and z (n, channels, h, w). Another one: quantise.py.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from genzoo.nets.conv import Enlarge, Norm, ResBlock, conv3x3, group_norm, level_channels, resolutions

FACTORS = (1, 2, 4, 8)


class Squeezed(NamedTuple):
    """A latent z (n, c, h, w), the penalty () to be added to the loss, and what to report of it."""

    z: Tensor
    penalty: Tensor
    terms: dict[str, Tensor]


def halvings(height: int, width: int, factor: int) -> list[tuple[int, int]]:
    """The sizes between an image and its latent map, whose sides are `factor` times smaller, rounded up.

    Raises ValueError for images without pixels, and for a factor that is not 1, 2, 4 or 8.

    >>> halvings(28, 30, 4)
    [(28, 30), (14, 15), (7, 8)]
    """
    if factor not in FACTORS:
        raise ValueError(f"factor={factor}: latents are {', '.join(map(str, FACTORS))} times smaller than their images")
    (size,) = resolutions(height, width, smallest=max(height, width, 1))
    sizes = [size]
    while len(sizes) <= math.log2(factor):
        sizes.append(tuple(math.ceil(side / 2) for side in sizes[-1]))
    return sizes


def in_full(h: Tensor) -> Tensor:
    """h in 32 bits or more, which latents want: 16 of them confuse neighbouring codes."""
    return h.to(torch.promote_types(h.dtype, torch.float32))


class Halve(nn.Conv2d):
    """A 3x3 convolution of every second pixel and its neighbours to the right and below, as Rombach et al.'s code has
    it; sides are rounded up."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(channels_in, channels_out, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        return super().forward(nn.functional.pad(x, (0, 1 + width % 2, 0, 1 + height % 2)))


class Encoder(nn.Sequential):
    """Image (n, C, H, W) -> (n, out_channels, h, w), `size` (h, w) being (H, W) / factor, rounded up.

    width: channels at the full resolution, doubled at each lower one up to four times. blocks: residual ones at each.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        out_channels: int,
        factor: int,
        width: int,
        blocks: int = 1,
        norm: Norm = group_norm,
    ) -> None:
        channels, height, breadth = image_shape
        sizes = halvings(height, breadth, factor)
        widths = level_channels(len(sizes), width)
        layers: list[nn.Module] = [conv3x3(channels, width)]
        for i, w in enumerate(widths):
            if i > 0:
                layers.append(Halve(widths[i - 1], w))
            layers += [ResBlock(w, w, norm) for _ in range(blocks)]
        super().__init__(*layers, norm(widths[-1]), nn.SiLU(), conv3x3(widths[-1], out_channels))
        self.size = sizes[-1]


class Decoder(nn.Sequential):
    """Latent (n, in_channels, h, w) -> (n, C, H, W), unbounded; the encoder's layers in reverse, its last convolution
    the last layer."""

    def __init__(
        self,
        image_shape: Sequence[int],
        in_channels: int,
        factor: int,
        width: int,
        blocks: int = 1,
        norm: Norm = group_norm,
    ) -> None:
        channels, height, breadth = image_shape
        sizes = halvings(height, breadth, factor)[::-1]
        widths = level_channels(len(sizes), width)[::-1]
        layers: list[nn.Module] = [conv3x3(in_channels, widths[0])]
        for i, (size, w) in enumerate(zip(sizes, widths, strict=True)):
            if i > 0:
                layers.append(Enlarge(widths[i - 1], w, size))
            layers += [ResBlock(w, w, norm) for _ in range(blocks)]
        super().__init__(*layers, norm(width), nn.SiLU(), conv3x3(width, channels))


class Gaussian(nn.Module):
    """q(z | x) = N(mu, exp(log_var)), kept near N(0, I) by `weight` times the KL in nats a number of z.

    Rombach et al. 2022 add 1e-6 of the KL's sum to the error's sum: here 1e-6 times the numbers of z over those of x.
    """

    name, codes = "KL", 0
    sampling = "decoder of z ~ N(0, I), which a small weight of the KL leaves far from the latents of images"

    def __init__(self, channels: int, weight: float) -> None:
        super().__init__()
        self.channels, self.in_channels = channels, 2 * channels
        self.weight = weight

    def posterior(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """mu and log_var of q(z | x), each (n, channels, h, w)."""
        mu, log_var = in_full(h).chunk(2, dim=1)
        return mu, log_var.clamp(-30, 20)

    def forward(self, h: Tensor) -> Squeezed:
        mu, log_var = self.posterior(h)
        kl = 0.5 * (mu**2 + log_var.exp() - 1 - log_var).mean()  # Kingma & Welling 2014, appendix B
        z = mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)
        return Squeezed(z, self.weight * kl, {"kl": kl.detach()})

    def latent(self, h: Tensor) -> Tensor:
        return self.posterior(h)[0]

    def nearest(self, z: Tensor) -> Tensor:
        return z

    def draw(self, n: int, size: Sequence[int], device: torch.device) -> Tensor:
        return torch.randn(n, self.channels, *size, device=device)
