"""The UNet of Ho et al. 2020: residual blocks that see the time, attention at chosen resolutions, to conditions too."""

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genzoo.nets.conditions import Condition, given, widths
from genzoo.nets.conv import Norm, conv3x3, enlarged, group_norm, resolutions, zero


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Sinusoids of t (n,) at `dim` / 2 frequencies from 1 down to 1e-4 -> (n, dim) (Vaswani et al. 2017)."""
    half = dim // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device) / half)
    angles = t.float()[:, None] * frequencies
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, dim % 2))


def positions(height: int, width: int, dim: int, device: torch.device | None = None) -> Tensor:
    """(height * width, dim): sinusoids of the column, then of the row, in half of `dim` each (Peebles & Xie 2023)."""
    rows, columns = (torch.arange(side, device=device) for side in (height, width))
    half = dim // 2
    across = timestep_embedding(columns, half).expand(height, -1, -1)
    down = timestep_embedding(rows, dim - half)[:, None].expand(-1, width, -1)
    return torch.cat([across, down], dim=2).flatten(0, 1)


class Conditioning(nn.Module):
    """What every block is told: times t (n,) or (n, times) and a condition's vector -> a vector (n, dim) (Dhariwal &
    Nichol 2021, section 4.4).

    vector: width of the condition's vector, 0 for none.
    """

    def __init__(self, width: int, dim: int, times: int = 1, vector: int = 0) -> None:
        super().__init__()
        self.width, self.times = width, times
        self.time = nn.Sequential(nn.Linear(times * width, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.vector = nn.Linear(vector, dim) if vector else None
        if self.vector is not None:
            nn.init.normal_(self.vector.weight, std=vector**-0.5)  # heard from the start: a unit variance stays one

    def forward(self, t: Tensor, vector: Tensor | None = None) -> Tensor:
        embedding = timestep_embedding(t.reshape(-1), self.width)  # (n * times, width)
        h = self.time(embedding.to(self.time[0].weight.dtype).view(-1, self.times * self.width))
        return F.silu(h if self.vector is None else h + self.vector(vector))


class TimeResBlock(nn.Module):
    """A residual block into which the time embedding is added between its two convolutions."""

    def __init__(
        self, channels_in: int, channels_out: int, time_dim: int, dropout: float, norm: Norm = group_norm
    ) -> None:
        super().__init__()
        self.skip = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)
        self.norm1, self.conv1 = norm(channels_in), conv3x3(channels_in, channels_out)
        self.time = nn.Linear(time_dim, channels_out)
        self.norm2, self.conv2 = norm(channels_out), zero(conv3x3(channels_out, channels_out))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.time(time)[:, :, None, None]
        return self.skip(x) + self.conv2(self.dropout(F.silu(self.norm2(h))))


def heads(channels: int, head_dim: int = 64) -> int:
    """How many heads of at least `head_dim` channels divide them; one where there are fewer channels."""
    return next(h for h in range(max(channels // head_dim, 1), 0, -1) if channels % h == 0)


def attended(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Scaled dot-product attention: q (n, length, c), k and v (n, others, c) -> (n, length, c)."""
    # (n, heads, length, head_dim) with neighbours in memory along head_dim, or a CPU leaves its fused kernel unused
    q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Self-attention over the positions of a feature map, added to it."""

    def __init__(self, channels: int, norm: Norm = group_norm) -> None:
        super().__init__()
        self.heads = heads(channels)
        self.norm = norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x).flatten(2).transpose(1, 2)).chunk(3, dim=2)  # (n, h * w, c)
        return x + self.out(attended(q, k, v, self.heads)).transpose(1, 2).reshape(n, c, h, w)


class CrossAttention(nn.Module):
    """Attention of every place of a feature map to the tokens of a condition, added to it (Rombach et al. 2022,
    section 3.3); a place also asks by where it is, which boxes are about."""

    def __init__(self, channels: int, tokens: int, norm: Norm = group_norm) -> None:
        super().__init__()
        self.heads = heads(channels)
        self.norm = norm(channels)
        self.q, self.kv = nn.Linear(channels, channels), nn.Linear(tokens, 2 * channels)
        self.out = zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """x (n, c, h, w), tokens (n, length, d) -> (n, c, h, w)."""
        n, c, h, w = x.shape
        places = self.norm(x).flatten(2).transpose(1, 2)  # (n, h * w, c)
        places = places + positions(h, w, c, x.device).to(x.dtype)
        found = attended(self.q(places), *self.kv(tokens).chunk(2, dim=2), self.heads)
        return x + self.out(found).transpose(1, 2).reshape(n, c, h, w)


class Block(nn.Module):
    """A residual block and, where asked, attention behind it: to itself, and to tokens of this width."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        time_dim: int,
        dropout: float,
        attend: bool,
        tokens: int = 0,
        norm: Norm = group_norm,
    ) -> None:
        super().__init__()
        self.res = TimeResBlock(channels_in, channels_out, time_dim, dropout, norm)
        self.attention = Attention(channels_out, norm) if attend else nn.Identity()
        self.cross = CrossAttention(channels_out, tokens, norm) if attend and tokens else None

    def forward(self, x: Tensor, time: Tensor, tokens: Tensor | None = None) -> Tensor:
        h = self.attention(self.res(x, time))
        return h if self.cross is None else self.cross(h, tokens)


