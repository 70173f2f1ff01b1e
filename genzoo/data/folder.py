"""Any tree of images: the first folder below the root (or below train/, val/, test/) is the class; captions; maps."""

import csv
import json
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from genzoo.data.captions import LENGTH, caption_bytes
from genzoo.data.datamodule import to_float
from genzoo.data.pixels import decode, decode_all, printable, tell_bad
from genzoo.data.splits import Images, Splits, held_out

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
METADATA = {"metadata.jsonl": lambda lines: map(json.loads, filter(str.strip, lines)), "metadata.csv": csv.DictReader}
ASKS = ("class", "caption", "map")
Pair = tuple[Path, Path]  # a file relative to the root, and relative to the folder that holds the classes


def folder(
    path: str,
    size: int | Sequence[int] = 64,
    channels: int = 3,
    val: float = 0.05,
    test: float = 0.1,
    on_bad: str = "stop",
    ask: str = "class",
    length: int = LENGTH,
    maps: str | None = None,
    map_channels: int = 1,
) -> Splits:
    """The images below `path`, resized and centre-cropped to `size`: one side, or height and width.

    With a train/ folder beside val/ (or validation/) or test/, or alone, these are the splits; other folders
    are left out. Every split that has no folder is a share (`val`, `test`) of the training images, chosen by
    a hash of the relative path: adding images moves none. Images lying directly in the root mean that there
    are no labels. Links to folders are not followed.

    on_bad: "stop" at an unreadable file or "skip" it; the log lists what is skipped.
    ask: what y is, "class", or "caption" (n, length) uint8, UTF-8 padded with zeros: see `captions`; or "map"
        (n, map_channels, H, W) float32 in [-1, 1], from the images below `maps`, see `map_files`, resized and cropped
        as the images are, so that the two have to have the same proportions.
    Raises FileNotFoundError without images, ValueError for an unreadable file or folder, an empty split, or an image
    without a caption or map that is asked for.
    """
    if ask not in ASKS:
        raise ValueError(f"data.ask={ask}: choose {', '.join(ASKS[:-1])} or {ASKS[-1]}.")
    root = Path(path).expanduser()
    files = image_files(root)
    groups = divide(files, val, test)
    said = captions(root, files, length) if ask == "caption" else None
    drawn = map_files(root, files, maps) if ask == "map" else None
    classes = class_names(groups) if ask == "class" else None
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise ValueError(f"data.size={size}: give sides of at least 1.")
    for split, group in groups.items():
        if not group:
            raise ValueError(f"No {split} images in {root}: add some, raise data.{split}, or make a {split}/ folder.")
    parts = []
    for split, group in groups.items():
        x, kept = load(root, split, [root / file for file, _ in group], (channels, height, width), on_bad)
        group = [group[i] for i in kept]
        if drawn is None:
            parts.append(Images(x, labels(group, classes, said, length)))
        else:
            parts.append(with_maps(x, Path(maps), split, [drawn[file] for file, _ in group], map_channels, on_bad))
    return Splits(*parts, class_names=classes)


def image_files(root: Path, key: str = "data.path") -> list[Path]:
    """All images below root, the value of `key`, as relative paths, sorted; hidden files and folders left out."""
    files = sorted(file.relative_to(root) for file in visible_files(root) if is_image(file))
    if not files:
        raise FileNotFoundError(f"There are no images below {root}: set {key} to a folder of images.")
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


def load(root: Path, split: str, files: list[Path], shape: Sequence[int], on_bad: str) -> tuple[Tensor, list[int]]:
    """The files of one split in memory, uint8 (n, C, H, W), and which of them; root: where they lie, for errors.

    Raises ValueError if every one of them is skipped.
    """
    x, kept, bad = decode_all(files, partial(_read, shape=shape), shape, on_bad)
    tell_bad(bad, len(files), split)
    if not kept:
        raise ValueError(f"All {len(files)} {split} images in {root} are unreadable, so none is left to use. {bad[0]}")
    return x, kept


