"""python -m genzoo.edit run=outputs/... task=inpaint image=a.png mask=b.png: edit an image with a finished run."""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image, ImageOps
from torch import Tensor

from genzoo import runs
from genzoo.command import command, plain
from genzoo.data.pixels import MODES, decode
from genzoo.diffusion import editing
from genzoo.generator import Generator, HasDenoiser
from genzoo.metrics.draw import draw
from genzoo.pictures import save_grid
from genzoo.sample import check, check_class, device, exchange_sampling, ready, write


class Edit(NamedTuple):
    """walk: (denoise, x, sigmas, sampler) -> (n, C, H, W), as in genzoo.diffusion.editing.
    given: uint8 (k, C, H, W), what the strip shows before the results.
    """

    walk: Callable[..., Tensor]
    given: Tensor


@command("edit")
def main(cfg: DictConfig) -> None:
    settings = plain(cfg)
    check(settings)
    loaded = runs.load(settings["run"], device(settings["device"]), settings["allow"])
    model = editor(loaded, settings["y"])
    exchange_sampling(model, settings)
    edit = instantiate(settings["task"], _convert_="all")(settings["image"], model.image_shape)
    out, started = ready(settings["out"]), time.perf_counter()
    sample = partial(edited, model=model, edit=edit, y=settings["y"])
    images = draw(sample, settings["n"], settings["batch_size"], settings["seed"])
    write(images, out, png=True)
    save_grid(strip(torch.cat([edit.given, images[:8]])), out / "strip.png")
    print(f"{len(images)} images in {time.perf_counter() - started:.1f} s ({model.sampling}) -> {out}")


def editor(model: Generator, y: int | None) -> HasDenoiser:
    """The model itself. Raises ValueError when it cannot edit pictures, or not of the class y."""
    if not isinstance(model, HasDenoiser):
        raise ValueError(f"{type(model).__name__} cannot edit: take a run of a diffusion model, such as model=ddpm")
    channels = model.image_shape[0]
    if channels not in MODES:
        raise ValueError(f"this run's data of {channels} channels is no pictures: take a run on grey or RGB images")
    if y is not None:
        check_class(model, y)
    return model


def edited(n: int, model: HasDenoiser, edit: Edit, y: int | None) -> Tensor:
    """(n, C, H, W) edits from fresh noise."""
    classes = None if y is None else torch.full((n,), y, device=model.device)
    sigmas = model.sigma_grid
    x = sigmas[0] * torch.randn(n, *model.image_shape, device=model.device)
    return edit.walk(model.denoiser(classes), x, sigmas, model.sampler)


def strip(images: Tensor) -> np.ndarray:
    """(k, C, H, W) -> (1, C, H, W'): side by side, a white line in between."""
    k, channels, height, _ = images.shape
    line = torch.full((k, channels, height, 1), 255, dtype=torch.uint8)
    return torch.cat([*torch.cat([line, images], -1)], -1)[None, ..., 1:].numpy()


# --- Tasks: (image, shape of the model's images, settings) -> Edit. Every one raises ValueError for unreadable files.


def inpaint(image: str, shape: Sequence[int], mask: str, method: Callable[..., Tensor]) -> Edit:
    """New content where the mask is white. method: `repaint` or `fill`.

    Raises ValueError for a mask of another size than the image's, or without white.
    """
    picture, white = read(image, shape), read(mask, (1, *shape[1:])) > 127
    if size(mask) != size(image):
        raise ValueError(f"the mask {mask} is {words(size(mask))}, the image {words(size(image))}: make them one size")
    if not white.any():
        raise ValueError(f"the mask {mask} has no white pixels, which are what is filled in")
    given = torch.stack([picture, picture.masked_fill(white, 128)])
    return Edit(partial(method, image=levels(picture), mask=white), given)


def sdedit(image: str, shape: Sequence[int], strength: float) -> Edit:
    """Another image like this one. strength: in (0, 1], how much of it may change."""
    picture = read(image, shape)
    return Edit(partial(editing.sdedit, image=levels(picture), strength=strength), picture[None])


def superres(image: str, shape: Sequence[int], factor: int, method: Callable[..., Tensor]) -> Edit:
    """Images whose blocks of factor x factor pixels have the given image's pixels as means. method: `restore`.

    Raises ValueError for a factor that does not divide the model's size.
    """
    channels, height, width = shape
    if factor < 2 or math.gcd(height, width) % factor:
        raise ValueError(f"factor={factor} does not divide the model's {words((width, height))} pixels")
    small = read(image, (channels, height // factor, width // factor))
    operator = editing.pooling(factor)
    return Edit(partial(method, operator=operator, y=levels(small)), operator.pinv(small[None]))


def colourise(image: str, shape: Sequence[int], method: Callable[..., Tensor]) -> Edit:
    """Colour images whose grey is the given image's. method: `restore`. Raises ValueError for a model of grey ones."""
    if shape[0] != 3:
        raise ValueError("task=colourise asks for a model of RGB images, and this one's are grey")
    grey = read(image, (1, *shape[1:]))
    return Edit(partial(method, operator=editing.luma(), y=levels(grey)), grey.expand(1, 3, -1, -1))


# --- Files.


def read(path: str, shape: Sequence[int]) -> Tensor:
    """uint8 (C, H, W) of an image file, scaled and cropped to the shape, which is then said.

    Raises ValueError when it cannot be read.
    """
    pixels = decode(partial(Image.open, path), shape, path)
    there, wanted = size(path), (shape[2], shape[1])
    if there != wanted:
        print(f"{path} is {words(there)}: scaled and cropped to {words(wanted)}")
    with Image.open(path) as image:
        if shape[0] == 1 and image.mode not in ("1", "L", "LA", "I", "I;16"):
            print(f"{path} is {image.mode}: its colours are made grey")
    return torch.from_numpy(pixels.copy())


def size(path: str) -> tuple[int, int]:
    """Width and height of an image file, upright."""
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).size


def words(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def levels(pixels: Tensor) -> Tensor:
    """0..255 -> [-1, 1]."""
    return pixels / 127.5 - 1


if __name__ == "__main__":
    main()
