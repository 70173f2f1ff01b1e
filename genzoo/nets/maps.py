"""Conditions that are images: maps beside x, given with the data or made of x itself.

Their last channel says where the others are known. The null is 0 everywhere: nothing is known.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from genzoo.nets.canny import canny
from genzoo.nets.conditions import Condition, Given


def known(maps: Tensor) -> Tensor:
    """Maps (n, c, h, w) with a channel of ones behind them: all of it is known."""
    return torch.cat([maps, torch.ones_like(maps[:, :1])], dim=1)


class Maps(Condition):
    """Maps that the data brings as y (n, channels, H, W), such as depth; y (n, channels + 1, H, W) with `known`."""

    remedy = "take data that brings maps as y, as data=folder data.ask=map, with condition.channels as it has them"

    def __init__(self, image_shape: Sequence[int], channels: int) -> None:
        _, *size = image_shape
        super().__init__(torch.zeros(channels + 1, *size))
        self.size, self.maps = size, channels + 1

    def of(self, x: Tensor, y: Tensor | None) -> Tensor:
        return super().of(x, known(y) if y is not None and y.shape[2:] == (*self.size,) else y)

    def seen(self, x: Tensor, y: Tensor) -> Tensor:
        """The map (n, channels + 1, H, W) that samples x (n, C, H, W) show where they were asked for y; of a condition
        that is made of images."""
        return self.of(x, None)

    def forward(self, y: Tensor) -> Given:
        return Given(maps=y.to(self.nothing))


class LowResolution(Maps):
    """The means of blocks of factor x factor pixels: super-resolution. y (n, C + 1, H / factor, W / factor).

    Raises ValueError for a factor that does not divide the image.
    """

    def __init__(self, image_shape: Sequence[int], factor: int) -> None:
        channels, height, width = image_shape
        if factor < 1 or height % factor or width % factor:
            raise ValueError(f"condition.factor={factor} does not divide images of {height}x{width} pixels")
        super().__init__((channels, height // factor, width // factor), channels)
        self.factor = factor

    def of(self, x: Tensor, y: Tensor | None) -> Tensor:
        return known(F.avg_pool2d(x, self.factor))


class Masked(Maps):
    """The image without what is to be filled in: inpainting. y (n, C + 1, H, W), unknown pixels 0.

    In training up to `most` rectangles are missing, of sides from `low` to `high` of the image's; of a share `outside`
    of the images all but these is.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        most: int = 3,
        low: float = 0.2,
        high: float = 0.8,
        outside: float = 0.2,
    ) -> None:
        super().__init__(image_shape, image_shape[0])
        self.most, self.low, self.high, self.outside = most, low, high, outside

    def of(self, x: Tensor, y: Tensor | None) -> Tensor:
        missing = rectangles(x, self.most, self.low, self.high)
        around = torch.rand(len(x), 1, 1, 1, device=x.device) < self.outside
        return masked(x, torch.where(around, ~missing, missing))

    def seen(self, x: Tensor, y: Tensor) -> Tensor:
        return masked(x, y[:, -1:] == 0)


def masked(x: Tensor, missing: Tensor) -> Tensor:
    """The condition `Masked` of x (n, C, H, W), where pixels (n, 1, H, W) are missing."""
    return torch.cat([x.masked_fill(missing, 0), (~missing).to(x)], dim=1)


def rectangles(x: Tensor, most: int, low: float, high: float) -> Tensor:
    """(n, 1, H, W): whether a pixel of x (n, C, H, W) is in one of 1 to `most` rectangles with sides of `low` to `high`
    of the image's."""
    inside = []
    for pixels in x.shape[-2:]:
        side = low + (high - low) * torch.rand(len(x), most, 1, device=x.device)
        start = torch.rand_like(side) * (1 - side)
        centre = (torch.arange(pixels, device=x.device) + 0.5) / pixels
        inside.append((start <= centre) & (centre < start + side))  # (n, most, pixels)
    used = torch.arange(most, device=x.device) <= torch.randint(most, (len(x), 1), device=x.device)
    rows, columns = inside[0] & used[..., None], inside[1]
    return (rows[..., :, None] & columns[..., None, :]).any(1, keepdim=True)


class Edges(Maps):
    """Where brightness changes, by Canny: y (n, 2, H, W), 1 on edges and -1 elsewhere.

    sigma, low, high: as in `genzoo.nets.canny.canny`. Raises ValueError for numbers that these cannot be.
    """

    def __init__(self, image_shape: Sequence[int], sigma: float = 1.0, low: float = 0.1, high: float = 0.2) -> None:
        super().__init__(image_shape, 1)
        if not (sigma > 0 and 0 < low <= high):
            raise ValueError(f"condition.sigma={sigma}, low={low}, high={high}: give sigma > 0 and 0 < low <= high")
        self.sigma, self.low, self.high = sigma, low, high

    @torch.compiler.disable  # a loop until nothing changes
    def of(self, x: Tensor, y: Tensor | None) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # edges do not follow from the training's precision
            edges = canny(x.float(), self.sigma, self.low, self.high)
        return known(2 * edges.to(x) - 1)
