"""What the framework costs: a run's training, with averages, checks, curves and progress bar, against a bare loop."""

import contextlib
import io
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from experiments.benchmarks.race import Race, Seconds
from genzoo import run, runs
from genzoo.budget import Budget
from genzoo.command import conf_folder, hush, plain
from genzoo.data.splits import Images, Splits

STEPS, BATCH = 40, 64


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


def ours(size: int, steps: int = STEPS) -> Seconds:
    """Seconds of training that the run itself counts; its one validation and its checkpoints are no training."""
    hush()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        given = settings(folder, size, steps)
        torch.manual_seed(0)
        model = runs.build(given)
        trainer = run.make_trainer(given, Path(folder), model)
        trainer.fit(model, instantiate(given["data"], _convert_="all"))
        return Seconds(run.find(trainer, Budget).seconds)


def bare(size: int, steps: int = STEPS) -> Seconds:
    """Seconds of the same steps of the same model: loss, gradients, their norm limited, optimiser."""
    torch.manual_seed(0)
    given = settings("unused", size, steps)
    model, data = runs.build(given), instantiate(given["data"], _convert_="all")
    batches = [data.on_after_batch_transfer(batch, 0) for batch in data.epoch()]
    optimizer = model.configure_optimizers()
    start = time.perf_counter()
    for x, y in islice(cycle(batches), steps):
        optimizer.zero_grad()
        model.loss(x, y)["loss"].backward()
        model.clip_gradients_of(optimizer)
        optimizer.step()
    return Seconds(time.perf_counter() - start)


def races() -> Iterator[Race]:
    for size, steps in ((8, STEPS), (32, STEPS // 8)):
        yield Race(
            f"DDPM training loop, 1x{size}x{size}", "bare loop", partial(ours, size, steps), partial(bare, size, steps)
        )
