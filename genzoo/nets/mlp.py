"""Fully connected encoder, decoder and denoiser for points and tiny images."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from genzoo.nets.conditions import Condition, given, widths
from genzoo.nets.conv import Norm, identity, with_planes, zero
from genzoo.nets.unet import Conditioning


def mlp(in_features: int, out_features: int, width: int, depth: int = 3) -> nn.Sequential:
    """`depth` hidden layers of `width` units with SiLU between them."""
    sizes = [in_features, *[width] * depth]
    hidden = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.SiLU())]
    return nn.Sequential(*hidden, nn.Linear(width, out_features))


class Encoder(nn.Sequential):
    """Image (n, C, H, W) -> vector (n, out_features); `norm` is the convolutional nets' business."""

    def __init__(self, image_shape: Sequence[int], out_features: int, width: int, norm: Norm = identity) -> None:
        super().__init__(nn.Flatten(), mlp(math.prod(image_shape), out_features, width))


class Decoder(nn.Sequential):
    """Vector (n, in_features) -> (n, out_channels, H, W), unbounded."""

    def __init__(self, image_shape: Sequence[int], in_features: int, out_channels: int, width: int) -> None:
        shape = (out_channels, *image_shape[1:])
        super().__init__(mlp(in_features, math.prod(shape), width), nn.Unflatten(1, shape))


class Denoiser(nn.Module):
    """(x, t, y) -> `outputs` arrays shaped as x, one behind the other; t and y enter beside the flattened image.

    Of a condition it takes the vector, and the mean of the tokens. Raises ValueError for one that gives maps.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        width: int,
        blocks: int = 2,
        dropout: float = 0.0,
        times: int = 1,
        condition: Condition | None = None,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        vector, tokens, maps = widths(condition)
        if maps:
            raise ValueError(f"nets=mlp sees no maps, which {type(condition).__name__} gives: set nets=conv or dit")
        features = math.prod(image_shape)
        shape = (outputs * image_shape[0], *image_shape[1:])
        self.condition = condition
        self.conditioning = Conditioning(width, width, times, vector + tokens)
        self.net = mlp(features + width, math.prod(shape), width, depth=blocks + 1)
        self.shape = nn.Unflatten(1, shape)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """x (n, C, H, W), t (n,) or (n, times) steps, y of the condition -> (n, outputs * C, H, W)."""
        vector, tokens, _ = given(self.condition, y, len(x))
        said = [part for part in (vector, None if tokens is None else tokens.mean(1)) if part is not None]
        time = self.conditioning(t, torch.cat(said, dim=1) if said else None)
        h = torch.cat([x.flatten(1), time], dim=1)  # (n, C * H * W + width)
        return self.shape(self.net(self.dropout(h)))


class Coupling(nn.Module):
    """A coupling layer's network at each position: (n, in_channels, h, w) and a context (n, context) that is the same
    everywhere -> (n, out_channels, h, w), at first 0."""

    def __init__(self, in_channels: int, out_channels: int, width: int, blocks: int = 1, context: int = 0) -> None:
        super().__init__()
        self.hidden_channels = width  # by which nflows scales a spline's parameters
        sizes = [in_channels + context, *[width] * (blocks + 1)]
        hidden = [m for a, b in pairwise(sizes) for m in (nn.Conv2d(a, b, 1), nn.SiLU())]
        self.net = nn.Sequential(*hidden, zero(nn.Conv2d(width, out_channels, 1)))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.net(with_planes(x, context))
