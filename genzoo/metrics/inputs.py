"""Images as they are measured: 256 levels, and for networks for colour three channels and another size."""

import torch.nn.functional as F
from torch import Tensor

from genzoo.generator import to_uint8


def quantised(x: Tensor) -> Tensor:
    """uint8 images as they are; points in [-1, 1] the same way as generated ones.

    Raises ValueError for points that are not finite, which have no level.
    """
    if not x.is_floating_point():
        return x
    if not x.isfinite().all():
        raise ValueError("The data hold NaN or infinity, which nothing can be compared with: mend their source.")
    return to_uint8(x)


def rgb(images: Tensor, name: str) -> Tensor:
    """(N, 1 or 3, H, W) to (N, 3, H, W), grey repeated. Raises ValueError, naming the extractor, for other channels."""
    if images.shape[1] not in (1, 3):
        raise ValueError(f"{name} takes images of 1 or 3 channels, got {images.shape[1]}: use features=pixels.")
    return images.expand(-1, 3, -1, -1)


def resized(images: Tensor, size: int) -> Tensor:
    """uint8 (N, C, H, W) to float32 (N, C, size, size) in [0, 255]: Pillow's bicubic, without its rounding."""
    # The antialiased kernel has Pillow's and TensorFlow's coefficient -1/2; the plain one -3/4. It overshoots.
    x = F.interpolate(images.float(), (size, size), mode="bicubic", align_corners=False, antialias=True)
    return x.clamp(0, 255)
