"""Glow's invertible layers, and the map made of them.

Each is (inputs, context) -> (outputs, log |det Jacobian| (n,)), as nflows has them.
"""

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from nflows import transforms
from nflows.transforms.base import Transform
from torch import Tensor, nn


class ActNorm(Transform):
    """A scale and a shift for each channel that make the first batch have mean 0 and variance 1.

    nflows' own divides by the standard deviation of a constant channel, which is 0, and starts differently on
    every rank; this one bounds the deviation from below and shares rank 0's start.
    """

    def __init__(self, channels: int, smallest: float = 0.05) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.shift = nn.Parameter(torch.zeros(channels))
        self.smallest = smallest
        self.register_buffer("started", torch.tensor(False))

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        std, mean = torch.std_mean(x, dim=(0, 2, 3))
        self.log_scale.copy_(-std.clamp(min=self.smallest).log())
        self.shift.copy_(-mean)
        if dist.is_available() and dist.is_initialized():
            for parameter in (self.log_scale, self.shift):
                dist.broadcast(parameter, src=0)
        self.started.fill_(True)

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if self.training and not self.started:
            self.start(inputs)
        outputs = (inputs + self.shift[:, None, None]) * self.log_scale.exp()[:, None, None]
        return outputs, self.log_det(inputs)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        outputs = inputs * (-self.log_scale).exp()[:, None, None] - self.shift[:, None, None]
        return outputs, -self.log_det(inputs)

    def log_det(self, x: Tensor) -> Tensor:
        return (x.shape[2] * x.shape[3] * self.log_scale.sum()).expand(len(x))


class Rotation(Transform):
    """An invertible 1x1 convolution that starts as a random rotation; nflows' starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(channels, channels)))

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return F.conv2d(inputs, self.weight[:, :, None, None]), self.log_det(inputs)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        weight = torch.linalg.inv(self.weight)
        return F.conv2d(inputs, weight[:, :, None, None]), -self.log_det(inputs)

    def log_det(self, x: Tensor) -> Tensor:
        return (x.shape[2] * x.shape[3] * torch.linalg.slogdet(self.weight)[1]).expand(len(x))


def halves(channels: int) -> Tensor:
    """The coupling mask that changes the first half of the channels given the rest."""
    mask = torch.ones(channels)
    mask[channels // 2 :] = -1
    return mask


class AffineCoupling(Transform):
    """(a, b) -> (scale(b) a + shift(b), b) for the halves of the channels, scales in (0.001, 1.001) (Dinh et al. 2017,
    with Glow's sigmoid); equal to nflows' AffineCouplingTransform, which copies its channels by index."""

    def __init__(self, channels: int, net: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.changed = channels // 2
        self.transform_net = net(channels - self.changed, 2 * self.changed)

    def read(self, inputs: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """a, b, shift and scale."""
        a, b = inputs[:, : self.changed], inputs[:, self.changed :]
        # networks without group norm are faster with channels last, on a CPU by up to a half
        b_last = b.contiguous(memory_format=torch.channels_last)
        shift, scale = self.transform_net(b_last, context).chunk(2, dim=1)
        return a, b, shift, torch.sigmoid(scale + 2) + 1e-3

    def forward(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        a, b, shift, scale = self.read(inputs, context)
        return torch.cat([torch.addcmul(shift, a, scale), b], dim=1), scale.log().flatten(1).sum(1)

    def inverse(self, inputs: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        a, b, shift, scale = self.read(inputs, context)
        return torch.cat([(a - shift) / scale, b], dim=1), -scale.log().flatten(1).sum(1)


def affine(channels: int, net: Callable[[int, int], nn.Module]) -> Transform:
    return AffineCoupling(channels, net)


def spline(channels: int, net: Callable[[int, int], nn.Module], bins: int = 8, tail: float = 3.0) -> Transform:
    """A rational-quadratic spline coupling, linear outside [-tail, tail] (Durkan et al. 2019)."""
    return transforms.PiecewiseRationalQuadraticCouplingTransform(
        halves(channels), net, num_bins=bins, tails="linear", tail_bound=tail
    )


# --- The map.


def squeezes(height: int, width: int, most: int = 3) -> int:
    """Levels of the flow: how often both sides can be halved exactly without going below 2, at most `most` times."""
    levels = 0
    while levels < most and height % 2 == width % 2 == 0 and min(height, width) >= 4:
        height, width, levels = height // 2, width // 2, levels + 1
    return levels


def step(channels: int, coupling: Callable[..., Transform], net: Callable[..., nn.Module]) -> list[Transform]:
    """One step of Glow: ActNorm, rotation, coupling."""
    return [ActNorm(channels), Rotation(channels), coupling(channels, net)]


def multiscale(
    shape: Sequence[int], levels: int, steps: int, coupling: Callable[..., Transform], net: Callable[..., nn.Module]
) -> Transform:
    """f: (n, C, H, W) -> (n, C H W); half the channels leave after every level but the last (Dinh et al. 2017)."""
    flow = transforms.MultiscaleCompositeTransform(max(levels, 1))
    shape = tuple(shape)
    for _ in range(max(levels, 1)):
        layers: list[Transform] = []
        if levels > 0:
            layers.append(transforms.SqueezeTransform())
            shape = (shape[0] * 4, shape[1] // 2, shape[2] // 2)
        for _ in range(steps):
            layers += step(shape[0], coupling, net)
        shape = flow.add_transform(transforms.CompositeTransform(layers), shape) or shape
    return flow
