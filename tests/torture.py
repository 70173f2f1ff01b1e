"""python -m tests.torture --minutes 5: real runs under random kills, corruptions and restarts; nothing may be lost."""

import argparse
import csv
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import cycle
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from genzoo import checkpoints, run, runs
from genzoo.checkpoints import LAST, PREVIOUS
from genzoo.command import hush
from genzoo.metrics import cost
from genzoo.signals import Interrupted

TINY = ["width=4", "blocks=1", "latent=2", "data.batch_size=64", "data.flip=true", "budget.checks=2", "trainer=cpu",
        "metrics.n=8", "metrics.n_likelihood=4", "callbacks.judge.n=4"]  # fmt: skip
FAMILIES = {
    "vae": ["model=vae", "model.warmup=1000", "model.mixture=2"],
    "gan": ["model=gan"],
    "flow": ["model=flow", "model.steps=2"],
    "ddpm": ["model=ddpm", "steps=2", "model.bound_terms=2", "model.inversion=2"],
    "told": ["model=ddpm", "condition=classes", "steps=2", "model.bound_terms=2", "model.inversion=2"],
    "codes": ["model=autoencoder_vq", "factor=2"],
}
OFTEN = ["callbacks.last_checkpoint.minutes=0", "callbacks.last_checkpoint.share=1"]  # saves after every step


# --- What must be the same as if nothing had happened.


def same(a: Any, b: Any, path: str = "checkpoint") -> None:
    """Every tensor, number and word of two checkpoints, but for the clock and the lengths of files."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a.keys() - {"seconds", "curves"}:
            same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for i, pair in enumerate(zip(a, b)):
            same(*pair, f"{path}[{i}]")
    else:
        assert a == b, path


def curves(folder: Path) -> list[list[str]]:
    with open(folder / "curves.csv") as file:
        return [[row[0], *row[2:]] for row in csv.reader(file)]


def alike(a: Path, b: Path) -> None:
    """Weights, optimisers, averages, the place in the data; curves; scores and samples."""
    one, other = (checkpoints.read(folder / "checkpoints" / LAST) for folder in (a, b))
    for checkpoint in (one, other):
        for count in ("loops", "epoch"):  # Lightning's own, some of which begin anew
            checkpoint.pop(count)
    same(one, other)
    assert curves(a) == curves(b)
    one, other = (json.loads((folder / runs.METRICS).read_text()) for folder in (a, b))
    assert one["scores"] == other["scores"] and one["likelihoods"] == other["likelihoods"]
    assert (a / "samples.png").read_bytes() == (b / "samples.png").read_bytes()


# --- A life: one process that trains in a folder until it ends or something ends it.


def live(settings: dict[str, Any], folder: Path, fault: Callable[[], None] | None) -> None:
    """What the process does; its exit code is that of the command."""
    torch.set_num_threads(1)
    cost.BATCHES, cost.ENOUGH = (1,), 0.0
    log = os.open(folder.with_suffix(".log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(log, 1), os.dup2(log, 2)
    hush()
    if fault:
        fault()
    try:
        run.finish(settings, folder, [])
    except Interrupted:
        raise
    except Exception as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(2)


def born(settings: dict[str, Any], folder: Path, fault: Callable[[], None] | None = None) -> BaseProcess:
    """A life that has begun; it is forked from a process that has all the imports behind it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["genzoo.run"])
    process = context.Process(target=live, args=(settings, folder, fault))
    process.start()
    return process


def ended(process: BaseProcess, seconds: float = 300) -> int:
    """The exit code. Raises TimeoutError for a process that hangs."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError("a run hangs")
    return process.exitcode


class DieWriting:
    """kill -9 after so many bytes of a checkpoint are written."""

    def __init__(self, size: int) -> None:
        self.left = size

    def __call__(self) -> None:
        write = checkpoints.Sealing.write

        def dying(sealing: checkpoints.Sealing, data: bytes) -> int:
            self.left -= len(bytes(data))
            if self.left < 0:
                sealing.file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            return write(sealing, data)

        checkpoints.Sealing.write = dying


class Full:
    """No file may become larger than this: the system refuses what goes beyond, as a full disk does."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.size))


# --- Faults: (settings, folder, random) -> whether it was survived; None where it could not be injected just now.


def kill(settings: dict[str, Any], folder: Path, pick: random.Random) -> bool:
    process = born(settings, folder)
    process.join(pick.uniform(0, 3))
    process.kill()
    return ended(process) in (-signal.SIGKILL, 0) and resumable(folder)


def kill_in_a_write(settings: dict[str, Any], folder: Path, pick: random.Random) -> bool:
    return ended(born(settings, folder, DieWriting(pick.randrange(1_500_000)))) in (-signal.SIGKILL, 0) and resumable(
        folder
    )


def end(signum: int) -> Callable[..., bool]:
    def fault(settings: dict[str, Any], folder: Path, pick: random.Random) -> bool:
        process = born(settings, folder)
        process.join(pick.uniform(0.5, 3))  # before that the process knows no signals
        before = images(folder)
        if process.is_alive():
            os.kill(process.pid, signum)
        return ended(process, 60) in (128 + signum, 0) and images(folder) >= before

    return fault


