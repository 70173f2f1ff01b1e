"""Any tree of images: the first folder below the root (or below train/, val/, test/) is the class."""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from genzoo.data.pixels import decode, decode_all, printable, tell_bad
from genzoo.data.splits import Images, Splits, held_out

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
Pair = tuple[Path, Path]  # a file relative to the root, and relative to the folder that holds the classes


def folder(
    path: str,
    size: int | Sequence[int] = 64,
    channels: int = 3,
    val: float = 0.05,
    test: float = 0.1,
    on_bad: str = "stop",
) -> Splits:
    """The images below `path`, resized and centre-cropped to `size`: one side, or height and width.

    With a train/ folder beside val/ (or validation/) or test/, or alone, these are the splits; other folders
    are left out. Every split that has no folder is a share (`val`, `test`) of the training images, chosen by
    a hash of the relative path: adding images moves none. Images lying directly in the root mean that there
    are no labels. Links to folders are not followed.

    on_bad: "stop" at an unreadable file or "skip" it; the log lists what is skipped.
    Raises FileNotFoundError without images, ValueError for an unreadable file or folder, or an empty split.
    """
    root = Path(path).expanduser()
    files = image_files(root)
    groups = divide(files, val, test)
    classes = class_names(groups)
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise ValueError(f"data.size={size}: give sides of at least 1.")
    for split, group in groups.items():
        if not group:
            raise ValueError(f"No {split} images in {root}: add some, raise data.{split}, or make a {split}/ folder.")
    shape = (channels, height, width)
    parts = [load(root, split, group, classes, shape, on_bad) for split, group in groups.items()]
    return Splits(*parts, class_names=classes)


def image_files(root: Path) -> list[Path]:
    """All images below root as relative paths, sorted; hidden files and folders left out."""
    files = sorted(file.relative_to(root) for file in visible_files(root) if is_image(file))
    if not files:
        raise FileNotFoundError(f"There are no images below {root}: set data.path to a folder of images.")
    return files


def visible_files(root: Path) -> Iterator[Path]:
    """Every file below root; raises ValueError for a folder that may not be read, whose images would be missed."""

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise ValueError(f"{error.filename} cannot be read ({error.strerror}): change its rights or move it away.")

    for place, folders, names in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in names if not name.startswith("."))


def is_image(file: Path) -> bool:
    """By its name; a link that leads nowhere is an image, if one that cannot be read, while a pipe is none."""
    return file.suffix.lower() in SUFFIXES and (file.is_file() or (file.is_symlink() and not file.exists()))


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
            split = held_out(os.fsencode(inner.as_posix()), val, test)
        if split:
            groups[split].append((file, inner))
    return groups


def class_names(groups: dict[str, list[Pair]]) -> tuple[str, ...] | None:
    """The class folders in alphabetical order; None if any image lies in none."""
    inner = [inner for group in groups.values() for _, inner in group]
    if any(len(file.parts) == 1 for file in inner):
        return None
    return tuple(sorted({printable(file.parts[0]) for file in inner}))


def load(
    root: Path, split: str, group: list[Pair], classes: tuple[str, ...] | None, shape: Sequence[int], on_bad: str
) -> Images:
    """One split in memory. Raises ValueError if every image of it is skipped."""
    x, kept, bad = decode_all([root / file for file, _ in group], partial(_read, shape=shape), shape, on_bad)
    tell_bad(bad, len(group), split)
    if not kept:
        raise ValueError(f"All {len(group)} {split} images in {root} are unreadable, so none is left to use. {bad[0]}")
    labels = [classes.index(printable(group[i][1].parts[0])) for i in kept] if classes else None
    return Images(x, torch.tensor(labels) if labels else None)


def _read(file: Path, shape: Sequence[int]) -> np.ndarray:
    return decode(partial(Image.open, file), shape, str(file))
