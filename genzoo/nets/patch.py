"""The critic that judges patches and not images (PatchGAN; Isola et al. 2017): a map of logits."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from genzoo.nets.conv import Norm, conv3x3, group_norm, level_channels


class Patches(nn.Sequential):
    """Image (n, C, H, W) -> logits (n, 1, h, w), one for each patch that the convolutions can see.

    layers: convolutions that halve; a logit sees 6 * 2^layers - 1 pixels of a side.
    """

    def __init__(self, image_shape: Sequence[int], width: int, layers: int = 2, norm: Norm = group_norm) -> None:
        channels = image_shape[0]
        widths = level_channels(layers, width)
        body: list[nn.Module] = [conv3x3(channels, width, stride=2), nn.LeakyReLU(0.2)]
        for narrow, wide in pairwise(widths):
            body += [conv3x3(narrow, wide, stride=2), norm(wide), nn.LeakyReLU(0.2)]
        super().__init__(*body, conv3x3(widths[-1], widths[-1]), norm(widths[-1]), nn.LeakyReLU(0.2))
        self.append(conv3x3(widths[-1], 1))
