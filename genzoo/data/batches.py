"""Batches as slices of one tensor, in an order that follows from (seed, epoch, rank) alone."""

from collections.abc import Callable, Iterable, Iterator
from itertools import repeat

import numpy as np
import torch
from torch import Tensor

from genzoo.data.splits import Images

Order = Callable[[int], list[Tensor]]
Flips = Callable[..., Iterator[Tensor]]


def epoch_batches(n: int, batch_size: int, seed: int, epoch: int, rank: int = 0, world: int = 1) -> list[Tensor]:
    """The indices of every training batch of one epoch, int64 (batch_size,) each.

    All ranks cut the same permutation of n, drawn from (seed, epoch), into disjoint shares of n // world
    indices. A last batch smaller than batch_size is dropped, unless it is the only one.
    """
    order = torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(n))
    share = order[rank : n // world * world : world]  # (n // world,)
    full = len(share) // batch_size * batch_size
    return list(share[: full or None].split(batch_size))


def ordered_batches(n: int, batch_size: int, rank: int = 0, world: int = 1) -> list[Tensor]:
    """The indices of every evaluation batch: in order, none dropped, every world-th index from `rank` on."""
    return list(torch.arange(n)[rank::world].split(batch_size))


def epoch_flips(sizes: Iterable[int], seed: int, epoch: int, rank: int = 0) -> Iterator[Tensor]:
    """For each batch of one rank's epoch, bool (size,): images are mirrored with probability 1/2."""
    # The 1 at the end keeps this stream apart from the permutation's: trailing zeros do not change a seed.
    random = np.random.default_rng((seed, epoch, rank, 1))
    return (torch.from_numpy(random.random(size) < 0.5) for size in sizes)


def mirror(x: Tensor, mask: Tensor) -> Tensor:
    """x (n, C, H, W) with the images where mask (n,) is true flipped left to right."""
    return torch.where(mask.view(-1, 1, 1, 1), x.flip(-1), x)


class Batches:
    """A re-iterable loader: each batch is `(x, y)`, one slice of the tensors in `images`, on their device.

    `order(epoch)` lists the index tensor of every batch; `flips(sizes, epoch=epoch)`, if given, says which
    images of each batch are mirrored. Lightning sets the epoch and, through state_dict, resumes in mid-epoch
    at the next batch.
    """

    def __init__(self, images: Images, order: Order, flips: Flips | None = None) -> None:
        self.images, self.order, self.flips = images, order, flips
        self.epoch = 0
        self.given = 0  # batches of this epoch already handed out
        self.skip = 0  # batches to leave out of the next iteration, after a resume

    batch_sampler = None  # Lightning asks for it beside the sampler

    @property
    def sampler(self) -> "Batches":
        """Itself: Lightning calls set_epoch on a loader's sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.order(0))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        batches = self.order(self.epoch)
        masks = self.flips(map(len, batches), epoch=self.epoch) if self.flips else repeat(None)
        first, self.skip = self.skip, 0
        for i, (index, mask) in enumerate(zip(batches, masks, strict=False)):
            self.given = i + 1
            if i >= first:
                yield self._take(index, mask)

    def _take(self, index: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        x, y = self.images
        index = index.to(x.device, non_blocking=True)
        batch = x[index] if mask is None else mirror(x[index], mask.to(x.device, non_blocking=True))
        return batch, None if y is None else y[index]

    def state_dict(self) -> dict[str, int]:
        """How far into the epoch this loader is; Lightning stores it in the checkpoint."""
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Start the next iteration after the batches that were handed out before the checkpoint."""
        self.skip = state["given"] % len(self)