def spoil(change: Callable[[bytes, random.Random], bytes]) -> Callable[..., bool | None]:
    def fault(settings: dict[str, Any], folder: Path, pick: random.Random) -> bool | None:
        last, previous = folder / "checkpoints" / LAST, folder / "checkpoints" / PREVIOUS
        if runs.finished(folder) or not (checkpoints.is_whole(last) and checkpoints.is_whole(previous)):
            return None
        last.write_bytes(change(last.read_bytes(), pick))
        return resumable(folder) and newest(folder) == previous

    return fault


def flipped(content: bytes, pick: random.Random) -> bytes:
    i = pick.randrange(len(content))
    return content[:i] + bytes([content[i] ^ 1 << pick.randrange(8)]) + content[i + 1 :]


def full_disk(settings: dict[str, Any], folder: Path, pick: random.Random) -> bool:
    code = ended(born(settings, folder, Full(pick.randrange(2000, 40_000))))
    return code == 0 or (
        code == 2 and "cannot be written" in folder.with_suffix(".log").read_text() and resumable(folder)
    )


def second_process(settings: dict[str, Any], folder: Path, pick: random.Random) -> bool:
    first = born(settings, folder)
    first.join(pick.uniform(0.2, 1))
    second = born(settings, folder)
    refused = ended(second)
    first.terminate()
    codes = refused, ended(first)
    return codes in ((2, 143), (2, 0), (0, 0))  # refused, or come when the first had ended


def leftovers(settings: dict[str, Any], folder: Path, pick: random.Random) -> bool:
    """Half files of a process that died, and half a record."""
    folder.mkdir(exist_ok=True)
    for name in ("metrics.json.123.part", "samples.npz.123.part"):
        (folder / name).write_bytes(b"half")
    (folder / runs.METRICS).write_text('{"scores": {"FD')
    return True


FAULTS: dict[str, Callable[..., bool | None]] = {
    "kill -9 at any moment": kill,
    "kill -9 in the middle of writing a checkpoint": kill_in_a_write,
    "SIGTERM": end(signal.SIGTERM),
    "SIGINT": end(signal.SIGINT),
    "last checkpoint cut off": spoil(lambda content, pick: content[: pick.randrange(1, len(content))]),
    "one bit of the last checkpoint flipped": spoil(flipped),
    "last checkpoint empty": spoil(lambda content, pick: b""),
    "no room for a file": full_disk,
    "a second process in the folder": second_process,
    "half files left behind": leftovers,
}


def resumable(folder: Path) -> bool:
    """Whether the newest checkpoint, where there is one, is whole."""
    path = newest(folder)
    return path is None or bool(checkpoints.read(path))


def images(folder: Path) -> int:
    """Images seen at the newest checkpoint."""
    path = newest(folder)
    return 0 if path is None else checkpoints.read(path)["images_seen"]


def newest(folder: Path) -> Path | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return checkpoints.newest(folder / "checkpoints")


# --- The torture.


def suffer(
    settings: Callable[..., dict[str, Any]], family: str, folder: Path, faults: Sequence[str], seed: int
) -> Counter[tuple[str, bool]]:
    """A run under these faults, one a life, then left alone to its end and compared with one that had none."""
    pick, counts = random.Random(seed), Counter()
    given = settings(folder, family)
    for name in faults:
        survived = FAULTS[name](given, folder, pick)
        if survived is not None:
            counts[name, survived] += 1
    whole = folder.parent / f"{family}-whole"
    for place in (folder, whole):
        if ended(born(settings(place, family), place)):
            raise AssertionError(f"{place}: {place.with_suffix('.log').read_text()[-500:]}")
    alike(whole, folder)
    assert not list(folder.rglob("*.part")) and not (folder / "failed.txt").exists()
    return counts


def composed(folder: Path, family: str) -> dict[str, Any]:
    """The settings of a run in `folder`."""
    from hydra import compose, initialize_config_dir

    from genzoo.command import conf_folder, plain

    overrides = [f"folder='{folder}'", *FAMILIES[family], *TINY, *OFTEN, "budget.images=6400"]
    with initialize_config_dir(config_dir=conf_folder(), version_base="1.3"):
        return plain(compose("config", overrides=overrides))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    counts: Counter[tuple[str, bool]] = Counter()
    lost, pick, started = [], random.Random(asked.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        for i, family in enumerate(cycle(FAMILIES)):
            if time.monotonic() - started > 60 * asked.minutes:
                break
            faults = pick.choices(list(FAULTS), k=8)
            try:
                counts += suffer(composed, family, Path(place) / f"{family}-{i}", faults, seed=asked.seed + i)
            except (AssertionError, TimeoutError, ValueError) as error:
                lost.append(f"{family}, seed {asked.seed + i}, {faults}: {error}")
            print(f"{i + 1} runs, {sum(counts.values())} faults, {len(lost)} lost", file=sys.stderr)
    print(table(counts, len(lost), i))
    print(*lost, sep="\n")
    return bool(lost) or any(not survived for _, survived in counts)


def table(counts: Counter[tuple[str, bool]], lost: int, total: int) -> str:
    lines = ["| Fault | Injected | Survived |", "| --- | ---: | ---: |"]
    for name in FAULTS:
        lines.append(f"| {name} | {counts[name, True] + counts[name, False]} | {counts[name, True]} |")
    lines.append(f"| runs, each compared bit for bit with one that had no fault | {total} | {total - lost} |")
    return "\n".join([*lines, f"\nlost: {lost}"])


if __name__ == "__main__":
    sys.exit(main())
