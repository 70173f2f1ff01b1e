"""The plain strided nets of DCGAN (Radford et al. 2016): no residual branches, one convolution a resolution."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from genzoo.nets.conv import Norm, level_channels, resolutions


def batch_norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels)


class Crop(nn.Module):
    """The top left of a feature map: a doubled side becomes an odd one."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return x[..., : self.size[0], : self.size[1]]


class Encoder(nn.Sequential):
    """Image (n, C, H, W) -> vector (n, out_features): convolutions that halve, leaky ReLU, no norm on the first."""

    def __init__(self, image_shape: Sequence[int], out_features: int, width: int, norm: Norm = batch_norm) -> None:
        channels, *size = image_shape
        sizes = resolutions(*size)
        widths = level_channels(len(sizes), width)
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.LeakyReLU(0.2)]
        for narrow, wide in pairwise(widths):
            layers += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1), norm(wide), nn.LeakyReLU(0.2)]
        layers += [nn.Flatten(), nn.Linear(widths[-1] * sizes[-1][0] * sizes[-1][1], out_features)]
        super().__init__(*layers)
        self.to(memory_format=torch.channels_last)  # a third faster on a CPU, where no group norm is in between


class Decoder(nn.Sequential):
    """Vector (n, in_features) -> (n, out_channels, H, W), unbounded: transposed convolutions that double, ReLU."""

    def __init__(
        self, image_shape: Sequence[int], in_features: int, out_channels: int, width: int, norm: Norm = batch_norm
    ) -> None:
        sizes = resolutions(*image_shape[1:])[::-1]
        widths = level_channels(len(sizes), width)[::-1]
        first = (widths[0], *sizes[0])
        layers: list[nn.Module] = [
            nn.Linear(in_features, first[0] * first[1] * first[2]),
            nn.Unflatten(1, first),
            norm(widths[0]),
            nn.ReLU(),
        ]
        for wide, narrow, size in zip(widths[:-1], widths[1:], sizes[1:], strict=True):
            double = nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1)
            layers += [double, Crop(size), norm(narrow), nn.ReLU()]
        layers.append(nn.Conv2d(widths[-1], out_channels, 3, padding=1))
        super().__init__(*layers)
        self.to(memory_format=torch.channels_last)
