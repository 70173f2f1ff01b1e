"""Training images that do not fit in memory, read by worker processes in a seeded order."""

from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from genzoo.data.batches import Flips, mirror
from genzoo.data.splits import Images

Rows = Any  # datasets.IterableDataset: `datasets` is optional, so it is not imported here


class Stream(NamedTuple):
    """A training split that is read while it is used.

    rows: encoded images, a `datasets.IterableDataset`; collate: a list of rows to (x, y), called in a worker;
    head: the first images, in memory; buffer: rows among which the shuffle draws; workers: decoders.
    """

    rows: Rows
    collate: Callable[[Sequence[Any]], tuple[Tensor, Tensor | None]]
    head: Images
    buffer: int
    workers: int

    def batches(
        self, batch_size: int, seed: int, flips: Flips | None = None, rank: int = 0, world: int = 1
    ) -> "StreamBatches":
        """The loader of one rank: a share of the rows, reshuffled every epoch by (seed, epoch)."""
        from datasets.distributed import split_dataset_by_node

        rows = split_dataset_by_node(self.rows.shuffle(seed=seed, buffer_size=self.buffer), rank, world)
        return StreamBatches(self._replace(rows=rows), batch_size, flips)


class StreamBatches:
    """A re-iterable loader of unknown length: batches `(x, y)` of uint8 images, ragged last ones dropped.

    A run resumed in mid-epoch begins that epoch again.
    """

    def __init__(self, stream: Stream, batch_size: int, flips: Flips | None) -> None:
        self.stream, self.batch_size, self.flips = stream, batch_size, flips
        self.epoch = 0

    @property
    def sampler(self) -> "StreamBatches":
        """Itself: Lightning calls set_epoch on a loader's sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        masks = self.flips(repeat(self.batch_size), epoch=self.epoch) if self.flips else repeat(None)
        for (x, y), mask in zip(self._loader(), masks, strict=False):
            yield (x if mask is None else mirror(x, mask)), y

    def _loader(self) -> DataLoader:
        rows = self.stream.rows
        rows.set_epoch(self.epoch)
        return DataLoader(
            rows,
            batch_size=self.batch_size,
            num_workers=min(self.stream.workers, rows.num_shards),  # a worker reads whole files
            collate_fn=self.stream.collate,
            drop_last=True,
            generator=torch.Generator(),  # the loader would draw its workers' seeds from the global one
        )