class UNet(nn.Module):
    """(x, t, y) -> `outputs` arrays shaped as x, one behind the other: the noise predictor of DDPM.

    width: channels at the full resolution; `multipliers` gives each lower one's, its last entry going on below.
    blocks: residual blocks a resolution on the way down (one more on the way up).
    attention: shorter sides of the resolutions with attention; Ho et al. have 16 alone.
    times: numbers that say the time. condition: what y says, of genzoo.nets; its vector goes with the time, its tokens
    are attended to where the image itself is, its maps are stacked on x.
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
        condition: Condition | None = None,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        channels, height, breadth = image_shape
        sizes = resolutions(height, breadth)
        channels_at = [width * multipliers[min(i, len(multipliers) - 1)] for i in range(len(sizes))]
        time_dim = 4 * width
        norm = partial(nn.GroupNorm, group_norm(width).num_groups)  # everywhere, as Ho et al. have it
        self.condition = condition
        vector, tokens, maps = widths(condition, (height, breadth))
        self.conditioning = Conditioning(width, time_dim, times, vector)
        self.stem = conv3x3(channels + maps, width)

        def block(c_in: int, c_out: int, size: tuple[int, int]) -> Block:
            return Block(c_in, c_out, time_dim, dropout, min(size) in attention, tokens, norm)

        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips, c = [width], width
        for i, (size, w) in enumerate(zip(sizes, channels_at, strict=True)):
            if i > 0:
                self.down.append(conv3x3(c, c, stride=2))
                skips.append(c)
            for _ in range(blocks):
                self.down.append(block(c, w, size))
                c = w
                skips.append(c)
        self.middle = nn.ModuleList([Block(c, c, time_dim, dropout, attend, tokens, norm) for attend in (True, False)])
        for i, (size, w) in reversed(list(enumerate(zip(sizes, channels_at, strict=True)))):
            for _ in range(blocks + 1):
                self.up.append(block(c + skips.pop(), w, size))
                c = w
            if i > 0:
                self.up.append(conv3x3(c, c))
        self.out = nn.Sequential(norm(c), nn.SiLU(), zero(conv3x3(c, outputs * channels)))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """x (n, C, H, W), t (n,) or (n, times) steps, y of the condition -> (n, outputs * C, H, W)."""
        vector, tokens, maps = given(self.condition, y, len(x), x.shape[-2:])
        time = self.conditioning(t, vector)
        h = self.stem(x if maps is None else torch.cat([x, maps], dim=1))
        skips = [h]
        for layer in self.down:
            h = layer(h, time, tokens) if isinstance(layer, Block) else layer(h)
            skips.append(h)
        for layer in self.middle:
            h = layer(h, time, tokens)
        for layer in self.up:
            if isinstance(layer, Block):
                h = layer(torch.cat([h, skips.pop()], dim=1), time, tokens)
            else:
                h = enlarged(layer, h, skips[-1].shape[-2:])
        return self.out(h)
