"""Any tree of images: the first folder below the root (or below train/, val/, test/) is the class."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from genzoo.data.pixels import decode, decode_all
from genzoo.data.splits import Images, Splits, held_out

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
Pair = tuple[Path, Path]  # a file relative to the root, and relative to the folder that holds the classes


def folder(
    path: str, size: int | Sequence[int] = 64, channels: int = 3, val: float = 0.05, test: float = 0.1
) -> Splits:
    """The images below `path`, resized and centre-cropped to `size`: one side, or height and width.

    With a train/ folder beside val/ (or validation/) or test/, or alone, these are the splits; other folders
    are left out. Every split that has no folder is a share (`val`, `test`) of the training images, chosen by
    a hash of the relative path: adding images moves none. Images lying directly in the root mean that there
    are no labels. Raises FileNotFoundError without images, ValueError for an unreadable file or an empty
    split.
    """
    root = Path(path).expanduser()
    files = image_files(root)
    groups = divide(files, val, test)
    classes = class_names(groups)
    height, width = (size, size) if isinstance(size, int) else size
    for split, group in groups.items():
        if not group:
            raise ValueError(f"No {split} images in {root}: add some, raise data.{split}, or make a {split}/ folder.")
    parts = [load(root, group, classes, (channels, height, width)) for group in groups.values()]
    return Splits(*parts, class_names=classes)


def image_files(root: Path) -> list[Path]:
    """All images below root as relative paths, sorted; hidden files and folders left out."""
    found = [p.relative_to(root) for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()]
    files = sorted(file for file in found if not any(part.startswith(".") for part in file.parts))
    if not files:
        raise FileNotFoundError(f"There are no images below {root}: set data.path to a folder of images.")
    return files


def divide(files: list[Path], val: float, test: float) -> dict[str, list[Pair]]:
    """The files of each split."""
    tops = {file.parts[0] for file in files}
    named = SPLITS.keys() & tops
    # A lone train/ among other folders is a class of vehicles, not a split.
    split_folders = "train" in tops and (len(named) > 1 or len(tops) == 1)
    given = {SPLITS[name] for name in named if split_folders}
    val, test = (0 if "val" in given else val), (0 if "test" in given else test)
    groups: dict[str, list[Pair]] = {"train": [], "val": [], "test": []}
    for file in files:
        inner = file.relative_to(file.parts[0]) if split_folders else file
        split = SPLITS.get(file.parts[0]) if split_folders else "train"
        if split == "train":
            split = held_out(inner.as_posix().encode(), val, test)
        if split:
            groups[split].append((file, inner))
    return groups


def class_names(groups: dict[str, list[Pair]]) -> tuple[str, ...] | None:
    """The class folders in alphabetical order; None if any image lies in none."""
    inner = [inner for group in groups.values() for _, inner in group]
    if any(len(file.parts) == 1 for file in inner):
        return None
    return tuple(sorted({file.parts[0] for file in inner}))


def load(root: Path, group: list[Pair], classes: tuple[str, ...] | None, shape: Sequence[int]) -> Images:
    """One split in memory."""
    x = decode_all([root / file for file, _ in group], partial(_read, shape=shape), shape)
    y = torch.tensor([classes.index(inner.parts[0]) for _, inner in group]) if classes else None
    return Images(x, y)


def _read(file: Path, shape: Sequence[int]) -> np.ndarray:
    return decode(partial(Image.open, file), shape, str(file))
