"""python -m genzoo.sample run=outputs/... n=64: images from a finished run, as samples.npz and a grid."""

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from genzoo import runs
from genzoo.command import command, plain
from genzoo.generator import Generator, HasSampler
from genzoo.metrics.draw import draw
from genzoo.pictures import save_grid

log = logging.getLogger("genzoo")


@command("sample")
def main(cfg: DictConfig) -> None:
    settings = plain(cfg)
    if settings["n"] < 1:
        raise ValueError(f"n={settings['n']}: ask for at least one image")
    model = runs.load(settings["run"], device(settings["device"]))
    exchange_sampler(model, settings["sampler"], settings["steps"])
    started = time.perf_counter()
    images = draw(model.sample, settings["n"], settings["batch_size"], settings["seed"])
    out = Path(settings["out"])
    write(images, out, settings["png"])
    print(f"{len(images)} images in {time.perf_counter() - started:.1f} s ({model.sampling}) -> {out}")


def device(name: str) -> torch.device:
    """The named device; "auto" is a GPU where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def exchange_sampler(model: Generator, sampler: dict[str, Any] | None, steps: int | None) -> None:
    """Give a trained model another sampler, another number of steps, or both; None leaves what it has.

    Raises ValueError when it samples in another way.
    """
    if sampler is None and steps is None:
        return
    if not isinstance(model, HasSampler):
        raise ValueError(f"{type(model).__name__} has no sampler to exchange: leave out sampler= and steps=")
    model.sampler = instantiate(sampler, _convert_="all") if sampler else model.sampler
    model.steps = model.steps if steps is None else steps


def write(images: Tensor, out: Path, png: bool) -> None:
    """samples.npz (array `fake`, uint8 (n, C, H, W)), grid.png and, if asked, 00000.png and so on."""
    out.mkdir(parents=True, exist_ok=True)
    array = images.numpy()
    np.savez_compressed(out / "samples.npz", fake=array)
    save_grid(array, out / "grid.png")
    if not png:
        return
    if array.shape[1] not in (1, 3):
        raise ValueError(f"png=true: images of {array.shape[1]} channels are no pictures; samples.npz has them")
    for i, image in enumerate(array):
        pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        Image.fromarray(pixels).save(out / f"{i:05d}.png")


if __name__ == "__main__":
    main()
