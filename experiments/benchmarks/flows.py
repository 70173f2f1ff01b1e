"""Glow: a training step of ours and 64 samples, beside normflows' and nflows' with the same layers and width."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from nflows.distributions import StandardNormal
from nflows.flows import Flow as NFlow
from nflows.transforms import (
    ActNorm,
    AffineCouplingTransform,
    CompositeTransform,
    OneByOneConvolution,
    SqueezeTransform,
)
from nflows.transforms.base import MultiscaleCompositeTransform
from torch import Tensor, nn

from experiments.benchmarks import sides
from experiments.benchmarks.race import Absent, Race
from genzoo.models.flow import Flow
from genzoo.nets.conv import conv3x3, zero
from genzoo.nets.invertible import halves, squeezes


class Net(nn.Sequential):
    """The coupling's network of Glow, and of normflows: 3x3, 1x1 and 3x3 convolutions."""

    def __init__(self, in_channels: int, out_channels: int, width: int, context: int = 0) -> None:
        last = zero(conv3x3(width, out_channels))
        super().__init__(conv3x3(in_channels, width), nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU(), last)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return super().forward(x)


def races(width: int = 64, side: int = 32, batch: int = 64, steps: int = 8) -> Iterator[Race | Absent]:
    """steps: of ActNorm, 1x1 convolution and affine coupling at each level."""
    x = sides.images(batch, side)
    size = f"{batch} x 1x{side}x{side}"
    for name, (module, build) in PEERS.items():
        if missing := sides.absent(f"Glow training step, {size}", name, module):
            yield missing
            continue
        net = f"model.net={{_target_: {__name__}.Net, _partial_: true, width: {width}}}"
        ours = sides.model_of("model=flow", net, f"data.image_shape=[1,{side},{side}]", f"model.steps={steps}")
        theirs, loss_of, sample = build(ours, width, steps)
        a, b = sides.training(ours, [x]), sides.bare(theirs, loss_of, ours, [x])
        yield sides.race(f"Glow training step, {size}", name, (ours, a), (theirs, b), comparable=False)
        ours.eval(), theirs.eval()
        a, b = partial(spread, ours.sample, batch), partial(spread, sample, batch)
        yield sides.race(f"Glow, sampling {size}", name, (ours, a), (theirs, b), comparable=False)


@torch.no_grad()
def spread(sample: Callable[[int], Tensor], n: int) -> float:
    return sample(n).clamp(-1, 1).std().item()


def dequantised(x: Tensor) -> Tensor:
    return (x + 1) * 127.5 / 256 + torch.rand_like(x) / 256  # [0, 1]


# --- Peers: (ours, width, steps) -> network, its loss of images, and how it samples.

Built = tuple[nn.Module, Callable[[Tensor], Tensor], Callable[[int], Tensor]]


def nflows(ours: Flow, width: int, steps: int) -> Built:
    channels, height, breadth = ours.image_shape
    shape, levels = ours.image_shape, squeezes(height, breadth)
    transform = MultiscaleCompositeTransform(levels)
    for _ in range(levels):
        shape = (4 * shape[0], shape[1] // 2, shape[2] // 2)
        layers = [SqueezeTransform()]
        for _ in range(steps):
            coupling = AffineCouplingTransform(halves(shape[0]), partial(Net, width=width))
            layers += [ActNorm(shape[0]), OneByOneConvolution(shape[0]), coupling]
        shape = transform.add_transform(CompositeTransform(layers), shape)
    flow = NFlow(transform, StandardNormal([channels * height * breadth]))

    def loss_of(x: Tensor) -> Tensor:
        logits, log_det = ours.to_logits(dequantised(x))
        return -(flow.log_prob(logits) + log_det).mean() / x[0].numel()

    return flow, loss_of, lambda n: ours.from_logits(flow.sample(n))


def normflows(ours: Flow, width: int, steps: int) -> Built:
    import normflows as nf

    channels, height, breadth = ours.image_shape
    levels = squeezes(height, breadth)
    flows, bases = [], []
    for i in range(levels):  # from the noise up
        c, k = channels * 2 ** (levels + 1 - i), 2 ** (levels - i)
        flows.append([*(nf.flows.GlowBlock(c, width) for _ in range(steps)), nf.flows.Squeeze()])
        shape = (c if i == 0 else c // 2, height // k, breadth // k)
        bases.append(nf.distributions.DiagGaussian(shape, trainable=False))
    merges = [nf.flows.Merge() for _ in range(levels - 1)]
    flow = nf.MultiscaleFlow(bases, flows, merges, class_cond=False)

    def loss_of(x: Tensor) -> Tensor:
        logits, log_det = ours.to_logits(dequantised(x))
        return -(flow.log_prob(logits, None) + log_det).mean() / x[0].numel()

    return flow, loss_of, lambda n: ours.from_logits(flow.sample(n)[0])


PEERS = {"normflows' GlowBlock": ("normflows", normflows), "nflows' layers": ("nflows", nflows)}
