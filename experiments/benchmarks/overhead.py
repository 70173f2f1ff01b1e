"""What the framework costs: a run's training, with averages, checks, curves and progress bar, against a bare loop.

The two take turns within the run, a few steps each: what the machine does to one it does to the other. Validation and
checkpoints come behind the last turn and are not timed."""

import contextlib
import io
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from pytorch_lightning import Callback, Trainer

from experiments.benchmarks.race import Joint, Result
from genzoo import run, runs
from genzoo.command import conf_folder, hush, plain
from genzoo.data.splits import Images, Splits
from genzoo.generator import Generator

BATCH = 64
TURNS = 8  # of each side a repeat
LOGGED = 31  # steps between two points of the curves, as in a run of data=digits: 400,000 images, 200 points


def noise(size: int, n: int = 1024) -> Splits:
    """n images (1, size, size) of noise: what is learnt does not matter here."""
    x = torch.randint(0, 256, (n, 1, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Splits(Images(x), Images(x[:64]), Images(x[:64]))


def settings(folder: str, size: int, steps: int, *more: str, batch: int = BATCH, n: int = 1024) -> dict[str, Any]:
    """Of a DDPM on n such images, with what every run has around its training; more: overrides."""
    data = {"source": {"_target_": f"{__name__}.noise", "_partial_": True}, "name": "noise", "size": size, "n": n}
    overrides = [
        f"folder='{folder}'", "model=ddpm", "metrics=none", f"data.image_shape=[1,{size},{size}]",
        f"data.batch_size={batch}", f"budget.images={batch * steps}", "budget.checks=1",
        "callbacks.judge.n=1", "steps=1", *more,
    ]  # fmt: skip
    with initialize_config_dir(config_dir=conf_folder(), version_base="1.3"):
        composed = plain(compose("config", overrides=overrides))
    return {**composed, "data": {**composed["data"], **data}}


class Turns(Callback):
    """After every k steps of the run, k of `step`, and the seconds of both; the first turn of each warms up."""

    def __init__(self, step: Callable[[], None], k: int) -> None:
        self.step, self.k = step, k
        self.ours: list[float] = []
        self.theirs: list[float] = []

    def on_train_start(self, trainer: Trainer, model: Generator) -> None:
        self.since = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, model: Generator, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % self.k == 0:
            start = time.perf_counter()
            for _ in range(self.k):
                self.step()
            end = time.perf_counter()
            self.ours.append(start - self.since)
            self.theirs.append(end - start)
            self.since = time.perf_counter()


def turns(size: int, k: int, repeats: int) -> Result:
    """The seconds of TURNS turns of k steps each, `repeats` times, of a run and of `bare`."""
    hush()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        steps = k * (1 + TURNS * repeats)
        given = settings(folder, size, steps, f"+callbacks.curves.points={math.ceil(steps / LOGGED)}")
        torch.manual_seed(0)
        model, both = runs.build(given), Turns(bare(size), k)
        trainer = run.make_trainer(given, Path(folder), model)
        trainer.callbacks.append(both)  # the last: all that happens after a step is the run's
        trainer.fit(model, instantiate(given["data"], _convert_="all"))
    return Result(*map(repeated, (both.ours, both.theirs)), difference=float("nan"))


def repeated(seconds: list[float]) -> list[float]:
    """Sums of TURNS turns, but for the first, which warms up."""
    return [sum(seconds[i : i + TURNS]) for i in range(1, len(seconds), TURNS)]


def bare(size: int) -> Callable[[], None]:
    """A step of the same model: loss, gradients, their norm limited, optimiser."""
    given = settings("unused", size, 1)
    model, data = runs.build(given), instantiate(given["data"], _convert_="all")
    batches = cycle([data.on_after_batch_transfer(batch, 0) for batch in data.epoch()])
    optimizer = model.configure_optimizers()

    def step() -> None:
        x, y = next(batches)
        optimizer.zero_grad()
        model.loss(x, y)["loss"].backward()
        model.clip_gradients_of(optimizer)
        optimizer.step()

    return step


def races(steps: tuple[int, ...] = (5, 1), sizes: tuple[int, ...] = (8, 32)) -> Iterator[Joint]:
    for size, k in zip(sizes, steps, strict=True):
        yield Joint(f"{TURNS * k} steps of a DDPM's loop, 1x{size}x{size}", "bare loop", partial(turns, size, k))
