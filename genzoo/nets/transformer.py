"""A causal transformer (Vaswani et al. 2017, norms first): what each code of a sequence may be, given those before."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genzoo.nets.conv import zero
from genzoo.nets.unet import heads

SPREAD = 0.02  # of embeddings at the start (Radford et al. 2019)


class Block(nn.Module):
    """Attention to the places up to one's own, then a perceptron, each added to x; it starts as the identity."""

    def __init__(self, dim: int, dropout: float = 0.0, head_dim: int = 64) -> None:
        super().__init__()
        self.heads = heads(dim, head_dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), zero(nn.Linear(dim, dim))
        self.perceptron = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), zero(nn.Linear(4 * dim, dim)))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, kept: Tensor | None = None, place: int = 0) -> Tensor:
        """x (n, length, d) -> the same shape; with `kept`, of `empty`, x (n, 1, d) is what stands at `place`."""
        x = x + self.dropout(self.out(self.attended(self.norm1(x), kept, place)))
        return x + self.dropout(self.perceptron(self.norm2(x)))

    def attended(self, x: Tensor, kept: Tensor | None, place: int) -> Tensor:
        parts = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = parts  # (n, heads, length, head_dim) each
        if kept is not None:
            kept[:, :, :, place] = parts[1:, :, :, 0]
            k, v = kept[:, :, :, : place + 1]
        return F.scaled_dot_product_attention(q, k, v, is_causal=kept is None).transpose(1, 2).flatten(2)

    def empty(self, n: int, length: int) -> Tensor:
        """Room for keys and values: (2, n, heads, length, head_dim)."""
        dim = self.out.in_features
        return self.out.weight.new_empty(2, n, self.heads, length, dim // self.heads)


class Transformer(nn.Module):
    """Sequences of `length` codes, one of `codes` each -> the logits of every code given those before it.

    width: a quarter of the embeddings' width d; blocks: a third of the transformer's, as of genzoo.nets.dit.
    classes: that a sequence may be told, by the token that it begins with; 0 for none.
    dropout: share of what each branch adds that training leaves out.
    tied: logits are products with the embeddings of the codes (Press & Wolf 2017), instead of other weights.
    """

    def __init__(
        self,
        codes: int,
        length: int,
        width: int,
        blocks: int = 2,
        classes: int = 0,
        dropout: float = 0.0,
        tied: bool = True,
    ) -> None:
        super().__init__()
        dim = 4 * width
        self.length = length
        self.begin = nn.Parameter(SPREAD * torch.randn(1 + classes, dim))  # of no class, and what each class adds
        self.embedding = nn.Embedding(codes, dim)
        nn.init.normal_(self.embedding.weight, std=SPREAD)
        self.places = nn.Parameter(SPREAD * torch.randn(length, dim))
        self.blocks = nn.ModuleList(Block(dim, dropout) for _ in range(3 * blocks))
        self.norm = nn.LayerNorm(dim)
        # no second name of the embeddings where tied: an average of parameters knows each by one name
        self.out = None if tied else nn.Parameter(SPREAD * torch.randn(codes, dim))
        self.bias = nn.Parameter(torch.zeros(codes))

    def forward(self, ids: Tensor, told: Tensor) -> Tensor:
        """ids (n, length), told (n, classes) 1 for a sequence's class -> (n, length, codes).

        The logits of place i follow from `told` and the ids of the places 0, ..., i - 1.
        """
        h = torch.cat([self.start(told)[:, None], self.embedding(ids[:, :-1])], dim=1) + self.places
        for block in self.blocks:
            h = block(h)
        return self.logits(h)

    def unrolled(self, told: Tensor, choose: Callable[[Tensor, int], Tensor]) -> Tensor:
        """(n, length) ids, those of each place i being choose(logits (n, codes), i), told of those chosen before.

        Each place costs one call of the blocks, which keep their keys and values.
        """
        kept = [block.empty(len(told), self.length) for block in self.blocks]
        h, ids = self.start(told), []
        for i, place in enumerate(self.places):
            h = (h + place)[:, None]  # (n, 1, d)
            for block, pairs in zip(self.blocks, kept, strict=True):
                h = block(h, pairs, i)
            ids.append(choose(self.logits(h)[:, 0], i))
            h = self.embedding(ids[-1])
        return torch.stack(ids, dim=1)

    def start(self, told: Tensor) -> Tensor:
        """(n, d), what stands before the first code."""
        return self.begin[0] + told.to(self.begin) @ self.begin[1:]

    def logits(self, h: Tensor) -> Tensor:
        return F.linear(self.norm(h), self.embedding.weight if self.out is None else self.out, self.bias)
