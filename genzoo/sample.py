"""python -m genzoo.sample run=outputs/... n=64: images from a finished run, as samples.npz and a grid."""

import logging
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle, islice
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
    exchange_sampling(model, settings)
    started = time.perf_counter()
    images = draw(of_classes(model, settings["y"]), settings["n"], settings["batch_size"], settings["seed"])
    out = Path(settings["out"])
    write(images, out, settings["png"])
    print(f"{len(images)} images in {time.perf_counter() - started:.1f} s ({model.sampling}) -> {out}")


def device(name: str) -> torch.device:
    """The named device; "auto" is a GPU where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def exchange_sampling(model: Generator, settings: dict[str, Any]) -> None:
    """Give a trained model another `sampler`, `spacing` (its grid) or number of `steps`, another `guidance` or a
    `guide`, the folder of the run whose weaker model shows what to keep away from; None leaves what it has.

    Raises ValueError when it samples in another way.
    """
    asked = {"sampler": settings["sampler"], "grid": settings["spacing"], "steps": settings["steps"]}
    changed = {key: value for key, value in asked.items() if value is not None}
    guidance = {key: value for key, value in settings["guidance"].items() if value is not None}
    if (changed or guidance or settings["guide"]) and not isinstance(model, HasSampler):
        raise ValueError(f"{type(model).__name__} has no sampler to exchange: leave out {first_of(changed, guidance)}=")
    for key, value in changed.items():
        if not hasattr(model, key):
            raise ValueError(f"{type(model).__name__} has no {key} to exchange: leave out {key}=")
        setattr(model, key, instantiate(value, _convert_="all") if isinstance(value, dict) else value)
    if (guidance or settings["guide"]) and not hasattr(model, "guidance"):
        raise ValueError(f"{type(model).__name__} has no guidance: leave out guidance and guide")
    if guidance:
        model.guidance = partial(model.guidance, **guidance)
    if settings["guide"]:
        model.guides = [runs.load(settings["guide"], model.device)]


def first_of(*keys: dict[str, Any]) -> str:
    return next((key for group in keys for key in group), "guide")


def of_classes(model: Generator, y: int | list[int] | None) -> Callable[[int], Tensor]:
    """n -> the next n images, whose classes are those of y in turn; None leaves them to the model."""
    if y is None:
        return model.sample
    classes = cycle([y] if isinstance(y, int) else y)
    return lambda n: model.sample(n, torch.tensor(list(islice(classes, n)), device=model.device))


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
