"""python -m genzoo.edit run=outputs/... task=inpaint image=a.png mask=b.png: edit an image, or make one as asked, with
a finished run."""

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image, ImageOps
from torch import Tensor

from genzoo import runs
from genzoo.asking import condition_of, conditions_of, in_turn
from genzoo.command import command, plain
from genzoo.data.pixels import MODES, decode
from genzoo.diffusion import editing
from genzoo.generator import Generator, HasDenoiser, from_uint8, to_uint8
from genzoo.metrics.draw import draw
from genzoo.nets.conditions import Layout, on_grid
from genzoo.nets.maps import LowResolution, Maps, Masked, known, masked
from genzoo.nets.text import Bytes
from genzoo.pictures import frames, save_grid
from genzoo.sample import check, device, exchange_sampling, ready, write


class Edit(NamedTuple):
    """walk: (denoise, x, sigmas, sampler) -> (n, C, H, W), as in genzoo.diffusion.editing; None for `sample` as it is.
    given: uint8 (k, C, H, W), what the strip shows before the results.
    how: in words, by which method. y: (m, ...), what the task asks for in turn; None leaves it to the user.
    pasted: what becomes of samples (n, C, H, W), parts of which are known.
    """

    walk: Callable[..., Tensor] | None
    given: Tensor
    how: str
    y: Tensor | None = None
    pasted: Callable[[Tensor], Tensor] | None = None


@command("edit")
def main(cfg: DictConfig) -> None:
    settings = plain(cfg)
    check(settings)
    model = runs.load(settings["run"], device(settings["device"]), settings["allow"])
    check_pictures(model)
    exchange_sampling(model, settings)
    edit = instantiate(settings["task"], _convert_="all")(settings["image"], model)
    y = in_turn(asked(edit, model, settings["y"]), settings["n"])
    out, started = ready(settings["out"]), time.perf_counter()
    images = draw(partial(edited, model=model, edit=edit), settings["n"], settings["batch_size"], settings["seed"], y=y)
    write(images, out, png=True)
    save_grid(strip(torch.cat([edit.given, images[:8]])), out / "strip.png")
    seconds = f"{time.perf_counter() - started:.1f} s"
    print(f"{len(images)} images in {seconds} by {edit.how} ({model.sampling}) -> {out}")


def check_pictures(model: Generator) -> None:
    """Raises ValueError for a model of what is no pictures."""
    channels = model.image_shape[0]
    if channels not in MODES:
        raise ValueError(f"this run's data of {channels} channels is no pictures: take a run on grey or RGB images")


def asked(edit: Edit, model: Generator, y: Any) -> Tensor | None:
    """What results are asked to be, (m, ...): what the task says, or the user's y.

    Raises ValueError for both, and for a model that can walk no such edit.
    """
    if edit.walk and not isinstance(model, HasDenoiser):
        raise ValueError(f"{type(model).__name__} cannot edit: take a run of a diffusion model, such as model=ddpm")
    if edit.y is not None and y is not None:
        raise ValueError(f"y={y}: this task says by itself what is asked for: leave out y")
    return conditions_of(model, y) if edit.y is None else edit.y


def edited(n: int, y: Tensor | None = None, *, model: HasDenoiser, edit: Edit) -> Tensor:
    """(n, C, H, W) edits from fresh noise, of the conditions y (n, ...)."""
    if edit.walk is None:
        x = model.sample(n, y)
        return edit.pasted(x) if edit.pasted else x
    sigmas = model.sigma_grid
    x = sigmas[0] * torch.randn(n, *model.image_shape, device=model.device)
    return edit.walk(model.denoiser(None if y is None else y.to(model.device)), x, sigmas, model.sampler)


def strip(images: Tensor) -> np.ndarray:
    """(k, C, H, W) -> (1, C, H, W'): side by side, a white line in between."""
    k, channels, height, _ = images.shape
    line = torch.full((k, channels, height, 1), 255, dtype=torch.uint8)
    return torch.cat([*torch.cat([line, images], -1)], -1)[None, ..., 1:].numpy()


# --- Tasks: (image, model, settings) -> Edit. Every one raises ValueError for unreadable files, and for another model.
# `superres` and `inpaint` take the training-free method where the model was not trained for them.


def inpaint(image: str, model: Generator, mask: str, method: Callable[..., Tensor]) -> Edit:
    """New content where the mask is white. method: `repaint` or `fill`, for a model that was not trained for it.

    Raises ValueError for a mask of another size than the image's, or without white.
    """
    shape = model.image_shape
    picture, white = read(image, shape), read(mask, (1, *shape[1:])) > 127
    if size(mask) != size(image):
        raise ValueError(f"the mask {mask} is {words(size(mask))}, the image {words(size(image))}: make them one size")
    if not white.any():
        raise ValueError(f"the mask {mask} has no white pixels, which are what is filled in")
    given, x = torch.stack([picture, picture.masked_fill(white, 128)]), from_uint8(picture)
    if isinstance(condition_of(model), Masked):
        beside = partial(filled, image=x, mask=white)
        return Edit(None, given, "its training", masked(x[None], white[None]), beside)
    return Edit(partial(method, image=x, mask=white), given, name_of(method))


