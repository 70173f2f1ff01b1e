"""A run that real signals stop, wherever that is, ends as one that was never stopped: bit for bit."""

import csv
import json
import os
import random
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback

from genzoo import run, runs
from genzoo.checkpoints import LAST, read
from genzoo.signals import Interrupted

from .conftest import composed

TINY = ["width=4", "blocks=1", "latent=2", "data.batch_size=64", "budget.checks=3", "metrics.n=8", "callbacks.judge.n=4",
        "trainer=cpu", "metrics.n_likelihood=4", "data.flip=true"]  # fmt: skip
FAMILIES = {
    "vae": ["model=vae", "model.warmup=1000"],
    "vae in windows of three batches": ["model=vae", "trainer.accumulate_grad_batches=3"],
    "gan": ["model=gan"],
    "flow": ["model=flow"],
    "ddpm": ["model=ddpm", "steps=2", "model.bound_terms=2"],
}


class Stop(Callback):
    """Sends this process a signal at the n-th call of a hook from the moment on at which `after` images are seen."""

    def __init__(self, signum: int, hook: str, after: int, n: int = 1) -> None:
        self.left = n

        def send(trainer, model, *_) -> None:
            self.left -= self.left > 0 and model.images_seen >= after
            if self.left == 0:
                self.left = -1
                os.kill(os.getpid(), signum)

        setattr(self, hook, send)


def trained(folder: Path, overrides: list[str], stops: Sequence[tuple[int, str, int]] = ()) -> Path:
    """A run in `folder`, stopped and repeated after each of `stops`, and then to its end."""
    settings = composed(f"folder='{folder}'", *overrides, *TINY)
    make_trainer = run.make_trainer
    for stop in [*stops, None]:
        with pytest.MonkeyPatch.context() as patch:

            def stopping(*arguments):
                trainer = make_trainer(*arguments)
                trainer.callbacks[:0] = [Stop(*stop)] if stop else []
                return trainer

            patch.setattr(run, "make_trainer", stopping)
            try:
                run.finish(settings, folder, [])
                assert stop is None, f"{stop} did not stop the run"
            except Interrupted as end:
                assert end.code == 128 + stop[0]
                assert not (folder / runs.METRICS).exists()
    return folder


def same(a, b, path: str = "") -> None:
    """Every tensor, number and word of two checkpoints, but for the clock."""
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
    one, other = (read(folder / "checkpoints" / LAST) for folder in (a, b))
    for checkpoint in (one, other):
        checkpoint.pop("loops")  # Lightning's own counts, some of which it begins anew
    same(one, other)
    assert curves(a) == curves(b)
    one, other = (json.loads((folder / runs.METRICS).read_text()) for folder in (a, b))
    assert one["scores"] == other["scores"] and one["likelihoods"] == other["likelihoods"]
    assert (a / "samples.png").read_bytes() == (b / "samples.png").read_bytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_ten_stops_change_nothing(family: str, tmp_path: Path) -> None:
    overrides = [*FAMILIES[family], "budget.images=2048"]
    hooks = ["on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end"]
    pick = random.Random(family)
    at = sorted(pick.sample(range(64, 1984, 64), 7))
    stops = [(pick.choice([signal.SIGTERM, signal.SIGINT]), pick.choice(hooks), n) for n in at]
    # 20 batches an epoch: its last batch and the next one's first; and a validation, half-way through
    stops += [(signal.SIGTERM, "on_train_batch_start", 1216), (signal.SIGTERM, "on_train_batch_start", 1280)]
    stops += [(signal.SIGTERM, "on_validation_batch_start", 640)]
    if family == "gan":
        stops += [(signal.SIGTERM, "on_before_optimizer_step", 1600, 2)]  # the critic has moved, the generator not
    stops.sort(key=lambda stop: stop[2])
    if "windows" in family:  # each stop waits for its window's end
        stops = stops[::2]
    alike(trained(tmp_path / "whole", overrides), trained(tmp_path / "stopped", overrides, stops))
