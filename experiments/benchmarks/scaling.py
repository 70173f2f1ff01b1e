"""python -m experiments.benchmarks.scaling: how a DDPM's cost grows with images' sides, parameters and batch.

Prints seconds and multiply-adds of a training step and the bytes that it keeps for its gradients, and the exponent of
each in each: cost ~ x ** slope, fitted on log-log axes.
"""

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from genzoo.metrics.cost import multiply_adds
from genzoo.nets.unet import UNet

SIDES, WIDTHS, BATCHES = (8, 16, 32, 64), (16, 32, 64), (4, 8, 16, 32)  # parameters grow by 16 over these widths


class Cost(NamedTuple):
    """Of a training step: seconds, multiply-adds, bytes kept for the backward pass; parameters of the network."""

    seconds: float
    multiply_adds: float
    kept: int
    parameters: int


def cost(side: int, width: int, batch: int, repeats: int = 3) -> Cost:
    """Of a UNet of this width on (batch, 1, side, side)."""
    torch.manual_seed(0)
    net = UNet((1, side, side), width)
    x = torch.randn(batch, 1, side, side)
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        (net(x, torch.rand(batch)) - x).square().mean().backward()
        optimizer.step()

    macs = multiply_adds(step)
    return Cost(
        median(clock(step) for _ in range(repeats)),
        macs,
        kept_for_backward(lambda: net(x, torch.rand(batch))),
        sum(p.numel() for p in net.parameters()),
    )


def clock(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def kept_for_backward(forward: Callable[[], Tensor]) -> int:
    """Bytes of the distinct arrays that autograd keeps; the same on every device."""
    kept: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        out = forward()
    del out
    return sum(kept.values())


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent of y ~ x ** slope."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def table(name: str, values: Sequence[int], costs: Sequence[Cost], against: Sequence[float]) -> str:
    lines = [
        f"| {name} | Parameters | Seconds a step | Multiply-adds | MB kept |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for value, c in zip(values, costs, strict=True):
        row = (value, f"{c.parameters:,}", f"{c.seconds:.3f}", f"{c.multiply_adds:.2e}", f"{c.kept / 2**20:.1f}")
        lines.append(f"| {' | '.join(map(str, row))} |")
    slopes = [slope(against, [getattr(c, key) for c in costs]) for key in ("seconds", "multiply_adds", "kept")]
    return "\n".join([*lines, f"| slope | | {slopes[0]:.2f} | {slopes[1]:.2f} | {slopes[2]:.2f} |\n"])


def main() -> None:
    torch.set_num_threads(1)
    sides = [cost(side, 32, 16) for side in SIDES]
    print(table("Side, width 32, batch 16", SIDES, sides, [side**2 for side in SIDES]))
    widths = [cost(16, width, 16) for width in WIDTHS]
    print(table("Width, side 16, batch 16", WIDTHS, widths, [c.parameters for c in widths]))
    batches = [cost(16, 32, batch) for batch in BATCHES]
    print(table("Batch, side 16, width 32", BATCHES, batches, BATCHES))


if __name__ == "__main__":
    main()
