"""Normalizing flow (Glow, Kingma & Dhariwal 2018): exact likelihood by an invertible map to noise."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from genzoo.generator import Generator, OptimizerFactory, bits_per_dim
from genzoo.nets.invertible import multiscale, squeezes
from genzoo.told import Classed


def even(side: int) -> int:
    """The next even number, but for a side of 1, which is left alone."""
    return side + side % 2 if side > 1 else side


class Flow(Classed, Generator):
    """log p(x) = log N(f(x); 0, I) + log |det df/dx| for an invertible f; x is dequantised and taken to logits.

    coupling: `affine` or `spline` of genzoo.nets.invertible, a function of (channels, net); net: (in_channels,
        out_channels, context) -> network of (x, context).
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
        coupling: Callable[..., nn.Module],
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
        self.of_classes(classes, dropout)
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
        told = self.told(x, y)
        bits = bits_per_dim(self.log_density(*self.values(x, torch.rand_like(x)), told).mean(), x[0].numel())
        return {"loss": bits, "bits_per_dim": bits.detach()}

    @torch.no_grad()
    def log_prob(self, x: Tensor) -> Tensor:
        """(n,) nats of x (n, C, H, W), 8-bit levels in [-1, 1], each spread uniformly over its bin."""
        return self.marginal(partial(self.log_density, *self.values(x, torch.rand_like(x))), x)

    def log_density(self, values: Tensor, log_det: Tensor, told: Tensor) -> Tensor:
        """(n,) nats of images as `values` gives them with their log_det, told their classes as a `class_vector`."""
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
        return self.transform(self.values(x, 0.5)[0], self.class_vector(x))[0]

    @torch.no_grad()
    def decode(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Images of latents z (n, D); y: class ids (n,), None for no class."""
        logits, _ = self.transform.inverse(z, self.class_vector(z, y))
        return self.from_logits(logits)

    def sample(self, n: int, y: Tensor | None = None) -> Tensor:
        y = self.chosen(n, y)
        noise = self.temperature * torch.randn(n, math.prod(self.padded), device=self.device)
        mean, log_std = self.moments(self.class_vector(noise, y))
        return self.decode(mean + torch.exp(log_std) * noise, y)
