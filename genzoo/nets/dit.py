"""DiT (Peebles & Xie 2023): a transformer over patches whose blocks time and condition shift, scale and gate."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genzoo.nets.conditions import Condition, given, widths
from genzoo.nets.conv import zero
from genzoo.nets.unet import Conditioning, attended, heads, positions


def patch_size(height: int, width: int, most: int = 256) -> int:
    """The smallest side of square patches that cut the image into at most `most`; the paper's 2 for 32x32.

    Raises ValueError for images without pixels.

    >>> [patch_size(side, side) for side in (8, 28, 32, 96)]
    [1, 2, 2, 6]
    """
    if min(height, width) < 1:
        raise ValueError(f"images of {height}x{width} pixels cannot be learned: give them sides of at least 1")
    return next(p for p in range(1, height * width + 1) if math.ceil(height / p) * math.ceil(width / p) <= most)


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x (n, length, d), shift and scale (n, d)."""
    return torch.addcmul(shift[:, None], x, 1 + scale[:, None])


def layer_norm(dim: int) -> nn.LayerNorm:
    return nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)


class CrossAttention(nn.Module):
    """Attention of every patch to the tokens of a condition."""

    def __init__(self, dim: int, tokens: int) -> None:
        super().__init__()
        self.norm, self.heads = layer_norm(dim), heads(dim)
        self.q, self.kv = nn.Linear(dim, dim), nn.Linear(tokens, 2 * dim)
        self.out = zero(nn.Linear(dim, dim))

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        return self.out(attended(self.q(self.norm(x)), *self.kv(tokens).chunk(2, dim=2), self.heads))


class Block(nn.Module):
    """Attention and a perceptron, each shifted, scaled and gated by c; it starts as the identity (figure 3).

    tokens: width of those that are attended to between the two, without gate (Chen et al. 2024); 0 for none.
    """

    def __init__(self, dim: int, tokens: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads(dim)
        self.norm1, self.norm2 = layer_norm(dim), layer_norm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.cross = CrossAttention(dim, tokens) if tokens else None
        perceptron = nn.Linear(dim, 4 * dim), nn.GELU("tanh"), nn.Dropout(dropout), nn.Linear(4 * dim, dim)
        self.perceptron = nn.Sequential(*perceptron)
        self.modulation = zero(nn.Linear(dim, 6 * dim))

    def forward(self, x: Tensor, c: Tensor, tokens: Tensor | None = None) -> Tensor:
        """x (n, patches, d), c (n, d), tokens (n, length, w) -> (n, patches, d)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c).chunk(6, dim=1)
        q, k, v = self.qkv(modulated(self.norm1(x), shift1, scale1)).chunk(3, dim=2)
        x = x + gate1[:, None] * self.out(attended(q, k, v, self.heads))
        if self.cross is not None:
            x = x + self.cross(x, tokens)
        return x + gate2[:, None] * self.perceptron(modulated(self.norm2(x), shift2, scale2))


class DiT(nn.Module):
    """(x, t, y) -> `outputs` arrays shaped as x, one behind the other. Images are cut into at most 256 patches.

    width: a quarter of the patches' width d; blocks: a third of the transformer's. At these a step costs about what
    the UNet of the same numbers costs.
    times: numbers that say the time. condition: what y says, of genzoo.nets; its vector goes with the time, its tokens
    are attended to, its maps are stacked on x.
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
        channels, height, breadth = image_shape
        dim, p = 4 * width, patch_size(height, breadth)
        vector, tokens, maps = widths(condition, (height, breadth))
        self.condition, self.patch, self.channels = condition, p, outputs * channels
        self.conditioning = Conditioning(width, dim, times, vector)
        self.stem = nn.Conv2d(channels + maps, dim, p, stride=p)
        self.blocks = nn.ModuleList(Block(dim, tokens, dropout) for _ in range(3 * blocks))
        self.norm, self.modulation = layer_norm(dim), zero(nn.Linear(dim, 2 * dim))
        self.out = zero(nn.Linear(dim, p * p * self.channels))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """x (n, C, H, W), t (n,) or (n, times) steps, y of the condition -> (n, outputs * C, H, W)."""
        vector, tokens, maps = given(self.condition, y, len(x), x.shape[-2:])
        c = self.conditioning(t, vector)
        height, width = x.shape[-2:]
        x = x if maps is None else torch.cat([x, maps], dim=1)
        h = self.stem(F.pad(x, (0, -width % self.patch, 0, -height % self.patch)))  # (n, d, h, w)
        rows, columns = h.shape[-2:]
        h = h.flatten(2).mT + positions(rows, columns, h.shape[1], h.device).to(h.dtype)  # (n, h * w, d)
        for block in self.blocks:
            h = block(h, c, tokens)
        h = self.out(modulated(self.norm(h), *self.modulation(c).chunk(2, dim=1)))  # (n, h * w, outputs * C * p * p)
        image = F.pixel_shuffle(h.mT.unflatten(2, (rows, columns)), self.patch)
        return image[..., :height, :width]
