"""Checkpoints: written whole, each with its own sha256 inside, the one before kept beside the last."""

import hashlib
import os
import signal
import struct
import time
import warnings
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.plugins import TorchCheckpointIO
from torch import Tensor

from genzoo.budget import budget_of, step_ends
from genzoo.files import megabytes, sync_folder, told, write_whole
from genzoo.generator import Generator
from genzoo.signals import ENDING, Deferred, handled, interrupt

NEXT, LAST, PREVIOUS = "next.ckpt", "last.ckpt", "previous.ckpt"  # `next` only until it has become the last
SEAL = b"sha256 "
SEAL_LENGTH = len(SEAL) + 64


# --- One file. torch.save writes a zip archive, which may end in a comment: there the sha256 of all before it stands,
# so that file and checksum cannot part.


class Sealing:
    """What torch.save writes into: hashes all that passes, and holds back the two bytes that count the comment."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest, self.held = file, hashlib.sha256(), b""
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        ready = self.held + bytes(data)
        ready, self.held = ready[:-2], ready[-2:]
        self.digest.update(ready)
        try:
            self.file.write(ready)
        except OSError as error:  # torch raises another in its place
            self.error = error
            raise
        return len(data)

    def flush(self) -> None:
        self.file.flush()

    def seal(self) -> None:
        """Replace the archive's empty comment by the seal."""
        if self.held != b"\0\0":
            raise ValueError("torch.save has not ended its archive with an empty comment")
        self.held = struct.pack("<H", SEAL_LENGTH)
        self.digest.update(self.held)
        self.file.write(self.held + SEAL + self.digest.hexdigest().encode())


def write_sealed(checkpoint: dict[str, Any], file: BinaryIO) -> None:
    sealing = Sealing(file)
    try:
        torch.save(checkpoint, sealing)
    except (OSError, RuntimeError):
        if sealing.error is not None:
            raise sealing.error from None
        raise
    sealing.seal()


def is_whole(path: Path) -> bool:
    """Whether the file is there, to its end and unchanged."""
    try:
        with open(path, "rb") as file:
            end = os.fstat(file.fileno()).st_size - SEAL_LENGTH
            digest = hashlib.sha256()
            while block := file.read(min(2**20, max(0, end - file.tell()))):
                digest.update(block)
            return file.read() == SEAL + digest.hexdigest().encode()
    except OSError:
        return False


