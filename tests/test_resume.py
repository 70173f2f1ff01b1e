"""A run that real signals stop, wherever that is, ends as one that was never stopped: bit for bit."""

import os
import random
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
from pytorch_lightning import Callback, Trainer

from genzoo import run, runs
from genzoo.signals import Interrupted

from .conftest import composed
from .torture import FAMILIES, TINY, alike

FAMILIES = {
    **FAMILIES,
    "vae in windows of three batches": ["model=vae", "trainer.accumulate_grad_batches=3"],
    "latent": ["model=latent", "condition=classes", "steps=2"],
    "told maps": ["model=latent", "condition=inpaint", "steps=2"],
    "prior": ["model=code_prior", "condition=classes"],
    "critic": ["model=autoencoder_vq", "+adversary@model.adversary=patch", "model.adversary.start=700"],
    "consistency": ["model=consistency", "model.first=2", "model.last=16"],  # whose loss follows the budget
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


def trained(folder: Path, overrides: list[str], stops: Sequence[tuple] = ()) -> Path:
    """A run in `folder`, stopped and repeated after each of `stops`, and then to its end."""
    settings = composed(f"folder='{folder}'", *overrides, *TINY)
    for stop in stops:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run, "make_trainer", partial(stopping, run.make_trainer, Stop(*stop)))
            with pytest.raises(Interrupted) as end:
                run.finish(settings, folder, [])
        assert end.value.code == 128 + stop[0]
        assert not (folder / runs.METRICS).exists()
    run.finish(settings, folder, [])
    return folder


def stopping(make_trainer: Callable, stop: Stop, *arguments) -> Trainer:
    trainer = make_trainer(*arguments)
    trainer.callbacks.insert(0, stop)
    return trainer


# test_finetune stops a ddpm, too, and the windows are a VAE's
SLOW = {"ddpm", "told", "codes", "vae", "flow", "latent", "told maps", "prior", "consistency", "critic"}
CASES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in FAMILIES]


@pytest.mark.parametrize("family", CASES)
def test_stops_change_nothing(family: str, tmp_path: Path) -> None:
    overrides = [*FAMILIES[family], "budget.images=2048"]
    hooks = ["on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end"]
    pick = random.Random(family)
    at = sorted(pick.sample(range(64, 1984, 64), 3))
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
