"""A causal transformer (Vaswani et al. 2017, norms first): what each code of a sequence may be, given those before and
what is told of the image."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genzoo.nets.conditions import Condition, given, widths
from genzoo.nets.conv import zero
from genzoo.nets.unet import heads

SPREAD = 0.02  # of embeddings at the start (Radford et al. 2019)


class Block(nn.Module):
    """Attention to the places up to one's own, then a perceptron, each added to x; it starts as the identity."""

    def __init__(self, dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads(dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), zero(nn.Linear(dim, dim))
        self.perceptron = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), zero(nn.Linear(4 * dim, dim)))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, kept: Tensor | None = None, place: int = 0) -> Tensor:
        """x (n, length, d) -> the same shape; with `kept`, of `empty`, x is what stands from `place` on: a sequence's
        start at 0, or (n, 1, d) of a single place."""
        x = x + self.dropout(self.out(self.attended(self.norm1(x), kept, place)))
        return x + self.dropout(self.perceptron(self.norm2(x)))

    def attended(self, x: Tensor, kept: Tensor | None, place: int) -> Tensor:
        parts = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k, v = parts  # (n, heads, length, head_dim) each
        if kept is not None:
            end = place + x.shape[1]
            kept[:, :, :, place:end] = parts[1:]
            k, v = kept[:, :, :, :end].to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, is_causal=x.shape[1] > 1).transpose(1, 2).flatten(2)

    def empty(self, n: int, length: int) -> Tensor:
        """Room for keys and values: (2, n, heads, length, head_dim)."""
        dim = self.out.in_features
        return self.out.weight.new_empty(2, n, self.heads, length, dim // self.heads)


class Transformer(nn.Module):
    """Sequences of `length` codes, one of `codes` each -> the logits of every code given those before it.

    width: a quarter of the embeddings' width d; blocks: a third of the transformer's, as of genzoo.nets.dit.
    condition: what y says, of genzoo.nets; its tokens stand before the codes (Ramesh et al. 2021), its vector is added
    to the token that the codes begin with. Raises ValueError for one that gives maps.
    dropout: share of what each branch adds that training leaves out.
    tied: logits are products with the embeddings of the codes (Press & Wolf 2017), instead of other weights.
    """

    def __init__(
        self,
        codes: int,
        length: int,
        width: int,
        blocks: int = 2,
        condition: Condition | None = None,
        dropout: float = 0.0,
        tied: bool = True,
    ) -> None:
        super().__init__()
        dim, (vector, tokens, maps) = 4 * width, widths(condition)
        if maps:
            raise ValueError("a prior of codes takes no maps: set condition to classes, layout, text, clip or none")
        self.length, self.condition = length, condition
        self.begin = nn.Parameter(SPREAD * torch.randn(dim))
        self.vector = nn.Linear(vector, dim) if vector else None
        self.prefix = nn.Linear(tokens, dim) if tokens else None
        self.embedding = nn.Embedding(codes, dim)
        nn.init.normal_(self.embedding.weight, std=SPREAD)
        self.places = nn.Parameter(SPREAD * torch.randn(length, dim))
        self.blocks = nn.ModuleList(Block(dim, dropout) for _ in range(3 * blocks))
        self.norm = nn.LayerNorm(dim)
        # no second name of the embeddings where tied: an average of parameters knows each by one name
        self.out = None if tied else nn.Parameter(SPREAD * torch.randn(codes, dim))
        self.bias = nn.Parameter(torch.zeros(codes))

    def forward(self, ids: Tensor, y: Tensor | None = None) -> Tensor:
        """ids (n, length), y of the condition, None for its null -> (n, length, codes).

        The logits of place i follow from y and the ids of the places 0, ..., i - 1.
        """
        h = torch.cat([self.start(y, len(ids)), self.embedding(ids[:, :-1]) + self.places[1:]], dim=1)
        for block in self.blocks:
            h = block(h)
        return self.logits(h[:, -self.length :])

    def unrolled(self, n: int, y: Tensor | None, choose: Callable[[Tensor, int], Tensor]) -> Tensor:
        """(n, length) ids, those of each place i being choose(logits (n, codes), i), told of those chosen before.

        Each place costs one call of the blocks, which keep their keys and values.
        """
        h, ids, end = self.start(y, n), [], 0
        kept = [block.empty(n, h.shape[1] + self.length - 1) for block in self.blocks]
        for i in range(self.length):
            if ids:
                h = (self.embedding(ids[-1]) + self.places[i])[:, None]  # (n, 1, d)
            for block, pairs in zip(self.blocks, kept, strict=True):
                h = block(h, pairs, end)
            end += h.shape[1]
            ids.append(choose(self.logits(h[:, -1]), i))
        return torch.stack(ids, dim=1)

    def start(self, y: Tensor | None, n: int) -> Tensor:
        """(n, tokens + 1, d), what stands before the first code."""
        vector, tokens, _ = given(self.condition, y, n)
        begin = (self.begin + self.places[0]).expand(n, -1)
        begin = (begin if self.vector is None else begin + self.vector(vector))[:, None]
        return begin if self.prefix is None else torch.cat([self.prefix(tokens), begin], dim=1)

    def logits(self, h: Tensor) -> Tensor:
        return F.linear(self.norm(h), self.embedding.weight if self.out is None else self.out, self.bias)
