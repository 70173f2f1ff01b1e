"""Training images that do not fit in memory, read by worker processes in a seeded order."""

import logging
import multiprocessing.connection
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, islice, repeat
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from genzoo.data.batches import Flips, mirror
from genzoo.data.pixels import Unreadable
from genzoo.data.splits import Images

Rows = Any  # datasets.IterableDataset: `datasets` is optional, so it is not imported here
log = logging.getLogger("genzoo")


class Batch(NamedTuple):
    """x: uint8 (n, C, H, W); y: (n,) class ids or None; bad: what is wrong with each image that was left out."""

    x: Tensor
    y: Tensor | None
    bad: list[str]


class Failure(NamedTuple):
    """What a worker has to say instead of a batch."""

    sentence: str


class Stream(NamedTuple):
    """A training split that is read while it is used.

    rows: encoded images, a `datasets.IterableDataset`; decoded: of a list of rows, called in a worker; head: the
    first images, in memory; buffer: rows among which the shuffle draws; workers: decoders; skips: `decoded` leaves
    unreadable images out; name: of the folder or data set, for errors; told: what the log has said, a set to fill.
    """

    rows: Rows
    decoded: Callable[[Sequence[Any]], Batch]
    head: Images
    buffer: int
    workers: int
    skips: bool
    name: str
    told: set[str]

    def epoch(
        self,
        batch_size: int,
        seed: int,
        epoch: int,
        skip: int = 0,
        flips: Flips | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """One rank's full batches of an epoch from batch `skip` on: uint8 x (batch_size, C, H, W), and y.

        Their order follows from (seed, epoch) and the number of workers; skipped batches are read, and decoded only
        where unreadable images decide what is in the next. Raises ValueError for an image or a file that cannot be
        read, ChildProcessError for a worker that has died.
        """
        from datasets.distributed import split_dataset_by_node

        rows = split_dataset_by_node(self.rows.shuffle(seed=seed, buffer_size=self.buffer), rank, world)
        rows.set_epoch(epoch)
        workers = min(self.workers, rows.num_shards)  # a worker reads whole files
        read = Read(rows, self.decoded, batch_size, 0 if self.skips else skip, self.name)
        masks = flips(repeat(batch_size), epoch=epoch) if flips else repeat(None)
        for (x, y), mask in islice(zip(self.listed(delivered(read, workers)), masks, strict=False), skip, None):
            yield (x if mask is None else mirror(x, mask)), y

    def listed(self, batches: Iterator[Batch]) -> Iterator[tuple[Tensor, Tensor | None]]:
        """x and y of each batch, while the log says once which images were left out."""
        for x, y, bad in batches:
            for said in bad:
                if said not in self.told:
                    log.warning("data.on_bad=skip: %s", said)
            self.told.update(bad)
            yield x, y


class Read(IterableDataset):
    """Full batches of one worker's share of the rows; those before `skip` are empty, as they are not decoded.

    An error that an image or a file explains comes as a `Failure`: one raised would arrive with its traceback.
    """

    def __init__(
        self, rows: Rows, decoded: Callable[[Sequence[Any]], Batch], batch_size: int, skip: int, name: str
    ) -> None:
        self.rows, self.decoded, self.batch_size, self.skip, self.name = rows, decoded, batch_size, skip, name

    def __iter__(self) -> Iterator[Batch | Failure]:
        try:
            yield from self.batches()
        except Unreadable as error:
            yield Failure(str(error))
        except (OSError, ValueError) as error:
            yield Failure(damage(self.name, error))

    def batches(self) -> Iterator[Batch]:
        """Worker w of W gives the batches w, w + W, ... of all, and later ones come sooner when others have ended."""
        info = get_worker_info()
        first, step = (info.id, info.num_workers) if info else (0, 1)
        rows = iter(self.rows)
        for number in count(first, step):
            batch = self.passed(rows) if number < self.skip else self.full(rows)
            if batch is None:
                return
            yield batch

    def passed(self, rows: Iterator[Any]) -> Batch | None:
        """Pass over the rows of a batch; None at the end."""
        n = sum(1 for _ in islice(rows, self.batch_size))
        return Batch(torch.empty(0), None, []) if n == self.batch_size else None

    def full(self, rows: Iterator[Any]) -> Batch | None:
        """The next batch_size readable images; None at the end."""
        batch = None
        while taken := list(islice(rows, self.batch_size - (len(batch.x) if batch else 0))):
            more = self.decoded(taken)
            batch = joined(batch, more) if batch else more
        return batch if batch and len(batch.x) == self.batch_size else None


def damage(name: str, error: Exception) -> str:
    """What to say of rows that cannot be read from the folder or data set `name`: which file, if its end is damaged."""
    from pyarrow import parquet

    for file in sorted(Path(name).expanduser().rglob("*.parquet")):
        try:
            parquet.read_metadata(file)
        except (OSError, ValueError):
            return f"{file} is no readable parquet file: fetch it again and repeat the command."
    return f"The rows of {name} cannot be read ({error}): fetch its files again and repeat the command."


def joined(a: Batch, b: Batch) -> Batch:
    hidden = a.y is None or b.y is None
    return Batch(torch.cat([a.x, b.x]), None if hidden else torch.cat([a.y, b.y]), a.bad + b.bad)


def delivered(dataset: Read, workers: int) -> Iterator[Batch]:
    """The batches of all workers in turn. Raises ValueError and ChildProcessError as `Stream.epoch` says."""
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        generator=torch.Generator(),  # the loader would draw its workers' seeds from the global one
        worker_init_fn=leave_signals,
    )
    others = set(multiprocessing.active_children())
    with quiet_children():
        batches = iter(loader)
    processes = [child for child in multiprocessing.active_children() if child not in others]
    try:
        while (batch := following(batches, processes)) is not None:
            if isinstance(batch, Failure):
                raise ValueError(batch.sentence)
            yield batch
    finally:  # at once, while a traceback may hold on to the loader
        for process in processes:
            process.kill()
            process.join()


def following(batches: Iterator[Batch | Failure], processes: Sequence[Any]) -> Batch | Failure | None:
    """The next batch, None at the end; raises ChildProcessError if a worker has died."""
    try:
        return next(batches, None)
    except (RuntimeError, OSError, EOFError) as error:  # the latter two when it died while it handed a batch over
        ended = multiprocessing.connection.wait([process.sentinel for process in processes], timeout=5)
        dead = [process for process in processes if process.sentinel in ended]
        if not dead:
            raise
        dead[0].join()  # its files close a moment before it has an exit code
        raise ChildProcessError(
            f"A data worker (pid {dead[0].pid}) {end_of(dead[0].exitcode)}: lower data.workers={len(processes)} or "
            "free some memory, and repeat the command, which goes on from the last checkpoint."
        ) from error


def end_of(exitcode: int) -> str:
    """How a process ended, in words."""
    if exitcode >= 0:
        return f"ended with exit code {exitcode}"
    name = signal.Signals(-exitcode).name
    return f"was killed by {name}" + (", as systems do when memory runs out" if name == "SIGKILL" else "")


@contextmanager
def quiet_children() -> Iterator[None]:
    """Undo the loader's handler of SIGCHLD, which raises wherever the main thread is, be it within a step of training.

    The loader looks after its workers as well while it waits for one, every five seconds.
    """
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


def leave_signals(worker: int) -> None:
    """Let Ctrl-C, which a terminal sends to every process, be the main process's affair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