def read(path: Path, map_location: Any = None) -> dict[str, Any]:
    """The contents of a checkpoint: tensors and plain containers, nothing else.

    Raises ValueError when it is damaged or was not written here, before any of it is unpickled.
    """
    if not is_whole(path):
        raise ValueError(
            f"{path} is damaged or no checkpoint of genzoo: its sha256 is not the one that it was sealed with; "
            "delete it, and repeat the run's command to train from the checkpoint before it"
        )
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # the unpickler and the zip reader raise many kinds
        raise ValueError(f"{path} holds more than tensors and plain containers and is not loaded") from error


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run's folder of checkpoints, None where it has none; warns of damaged ones.

    Raises ValueError when all that are there are damaged.
    """
    there = [folder / name for name in (NEXT, LAST, PREVIOUS) if (folder / name).is_file()]
    damaged = []
    for path in there:
        if is_whole(path):
            if damaged:
                warnings.warn(f"{damaged[-1]} is damaged: going on from {path.name}, the one before", stacklevel=2)
            return path
        damaged.append(path)
    if damaged:
        raise ValueError(
            f"{' and '.join(map(str, damaged))}: every checkpoint is damaged; delete that folder to train again"
        )
    return None


def nbytes(state: Any) -> int:
    """Bytes of all tensors in nested containers."""
    if isinstance(state, Tensor):
        return state.nbytes
    if isinstance(state, dict):
        state = state.values()
    return sum(map(nbytes, state)) if isinstance(state, Iterable) and not isinstance(state, str | bytes) else 0


class SealedIO(TorchCheckpointIO):
    """How Lightning's Trainer writes and reads its checkpoints here.

    Its own writer passes through TMPDIR: a kill leaves half a file where that is another file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Raises OSError naming the path and the space that is needed; what was there before stays."""
        try:
            write_whole(Path(path), partial(write_sealed, checkpoint))
        except OSError as error:
            needed = megabytes(nbytes(checkpoint))
            raise OSError(f"{error}; a checkpoint takes {needed} MB, and the one before is kept") from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read(Path(path), map_location)


# --- In training.


class LastCheckpoint(Callback):
    """Saves before and after every validation, at the end, every `minutes`, and when a signal asks the run to end.

    Only between two steps of the optimiser, where a run can go on as if it had never stopped. List it after all that
    keeps something in checkpoints.
    share: of the time, the most that saves by the clock may take.
    """

    def __init__(self, folder: str | Path, minutes: float = 10.0, share: float = 0.01) -> None:
        self.folder, self.minutes, self.share = Path(folder), minutes, share
        self.signals = Deferred(interrupt)
        self.requeue = Deferred(lambda signum, frame: None)
        self.handling = ExitStack()
        self.between = False  # steps of the optimiser
        self.whole = False  # the last checkpoint: a damaged one must not take the place of the one before
        self.saved, self.took = time.monotonic(), 0.0

    def on_train_start(self, trainer: Trainer, model: Generator) -> None:
        self.whole = is_whole(self.folder / LAST)
        self.saved = time.monotonic()
        self.handling.enter_context(handled(self.handlers()))
        if budget_of(trainer).due:  # the run was stopped before the validation that its checkpoint owes
            validate(trainer)

    def handlers(self) -> dict[int, Deferred]:
        """Of the signals that end a run, and of the one by which SLURM announces the end of its time, which Lightning
        answers by putting the job back into the queue."""
        handlers = dict.fromkeys(ENDING, self.signals)
        if callable(requeue := signal.getsignal(signal.SIGUSR1)):
            self.requeue = Deferred(requeue)
            handlers[signal.SIGUSR1] = self.requeue
        return handlers

    def on_train_batch_start(self, trainer: Trainer, model: Generator, batch: Any, batch_idx: int) -> None:
        self.signals.safe = self.requeue.safe = self.between = False

    def on_train_batch_end(self, trainer: Trainer, model: Generator, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.between = step_ends(trainer, batch_idx)
        if self.between and (self.asked(trainer) or budget_of(trainer).due):
            self.save(trainer)

    def asked(self, trainer: Trainer) -> bool:
        """Whether a signal or the clock asks for a checkpoint now, for one rank of several."""
        late = time.monotonic() - self.saved > max(60 * self.minutes, self.took / self.share)
        if trainer.world_size == 1:
            return late or bool(self.signals.received or self.requeue.received)
        asked = [late, self.signals.received, self.requeue.received]
        agreed = torch.tensor(asked, dtype=torch.int32, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MAX)
        late, self.signals.received, self.requeue.received = agreed.tolist()
        return any(agreed.tolist())

    def on_validation_end(self, trainer: Trainer, model: Generator) -> None:
        self.save(trainer)

    def on_train_end(self, trainer: Trainer, model: Generator) -> None:
        if not self.signals.safe:  # else nothing is new since the last validation
            self.save(trainer)
        self.handling.close()

    def on_exception(self, trainer: Trainer, model: Generator, exception: BaseException) -> None:
        """A fault between two steps, such as the death of a process that reads data, costs nothing."""
        self.handling.close()
        if self.between and not self.signals.safe and trainer.world_size == 1:
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write the checkpoint, then do what a signal has asked for meanwhile."""
        started = time.monotonic()
        trainer.save_checkpoint(self.folder / NEXT)
        if trainer.is_global_zero:
            self.rotate()
        self.saved = time.monotonic()
        self.took = self.saved - started
        self.signals.safe = self.requeue.safe = True
        self.requeue.obey()
        self.signals.obey()

    def rotate(self) -> None:
        """Next becomes last, and last becomes previous; at every moment the newest is under one of these names."""
        last = self.folder / LAST
        with told(last):
            if self.whole:
                os.replace(last, self.folder / PREVIOUS)
            os.replace(self.folder / NEXT, last)
            sync_folder(self.folder)
        self.whole = True


def validate(trainer: Trainer) -> None:
    """One validation now, as Lightning runs it after a batch."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop.restarting = False
    trainer.validating = True
    loop.run()
    trainer.training = True
