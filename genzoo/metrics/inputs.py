"""uint8 images as networks for colour take them: three channels, another size."""

import torch.nn.functional as F
from torch import Tensor


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
