"""Vector quantisation (van den Oord et al. 2017): every place of a latent map is the nearest of K codes."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from genzoo.nets.autoencoder import Squeezed, in_full


def nearest_codes(rows: Tensor, codebook: Tensor) -> Tensor:
    """(N,) index of the code (K, c) nearest to each row (N, c) by Euclidean distance; of equal ones the first."""
    return torch.addmm(codebook.square().sum(1), rows, codebook.T, alpha=-2).argmin(1)  # less |row|^2, all codes' alike


def straight_through(z: Tensor, e: Tensor) -> Tensor:
    """The value of e and, as gradient of z, its own gradient (section 3.1 of the paper)."""
    return e.detach() + (z - z.detach())  # the difference is 0, so that e is met to the bit


def perplexity(shares: Tensor) -> Tensor:
    """exp of the entropy of shares (K,) that sum to 1: K codes in equal use have K, a single one 1."""
    return torch.special.entr(shares).sum().exp()


class VectorQuantiser(nn.Module):
    """K codes of `channels` numbers, K = `codes`; penalty: mean of commitment |z - sg(e)|^2 + learning |sg(z) - e|^2.

    learning: weight by which the codes learn from the loss (equation 3); with 0 they follow, as k-means of a mini-batch
        would, the running means of the rows that they stand for (appendix A.1).
    decay: of these means, and of `usage` (K,), the share of rows that each code has lately stood for.
    dead: codes in use less than this share of 1 / K become rows of the batch; so do all before the first. 0 for never.
    Only in training mode does anything but the loss change the codes. The rows of all processes count as one batch.
    """

    name = "VQ"
    sampling = "decoder of codes drawn independently, each as often as training uses it"

    def __init__(
        self,
        channels: int,
        codes: int,
        commitment: float = 0.25,
        learning: float = 0.0,
        decay: float = 0.99,
        dead: float = 0.1,
    ) -> None:
        super().__init__()
        self.channels, self.in_channels, self.codes = channels, channels, codes
        self.commitment, self.learning, self.decay, self.dead = commitment, learning, decay, dead
        start = torch.randn(codes, channels)
        if learning:
            self.codebook = nn.Parameter(start)
        else:
            self.register_buffer("codebook", start)
        self.register_buffer("usage", torch.zeros(codes))

    def forward(self, h: Tensor) -> Squeezed:
        z = in_full(h)
        rows = as_rows(z.detach())
        if self.training:
            self.revive(rows)
        ids = self.ids(h)
        e = self.look_up(ids)
        commitment, learning = F.mse_loss(z, e.detach()), F.mse_loss(e, z.detach())
        shares = self.shares(ids)
        if self.training:
            self.follow(rows, ids.flatten())
        terms = {"commitment": commitment.detach(), "perplexity": perplexity(shares)}
        return Squeezed(straight_through(z, e), self.commitment * commitment + self.learning * learning, terms)

    def ids(self, h: Tensor) -> Tensor:
        """(n, h, w) int64, the codes that stand for h (n, channels, h, w)."""
        with torch.autocast(h.device.type, enabled=False):
            found = nearest_codes(as_rows(in_full(h.detach())), self.codebook.detach())
        return found.view(len(h), *h.shape[2:])

    def look_up(self, ids: Tensor) -> Tensor:
        """ids (n, h, w) -> z (n, channels, h, w)."""
        return F.embedding(ids, self.codebook).permute(0, 3, 1, 2)

    def shares(self, ids: Tensor) -> Tensor:
        """(K,): how large a share of `ids` each code is."""
        return torch.zeros_like(self.usage).index_add_(0, ids.flatten(), self.usage.new_ones(ids.numel())) / ids.numel()

    def latent(self, h: Tensor) -> Tensor:
        """h itself: the decoder quantises (Rombach et al. 2022, section 3.1)."""
        return in_full(h)

    def nearest(self, z: Tensor) -> Tensor:
        return self.look_up(self.ids(z))

    def draw(self, n: int, size: Sequence[int], device: torch.device) -> Tensor:
        """Codes by the inverse of their cumulative shares: one uniform number a place, image by image."""
        reached = (self.usage.double() + 1e-12).cumsum(0)  # untrained, all codes alike
        u = torch.rand(n, *size, device=device).double()
        return self.look_up(torch.searchsorted(reached / reached[-1], u))

    @torch.no_grad()
    def revive(self, rows: Tensor) -> None:
        """Move the codes that stand for next to nothing to rows (N, c) drawn at random, as if in average use."""
        if not self.dead:
            return
        dead = self.usage < self.dead / self.codes  # (K,)
        chosen = rows[torch.randint(len(rows), (self.codes,), device=rows.device)]
        if together():
            dist.broadcast(chosen, src=0)
        self.codebook.copy_(torch.where(dead[:, None], chosen, self.codebook))
        self.usage.masked_fill_(dead, 1 / self.codes)

    @torch.no_grad()
    def follow(self, rows: Tensor, ids: Tensor) -> None:
        """Appendix A.1: N <- decay N + (1 - decay) n, m <- decay m + (1 - decay) sum of rows, codes m / N.

        With m = N e written as a step of e, which nothing divides by zero where a code is out of use.
        """
        ones = rows.new_ones(len(rows), 1)
        sums = rows.new_zeros(self.codes, self.channels + 1).index_add_(0, ids, torch.cat([rows, ones], 1))
        if together():
            dist.all_reduce(sums)
        sums, n = (sums / sums[:, -1].sum()).split([self.channels, 1], dim=1)  # (K, c), (K, 1)
        self.usage.lerp_(n[:, 0], 1 - self.decay)
        if not self.learning:
            step = (sums - n * self.codebook) / self.usage.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
            self.codebook.add_(step, alpha=1 - self.decay)


def as_rows(z: Tensor) -> Tensor:
    """(n, c, h, w) -> (n * h * w, c)."""
    return z.permute(0, 2, 3, 1).flatten(0, 2)


def together() -> bool:
    """Whether other processes train the same weights."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