def filled(x: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """Samples x where the mask is, all other pixels the image's."""
    return torch.where(mask.to(x.device), x, image.to(x))


def sdedit(image: str, model: Generator, strength: float) -> Edit:
    """Another image like this one. strength: in (0, 1], how much of it may change."""
    picture = read(image, model.image_shape)
    return Edit(partial(editing.sdedit, image=from_uint8(picture), strength=strength), picture[None], "SDEdit")


def superres(image: str, model: Generator, factor: int | None, method: Callable[..., Tensor]) -> Edit:
    """Images of the given one in a higher resolution; training-free, their blocks of factor x factor pixels have its
    pixels as means.

    factor: None for that of the training, or 2. method: `restore`, for a model that was not trained for this factor.
    Raises ValueError for a factor that does not divide the model's size.
    """
    (channels, height, width), condition = model.image_shape, condition_of(model)
    own = condition.factor if isinstance(condition, LowResolution) else None
    factor = factor or own or 2
    if factor < 2 or math.gcd(height, width) % factor:
        raise ValueError(f"factor={factor} does not divide the model's {words((width, height))} pixels")
    small = read(image, (channels, height // factor, width // factor))
    operator = editing.pooling(factor)
    given, y = operator.pinv(small[None]), from_uint8(small)
    if factor == own:
        return Edit(None, given, f"its training for factor {own}", known(y[None]))
    return Edit(partial(method, operator=operator, y=y), given, name_of(method))


def colourise(image: str, model: Generator, method: Callable[..., Tensor]) -> Edit:
    """Colour images whose grey is the given image's. method: `restore`. Raises ValueError for a model of grey ones."""
    if model.image_shape[0] != 3:
        raise ValueError("task=colourise asks for a model of RGB images, and this one's are grey")
    grey = read(image, (1, *model.image_shape[1:]))
    method = partial(method, operator=editing.luma(), y=from_uint8(grey))
    return Edit(method, grey.expand(1, 3, -1, -1), name_of(method))


def layout(image: None, model: Generator, boxes: list[Any] | str) -> Edit:
    """Images of these boxes. boxes: [[class, x0, y0, x1, y1], ...], or a YAML or JSON file of that."""
    if not isinstance(condition_of(model), Layout):
        raise ValueError("task=layout asks for a model that is told boxes: take a run with condition=layout")
    boxes = yaml_of(boxes) if isinstance(boxes, str) else boxes
    y = conditions_of(model, boxes, "boxes")
    return Edit(None, torch.from_numpy(frames(y[0].numpy(), model.image_shape)[None]), "its training on boxes", y)


def text(image: None, model: Generator, prompt: str | list[str]) -> Edit:
    """Images of a caption, or of several in turn."""
    if not isinstance(condition_of(model), Bytes):
        raise ValueError("task=text asks for a model that is told captions: take a run with condition=text")
    y = conditions_of(model, prompt, "prompt")
    return Edit(None, torch.empty(0, *model.image_shape, dtype=torch.uint8), "its training on captions", y)


def maps(image: str | None, model: Generator, file: str | None) -> Edit:
    """Images of the map in a file, or of the one that the model's condition makes of an image."""
    condition, shape = condition_of(model), model.image_shape
    if not isinstance(condition, Maps) or isinstance(condition, Masked):
        raise ValueError("task=maps asks for a run with condition=edges, depth, superres or maps")
    if (image is None) == (file is None) or (image and type(condition) is Maps):
        raise ValueError("task=maps takes map=FILE, or an image=FILE of which condition=edges or depth makes the map")
    if file:
        y = known(from_uint8(read(file, (condition.maps - 1, *condition.size)))[None])
    else:
        y = condition.of(from_uint8(read(image, shape))[None].to(model.device), None).cpu()
    shown = to_uint8(on_grid(y[:, :-1].float().mean(1, keepdim=True), shape[1:]))
    return Edit(None, shown.expand(-1, *shape[:1], -1, -1), "its training on maps", y)


def name_of(method: Callable[..., Tensor]) -> str:
    """The training-free method in words."""
    while isinstance(method, partial):
        method = method.func
    return f"{method.__name__}, training-free"


# --- Files.


def yaml_of(path: str) -> Any:
    """What a YAML or JSON file holds. Raises ValueError when it cannot be read."""
    try:
        return yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"boxes={path} cannot be read as YAML ({error}): give a file, or boxes as a list") from error


def read(path: str, shape: tuple[int, ...]) -> Tensor:
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


if __name__ == "__main__":
    main()
