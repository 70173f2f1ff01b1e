"""python -m genzoo.sample run=outputs/... n=64: images from a finished run, as samples.npz and a grid."""

import math
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from genzoo import runs
from genzoo.asking import condition_of, conditions_of, in_turn
from genzoo.command import command, plain
from genzoo.files import told, write_whole
from genzoo.generator import Generator, HasDenoiser
from genzoo.gpu import tune
from genzoo.metrics.draw import draw
from genzoo.models.diffusion import Diffusion
from genzoo.models.latent import Latent
from genzoo.pictures import save_grid


@command("sample")
def main(cfg: DictConfig) -> None:
    settings = plain(cfg)
    check(settings)
    model = runs.load(settings["run"], device(settings["device"]), settings["allow"])
    check_pictures(model, settings["png"])
    exchange_sampling(model, settings)
    record = runs.finished(runs.folder_of(settings["run"])) or {}
    tune(model, halve=record.get("cost", {}).get("sampling_precision") == "float16")  # as its scores
    y = in_turn(conditions_of(model, settings["y"]), settings["n"])
    out, started = ready(settings["out"]), time.perf_counter()
    images = draw(model.sample, settings["n"], settings["batch_size"], settings["seed"], y=y)
    write(images, out, settings["png"])
    print(f"{len(images)} images in {time.perf_counter() - started:.1f} s ({model.sampling}) -> {out}")


def check(settings: dict[str, Any]) -> None:
    """Raises ValueError for numbers of images, steps or seeds that there cannot be."""
    for key, least in {"n": 1, "batch_size": 1, "seed": 0}.items():
        check_whole(key, settings[key], least)
    check_exchange(settings)


def check_exchange(settings: dict[str, Any]) -> None:
    """Raises ValueError for settings of `exchange_sampling` that no model takes."""
    if settings["steps"] is not None:
        check_whole("steps", settings["steps"], 1)
    if settings.get("top_k") is not None:
        check_whole("top_k", settings["top_k"], 0)
    temperature = settings.get("temperature")
    if temperature is not None and not (is_number(temperature) and 0 < temperature < math.inf):
        raise ValueError(f"temperature={temperature}: give a number above 0, or null for the model's own")
    scale, interval = settings["guidance"]["scale"], settings["guidance"]["interval"]
    if scale is not None and not (is_number(scale) and math.isfinite(scale)):
        raise ValueError(f"guidance.scale={scale}: give a number, or null for the model's own")
    if interval is None:
        return
    if not (isinstance(interval, list) and len(interval) == 2 and all(map(is_number, interval))):
        raise ValueError(f"guidance.interval={interval}: give two noise levels, as in guidance.interval=[0.2,5]")


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_whole(key: str, value: object, least: int) -> None:
    """Raises ValueError unless the value is a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{key}={value}: give a whole number of at least {least}")


def check_pictures(model: Generator, png: bool) -> None:
    """Raises ValueError when PNG files are asked of a model of points."""
    channels = model.image_shape[0]
    if png and channels not in (1, 3):
        raise ValueError(f"png=true: images of {channels} channels are no pictures; leave it out, samples.npz has them")


def device(name: str) -> torch.device:
    """The named device; "auto" is a GPU where there is one. Raises ValueError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise ValueError(f"device={name} is not there: give auto, cpu, cuda, or cuda:1 for the second GPU") from error


def ready(out: str) -> Path:
    """The folder for results, not yet made. Raises OSError when that could not be, before the work begins."""
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"out={out} is a file: name a folder, which may be a new one")
    with told(folder):
        nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        tempfile.TemporaryFile(dir=nearest).close()
    return folder


def exchange_sampling(model: Generator, settings: dict[str, Any]) -> None:
    """Give a trained model another `sampler`, `spacing` (its grid) or number of `steps`, another `temperature`,
    or `top_k` of its codes, another `guidance` or a `guide`, the folder of the run whose weaker model shows what to
    keep away from; None leaves what it has.

    Raises ValueError when it samples in another way.
    """
    guidance = {key: value for key, value in settings["guidance"].items() if value is not None}
    for key, name in EXCHANGED.items():
        if (value := settings.get(key)) is not None:
            if not hasattr(model, name):
                raise ValueError(f"{type(model).__name__} has no {key} to exchange: leave out {key}=")
            setattr(model, name, instantiate(value, _convert_="all") if isinstance(value, dict) else value)
    for key, name, asked in (("guidance", "guidance", guidance), ("guide", "guides", settings["guide"])):
        if asked and not hasattr(model, name):
            raise ValueError(f"{type(model).__name__} has no {key}: leave it out")
    if isinstance(model, HasDenoiser):
        model.grid(model.sigmas, model.steps)  # raises now, not after the first results
    if hasattr(model, "check_draws"):
        model.check_draws()
    if guidance and not settings["guide"] and condition_of(model) is None:
        instead = ", or name a weaker run by guide=" if hasattr(model, "guides") else ""
        raise ValueError(f"this model was trained without a condition: leave out guidance{instead}")
    if guidance:
        model.guidance = guided(model.guidance, guidance)
    if settings["guide"]:
        model.guides = [guide(settings["guide"], model, settings["allow"])]


EXCHANGED = {key: key for key in ("sampler", "steps", "temperature", "top_k")} | {"spacing": "grid"}


def guided(own: Callable[..., Any] | float, asked: dict[str, Any]) -> Callable[..., Any] | float:
    """A model's guidance with these settings: a function of noise levels, or the scale of a model that has none.

    Raises ValueError for an interval of levels where there are none.
    """
    if callable(own):
        return partial(own, **asked)
    if "interval" in asked:
        raise ValueError("this model has no noise levels: leave out guidance.interval")
    return asked["scale"]


def guide(folder: str, model: Generator, allow: Iterable[str]) -> Diffusion:
    """The model of a run that guides `model`, or of latents theirs. Raises ValueError when it cannot."""
    weaker = runs.load(folder, model.device, allow)
    if isinstance(model, Latent) and not (isinstance(weaker, Latent) and same_latents(model, weaker)):
        raise ValueError(f"guide={folder} cannot guide: take a run of model=latent with the same first_stage")
    inner = weaker.generator if isinstance(model, Latent) else weaker
    if not isinstance(inner, Diffusion) or weaker.image_shape != model.image_shape:
        shape = "x".join(map(str, model.image_shape))
        raise ValueError(f"guide={folder} cannot guide: take a run of a diffusion model of {shape} images")
    return inner


def same_latents(a: Latent, b: Latent) -> bool:
    """Whether z means the same to both: one first stage, one scale."""
    ours, theirs = a.first_stage.state_dict(), b.first_stage.state_dict()
    alike = ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    return alike and torch.equal(a.mean, b.mean) and torch.equal(a.std, b.std)


def write(images: Tensor, out: Path, png: bool) -> None:
    """samples.npz (array `fake`, uint8 (n, C, H, W)), grid.png and, if asked, 00000.png and so on."""
    array = images.numpy()
    write_whole(out / "samples.npz", partial(np.savez_compressed, fake=array))
    save_grid(array, out / "grid.png")
    for i, image in enumerate(array if png else ()):
        pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
        write_whole(out / f"{i:05d}.png", partial(Image.fromarray(pixels).save, format="PNG"))


if __name__ == "__main__":
    main()
