"""The UNet of Ho et al. 2020: residual blocks that see the time, attention at chosen resolutions."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genzoo.nets.conv import conv3x3, enlarged, group_norm, resolutions, zero


def timestep_embedding(t: Tensor, dim: int, longest: float = 10_000.0) -> Tensor:
    """Sinusoids of t (n,) at `dim` / 2 frequencies from 1 down to 1 / `longest` -> (n, dim) (Vaswani et al. 2017)."""
    half = dim // 2
    frequencies = torch.exp(-math.log(longest) * torch.arange(half, device=t.device) / half)
    angles = t.float()[:, None] * frequencies
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, dim % 2))


class Conditioning(nn.Module):
    """What every block is told: times t (n,) or (n, times) and class ids y (n,) -> a vector (n, dim) (Dhariwal &
    Nichol 2021, section 4.4).

    classes: number of them, 0 for none; y=None is the learned null, one class more, as is an id of `classes`.
    """

    def __init__(self, width: int, dim: int, times: int = 1, classes: int = 0) -> None:
        super().__init__()
        self.width, self.times, self.classes = width, times, classes
        self.time = nn.Sequential(nn.Linear(times * width, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.label = nn.Embedding(classes + 1, dim) if classes else None

    def forward(self, t: Tensor, y: Tensor | None = None) -> Tensor:
        embedding = timestep_embedding(t.reshape(-1), self.width)  # (n * times, width)
        h = self.time(embedding.to(self.time[0].weight.dtype).view(-1, self.times * self.width))
        if self.label is None:
            return F.silu(h)
        null = torch.full((len(h),), self.classes, device=h.device)
        return F.silu(h + self.label(null if y is None else y))


class TimeResBlock(nn.Module):
    """A residual block into which the time embedding is added between its two convolutions."""

    def __init__(self, channels_in: int, channels_out: int, time_dim: int, dropout: float) -> None:
        super().__init__()
        self.skip = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)
        self.norm1, self.conv1 = group_norm(channels_in), conv3x3(channels_in, channels_out)
        self.time = nn.Linear(time_dim, channels_out)
        self.norm2, self.conv2 = group_norm(channels_out), zero(conv3x3(channels_out, channels_out))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.time(time)[:, :, None, None]
        return self.skip(x) + self.conv2(self.dropout(F.silu(self.norm2(h))))


class Attention(nn.Module):
    """Self-attention over the positions of a feature map, added to it."""

    def __init__(self, channels: int, head_dim: int = 64) -> None:
        super().__init__()
        self.heads = next(h for h in range(max(channels // head_dim, 1), 0, -1) if channels % h == 0)
        self.norm = group_norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        qkv = self.qkv(self.norm(x).flatten(2).transpose(1, 2))  # (n, h * w, 3 c)
        # (n, heads, h * w, head_dim) with neighbours in memory along head_dim, or a CPU leaves its fused kernel unused
        q, k, v = qkv.view(n, h * w, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, h * w, c)
        return x + self.out(attended).transpose(1, 2).reshape(n, c, h, w)


class Block(nn.Module):
    """A residual block and, where asked, attention behind it."""

    def __init__(self, channels_in: int, channels_out: int, time_dim: int, dropout: float, attend: bool) -> None:
        super().__init__()
        self.res = TimeResBlock(channels_in, channels_out, time_dim, dropout)
        self.attention = Attention(channels_out) if attend else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return self.attention(self.res(x, time))


class UNet(nn.Module):
    """(x, t, y) -> `outputs` arrays shaped as x, one behind the other: the noise predictor of DDPM.

    width: channels at the full resolution; `multipliers` gives each lower one's, its last entry going on below.
    blocks: residual blocks a resolution on the way down (one more on the way up).
    attention: shorter sides of the resolutions with self-attention; Ho et al. have 16 alone.
    times, classes: as of `Conditioning`.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        width: int,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 2,
        attention: Sequence[int] = (16, 7, 4),
        dropout: float = 0.0,
        times: int = 1,
        classes: int = 0,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        channels, height, breadth = image_shape
        sizes = resolutions(height, breadth)
        widths = [width * multipliers[min(i, len(multipliers) - 1)] for i in range(len(sizes))]
        time_dim = 4 * width
        self.condition = Conditioning(width, time_dim, times, classes)
        self.stem = conv3x3(channels, width)

        def block(c_in: int, c_out: int, size: tuple[int, int]) -> Block:
            return Block(c_in, c_out, time_dim, dropout, attend=min(size) in attention)

        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, c = [width], width
        for i, (size, w) in enumerate(zip(sizes, widths, strict=True)):
            if i > 0:
                self.down.append(conv3x3(c, c, stride=2))
                skips.append(c)
            for _ in range(blocks):
                self.down.append(block(c, w, size))
                c = w
                skips.append(c)
        self.middle = nn.ModuleList(
            [Block(c, c, time_dim, dropout, attend=True), Block(c, c, time_dim, dropout, attend=False)]
        )
        for i, (size, w) in reversed(list(enumerate(zip(sizes, widths, strict=True)))):
            for _ in range(blocks + 1):
                self.up.append(block(c + skips.pop(), w, size))
                c = w
            if i > 0:
                self.up.append(conv3x3(c, c))
        self.out = nn.Sequential(group_norm(c), nn.SiLU(), zero(conv3x3(c, outputs * channels)))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """x (n, C, H, W), t (n,) or (n, times) steps, y (n,) class ids -> (n, outputs * C, H, W)."""
        time = self.condition(t, y)
        h = self.stem(x)
        skips = [h]
        for layer in self.down:
            h = layer(h, time) if isinstance(layer, Block) else layer(h)
            skips.append(h)
        for layer in self.middle:
            h = layer(h, time)
        for layer in self.up:
            if isinstance(layer, Block):
                h = layer(torch.cat([h, skips.pop()], dim=1), time)
            else:
                h = enlarged(layer, h, skips[-1].shape[-2:])
        return self.out(h)
