"""A run's whole training loop beside lucidrains' Trainer: data, averages and progress bar on both sides."""

import contextlib
import io
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from PIL import Image
from pytorch_lightning import Callback, Trainer

from experiments.benchmarks import overhead, sides
from experiments.benchmarks.race import Absent, Race, Seconds
from genzoo import run, runs
from genzoo.command import hush
from genzoo.generator import Generator
from genzoo.metrics.cost import synchronise

NET = ("+model.net.multipliers=[1,2,2,2]", "+model.net.attention=[16]", "model.net.dropout=0.1", "blocks=2")
PEER = "lucidrains' Trainer and Unet (1.06 of the width, full attention at 16), bf16, images from PNG files"


def races(
    width: int = 128,
    side: int = 32,
    batch: int = 128,
    steps: int = 150,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    n: int = 20_000,
) -> Iterator[Race | Absent]:
    """Timed are `steps` steps, after as many others, within which a network is compiled on a GPU."""
    work = f"{steps} steps of a run's loop, {batch} x 1x{side}x{side}"
    if missing := sides.absent(work, PEER, "denoising_diffusion_pytorch"):
        yield missing
        return
    sizes = width, side, batch, steps, torch.device(device), n
    yield Race(work, PEER, partial(ours, *sizes), partial(lucidrains, *sizes))


class Clock(Callback):
    """Seconds of the training's second half, from an idle device to an idle device."""

    def __init__(self, steps: int, device: torch.device) -> None:
        self.steps, self.device, self.seen, self.at = steps, device, 0, []

    def on_train_batch_end(self, trainer: Trainer, model: Generator, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen += 1
        if self.seen in (self.steps, 2 * self.steps):
            synchronise(self.device)
            self.at.append(time.perf_counter())


def ours(width: int, side: int, batch: int, steps: int, device: torch.device, n: int) -> Seconds:
    """What `python -m genzoo.run model=ddpm` does from its first step to its last."""
    hush()
    more = (f"width={width}", *NET, f"trainer.accelerator={'gpu' if device.type == 'cuda' else 'cpu'}")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        given = overhead.settings(folder, side, 2 * steps, *more, batch=batch, n=n)
        model, clock = runs.build(given), Clock(steps, device)
        trainer = run.make_trainer(given, Path(folder), model)
        trainer.callbacks.append(clock)
        trainer.fit(model, instantiate(given["data"], _convert_="all"))
    start, end = clock.at
    return Seconds(end - start)


def lucidrains(width: int, side: int, batch: int, steps: int, device: torch.device, n: int) -> Seconds:
    """As its README trains, but for the sizes and for bf16."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet

    attends = tuple(side >> i == 16 for i in range(4))
    net = Unet(width + width // 16, dim_mults=(1, 2, 2, 2), channels=1, full_attn=attends, dropout=0.1).to(device)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        for i, image in enumerate(overhead.noise(side, min(n, 5_000)).train.x[:, 0].numpy()):
            Image.fromarray(image).save(f"{folder}/{i}.png")
        trainer = Trainer(
            GaussianDiffusion(net, image_size=side, timesteps=1000),
            folder,
            train_batch_size=batch,
            train_num_steps=steps,
            save_and_sample_every=10**9,
            results_folder=f"{folder}/results",
            amp=device.type == "cuda",
            mixed_precision_type="bf16",
            calculate_fid=False,
        )
        trainer.train()
        trainer.train_num_steps = 2 * steps
        synchronise(device)
        start = time.perf_counter()
        trainer.train()
        synchronise(device)
        return Seconds(time.perf_counter() - start)
