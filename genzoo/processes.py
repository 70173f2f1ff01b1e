"""One training in several processes: how they are started, and what they must not do at once."""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.utilities import rank_zero_only
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, start_processes

from genzoo.command import hush, sentence
from genzoo.signals import ENDING, Interrupted, handled, interrupt

GRACE = 3.0  # seconds that a process has to end by itself, and again after a signal, once another has failed


def beside_rank_zero(settings: dict[str, Any]) -> bool:
    """Whether torchrun or srun started this process for a training of which another process is rank 0.

    settings: of the trainer.
    """
    several = settings["devices"] != 1 or settings.get("num_nodes", 1) != 1
    return several and rank_zero_only.rank > 0


def to_start(trainer: Trainer) -> int:
    """The processes that this trainer wants started here; 1 where torchrun or srun has started them.

    Raises ValueError for several machines without such a launcher.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if environment is None or environment.creates_processes_externally:
        return 1
    if trainer.num_nodes > 1:
        raise ValueError(
            f"trainer.num_nodes={trainer.num_nodes}: start the command with torchrun or srun, once a device"
        )
    return trainer.num_devices


def launch(n: int, work: Callable[..., Any], *arguments: Any) -> None:
    """work(*arguments) in n new processes at once, which Lightning's Trainer finds to be its ranks 0, ..., n - 1.

    They run no command line, so a sweep can do this for each of its runs. A signal to end is passed on to them.
    Raises ChildProcessError with the error of the first that fails, after ending the others, and Interrupted after a
    signal.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch calls looking for unused parameters a mistake
    port = LightningEnvironment().main_port
    started = start_processes(as_rank, (port, work, arguments), n, join=False, start_method="spawn")
    received: list[int] = []

    def pass_on(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        for process in started.processes:
            process.terminate()

    try:
        with handled(dict.fromkeys(ENDING, pass_on)):
            while not started.join(grace_period=GRACE):
                pass
    except ProcessRaisedException as error:
        said = str(error).rpartition(f"{ChildProcessError.__name__}: ")[2].strip()
        raise ChildProcessError(f"rank {error.error_index} of {n}: {said}") from error
    except ProcessExitedException as error:
        if received:
            raise Interrupted(received[0]) from error
        raise ChildProcessError(f"{error}, of {n} processes") from error
    finally:
        for process in started.processes:
            process.kill()  # those that Ctrl-C left


def as_rank(rank: int, port: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """work(*arguments) in a process of its own; only rank 0 speaks. Raises ChildProcessError with what went wrong."""
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    threading.Thread(target=end_with_parent, daemon=True).start()
    rank_zero_only.rank = rank
    hush()
    if rank:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (for as long as the process lives)
    try:
        with handled(dict.fromkeys(ENDING, interrupt)):
            work(*arguments)
    except Exception as error:
        raise ChildProcessError(sentence(error)) from error


def end_with_parent() -> None:
    """Wait for the parent's end, however it comes, and end this process: it holds the run folder for its ranks."""
    multiprocessing.parent_process().join()
    os._exit(1)


@contextmanager
def rank_zero_first(trainer: Trainer) -> Iterator[None]:
    """Rank 0 runs the block while the others wait; they then find what it has downloaded and kept."""
    trainer.strategy.setup_environment()  # connects the processes; the fit that follows finds them so
    if trainer.global_rank:
        trainer.strategy.barrier()
    yield
    if not trainer.global_rank:
        trainer.strategy.barrier()


def share_buffers(trainer: Trainer, model: LightningModule) -> None:
    """Rank 0's buffers for every rank: gradients keep parameters equal, but batch norm's statistics are each one's."""
    if trainer.world_size > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)
