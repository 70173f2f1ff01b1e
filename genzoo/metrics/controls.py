"""Images of known worth, scored beside the generated ones: they say what a value of the score means."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def control_images(splits: Mapping[str, Tensor], n: int, seed: int) -> dict[str, Tensor]:
    """n (or all) images of "test" and of "train", the former blurred, and as many of uniform noise.

    splits: uint8 (N, C, H, W). Training images are what a generator that copies would give. Single pixels, points
    in the plane, have no blur. Torch's global generator is left alone.
    """
    generator = torch.Generator().manual_seed(seed)
    # Chosen at random, since some sources list their images class by class.
    test, train = (
        splits[name][torch.randperm(len(splits[name]), generator=generator)[:n]] for name in ("test", "train")
    )
    noise = torch.randint(0, 256, test.shape, generator=generator, dtype=torch.uint8)
    rows = {"real test": test, "real train": train, "uniform noise": noise}
    return rows | {"blurred real": blurred(test)} if min(test.shape[2:]) > 1 else rows


def blurred(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) under the 3x3 binomial kernel (1, 2, 1) / 4, a Gaussian of about 0.7 pixels."""
    row = torch.tensor([0.25, 0.5, 0.25])
    x = F.pad(images.float().flatten(0, 1)[:, None], (1, 1, 1, 1), mode="reflect")  # (N * C, 1, H + 2, W + 2)
    return F.conv2d(x, torch.outer(row, row)[None, None]).round().to(torch.uint8).view_as(images)