def labels(
    pairs: list[Pair], classes: tuple[str, ...] | None, said: dict[Path, str] | None, length: int
) -> Tensor | None:
    """y of these files: captions, or class ids, or None."""
    if said is not None:
        return caption_bytes([said[file] for file, _ in pairs], length)
    return torch.tensor([classes.index(printable(inner.parts[0])) for _, inner in pairs]) if classes else None


def _read(file: Path, shape: Sequence[int]) -> np.ndarray:
    return decode(partial(Image.open, file), shape, str(file))


# --- Captions.


def captions(root: Path, files: list[Path], length: int = LENGTH) -> dict[Path, str]:
    """What is said of each image: in a metadata.jsonl or metadata.csv in its folder or above it, by "file_name", which
    is relative to that file, and "text", as Hugging Face's imagefolder has it; else in the .txt of its name beside it.

    Raises ValueError for an image of which nothing is said, or more than `length` bytes.
    """
    told = {}
    for place in visible_files(root):
        if place.name in METADATA:
            told |= listed(root, place)
    found = {file: told[file] if file in told else beside(root / file) for file in files}
    for file, text in found.items():
        name = printable(str(root / file))
        if not text:
            raise ValueError(
                f"{name} has no caption: write one into {file.stem}.txt beside it or into a metadata.jsonl, "
                "or set data.ask=class."
            )
        if (n := len(text.encode())) > length:
            raise ValueError(f"The caption of {name} has {n} bytes: set data.length={n} condition.length={n}.")
    return found


def listed(root: Path, place: Path) -> dict[Path, str]:
    """The captions in a file of metadata, by path relative to the root. Raises ValueError for one of another form."""
    try:
        with open(place, encoding="utf-8-sig", newline="") as lines:
            rows = [(row["file_name"], row["text"].strip()) for row in METADATA[place.name](lines)]
            below = place.parent.relative_to(root)
            return {Path(os.path.normpath(below / name)): text for name, text in rows}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        form = 'lines of {"file_name": ..., "text": ...}' if place.suffix == ".jsonl" else "columns file_name and text"
        said = f"{type(error).__name__}: {error}"
        raise ValueError(f"{place} cannot be read ({said}): it takes {form}.") from error


def beside(file: Path) -> str | None:
    """The text of the .txt of the same name; None if there is none."""
    try:
        return file.with_suffix(".txt").read_text("utf-8-sig").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file.with_suffix('.txt')} cannot be read ({error}): make it UTF-8 text.") from error


# --- Maps.


def map_files(root: Path, files: list[Path], maps: str | None) -> dict[Path, Path]:
    """The map of each image: what has its path and name below `maps`, with any ending, so cats/a.png of cats/a.jpg.

    Raises ValueError without `maps`, and for an image without a map, or with several.
    """
    if maps is None:
        raise ValueError(
            "data.ask=map needs data.maps=FOLDER: for each image below data.path one of the same name there."
        )
    place = Path(maps).expanduser()
    found: dict[Path, list[Path]] = {}
    for file in image_files(place, "data.maps"):
        found.setdefault(file.with_suffix(""), []).append(place / file)
    for file in files:
        there, name = found.get(file.with_suffix(""), []), printable(str(root / file))
        if not there:
            missing = printable(str((place / file).with_suffix(".png")))
            raise ValueError(f"{name} has no map: make {missing}, or one with another ending, or set data.ask=class.")
        if len(there) > 1:
            raise ValueError(
                f"{name} has {len(there)} maps, {' and '.join(printable(str(m)) for m in there)}: keep one."
            )
    return {file: found[file.with_suffix("")][0] for file in files}


def with_maps(x: Tensor, maps: Path, split: str, files: list[Path], channels: int, on_bad: str) -> Images:
    """Images x (n, C, H, W) and their maps (n, channels, H, W) in [-1, 1]; where a map is skipped, so is its image."""
    y, kept = load(maps, f"{split} map", files, (channels, *x.shape[2:]), on_bad)
    return Images(x[kept], to_float(y))
