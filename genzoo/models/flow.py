"""Normalizing flow (Glow, Kingma & Dhariwal 2018, on nflows): exact likelihood by an invertible map to noise."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from nflows import transforms
from nflows.transforms.base import Transform
from torch import Tensor, nn

from genzoo.generator import (
    Batch,
    Generator,
    OptimizerFactory,
    bits_per_dim,
    chosen_classes,
    class_shares,
    class_vector,
    learned_classes,
)

# --- Layers: (inputs, context) -> (outputs, log |det Jacobian| (n,)), as nflows has them.


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


# --- The flow.


def squeezes(height: int, width: int, most: int = 3) -> int:
    """Levels of the flow: how often both sides can be halved exactly without going below 2, at most `most` times."""
    levels = 0
    while levels < most and height % 2 == width % 2 == 0 and min(height, width) >= 4:
        height, width, levels = height // 2, width // 2, levels + 1
    return levels


def even(side: int) -> int:
    """The next even number, but for a side of 1, which is left alone."""
    return side + side % 2 if side > 1 else side


class Flow(Generator):
    """log p(x) = log N(f(x); 0, I) + log |det df/dx| for an invertible f; x is dequantised and taken to logits.

    coupling: `affine` or `spline`, a function of (channels, net); net: (in_channels, out_channels, context) -> network
        of (x, context).
    steps: ActNorm, rotation, coupling at each of the levels that follow from the size of the image.
    temperature: standard deviation of the noise that `sample` starts from.
    alpha: share of [0, 1] kept off both ends before the logit (Dinh et al. 2017, section 4.1).
    classes: of the data, each with a mean and a standard deviation of z of its own and told to every coupling; 0 to
        ignore them. `dropout` of the labels are left out in training: then `encode` needs none.

    An odd side is padded to an even one with a uniform variable, whose entropy is 0; the likelihood is then a
    lower bound.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        optimizer: OptimizerFactory,
        coupling: Callable[..., Transform],
        net: Callable[..., nn.Module],
        steps: int,
        temperature: float = 1.0,
        alpha: float = 0.05,
        classes: int = 0,
        dropout: float = 0.1,
        clip: float = 50.0,
    ) -> None:
        super().__init__(image_shape, optimizer, clip)
        channels, height, width = self.image_shape
        self.padded = (channels, even(height), even(width))
        levels = squeezes(*self.padded[1:])
        if channels == 1 and levels == 0:
            raise ValueError(
                f"a flow couples channels: {height}x{width} greyscale images are too small, use 3x3 or more"
            )
        self.temperature = temperature
        self.alpha = alpha
        self.classes, self.dropout = classes, dropout
        self.register_buffer("shares", torch.full((classes,), 1 / max(classes, 1)))  # of the classes, in training
        self.transform = multiscale(self.padded, levels, steps, coupling, partial(net, context=classes))
        self.base = nn.Linear(classes, 2 * math.prod(self.padded), bias=False) if classes else None
        if self.base is not None:
            nn.init.zeros_(self.base.weight)

    full_precision = True  # under bf16 autocast the log-probability is off by half a nat

    @property
    def likelihood(self) -> str:
        return "exact" if self.padded == self.image_shape else "lower bound"

    @property
    def sampling(self) -> str:
        return f"inverse of z ~ N(0, {self.temperature:g}² I)"

    def loss(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        """Bits a dimension of the dequantised image."""
        told = learned_classes(self, x, y, self.dropout)
        bits = bits_per_dim(self.log_density(x, told).mean(), x[0].numel())
        return {"loss": bits, "bits_per_dim": bits.detach()}

    @torch.no_grad()
    def log_prob(self, x: Tensor) -> Tensor:
        """(n,) nats; with classes, of the mixture over them that `sample` draws from."""
        if not self.classes:
            return self.log_density(x, class_vector(None, x, 0))
        rows = torch.eye(self.classes, device=x.device, dtype=x.dtype)
        given = torch.stack([self.log_density(x, row.expand(len(x), -1)) for row in rows])  # (classes, n)
        return torch.logsumexp(given + self.shares.log()[:, None], dim=0)

    def log_density(self, x: Tensor, told: Tensor) -> Tensor:
        """(n,) nats of x (n, C, H, W), 8-bit levels in [-1, 1], each spread uniformly over its bin, given the classes
        told as a `class_vector`."""
        values, log_det = self.values(x, torch.rand_like(x))
        z, log_det_f = self.transform(values, told)
        mean, log_std = self.moments(told)
        log_normal = (-0.5 * ((z - mean) * torch.exp(-log_std)) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).sum(1)
        return log_normal + log_det + log_det_f

    def moments(self, told: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of z, both (n, D); 0 without classes."""
        if self.base is None:
            zero = torch.zeros(len(told), math.prod(self.padded), device=told.device, dtype=told.dtype)
            return zero, zero
        return self.base(told).chunk(2, dim=1)

    def values(self, x: Tensor, place: Tensor | float) -> tuple[Tensor, Tensor]:
        """What f sees of x and its log-determinant (n,): levels at a place of [0, 1] in their bins, as logits; numbers
        that are no levels as they are."""
        if not self.bounded:
            return self.pad(x), x.new_zeros(len(x))
        u = (x + 1) * 127.5 / 256 + place / 256  # [0, 1]
        logits, log_det = self.to_logits(self.pad(u))
        return logits, log_det + x[0].numel() * math.log(127.5 / 256)

    def pad(self, u: Tensor) -> Tensor:
        """Uniform noise below and to the right of the image, up to the padded size."""
        if self.padded == self.image_shape:
            return u
        noise = torch.rand(len(u), *self.padded, device=u.device, dtype=u.dtype)
        noise[:, :, : u.shape[2], : u.shape[3]] = u
        return noise

    def to_logits(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """logit(alpha + (1 - 2 alpha) u) and its log-determinant (n,); u in [0, 1]."""
        v = self.alpha + (1 - 2 * self.alpha) * u
        log_det = math.log(1 - 2 * self.alpha) - torch.log(v) - torch.log1p(-v)
        return torch.logit(v), log_det.flatten(1).sum(1)

    def from_logits(self, logits: Tensor) -> Tensor:
        """Back to images (n, C, H, W), the padding cut away: bins to their levels in [-1, 1]."""
        logits = logits[:, :, : self.image_shape[1], : self.image_shape[2]]
        if not self.bounded:
            return logits
        u = (torch.sigmoid(logits) - self.alpha) / (1 - 2 * self.alpha)
        return ((256 * u - 0.5) / 127.5 - 1).clamp(-1, 1)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """The latent (n, D) of the middle of each level's bin, of no class."""
        return self.transform(self.values(x, 0.5)[0], class_vector(None, x, self.classes))[0]

    @torch.no_grad()
    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Images of latents z (n, D); y: class ids (n,), None for no class."""
        logits, _ = self.transform.inverse(z, class_vector(y, z, self.classes))
        return self.from_logits(logits)

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        y = chosen_classes(self, n, y)
        noise = self.temperature * torch.randn(n, math.prod(self.padded), device=self.device)
        mean, log_std = self.moments(class_vector(y, noise, self.classes))
        return self.decode(mean + torch.exp(log_std) * noise, y)

    def after_fit(self, batches: Iterable[Batch]) -> None:
        """How often each class occurs: `sample` without y draws classes as the data does."""
        if self.classes:
            self.shares.copy_(class_shares(batches, self.classes))


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
