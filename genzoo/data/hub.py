"""Image data sets of the Hugging Face hub, by name or as a folder of parquet files (extra genzoo[hub])."""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from genzoo.data.pixels import Unreadable, decode, decode_all, tell_bad
from genzoo.data.splits import Images, Splits, held_out
from genzoo.data.stream import Batch, Stream, damage
from genzoo.fetch import reachable

SPLITS = {"train": "train", "validation": "val", "val": "val", "test": "test"}
Encoded = Mapping[str, Any]  # {"bytes": ..., "path": ...}: an image that is not decoded yet
Row = Mapping[str, Any]
Rows = Any  # datasets.Dataset or datasets.IterableDataset


class Columns(NamedTuple):
    """Which columns hold the image and the class id, and the classes' names."""

    image: str
    label: str | None
    class_names: tuple[str, ...] | None


def hub(
    image_shape: Sequence[int],
    repo: str | None = None,
    path: str | None = None,
    config: str | None = None,
    val: float = 0.1,
    test: float = 0.1,
    image_column: str | None = None,
    label_column: str | None = None,
    stream: bool = False,
    head: int = 10_000,
    buffer: int = 2_000,
    workers: int = 2,
    on_bad: str = "stop",
) -> Splits:
    """A data set by hub name (`repo`, `config`), or from train-*.parquet, test-*.parquet in a folder `path`.

    Images are scaled and centre-cropped to image_shape (C, H, W). Columns are found by their type unless
    named. A split that does not exist is a share (`val`, `test`) of the training images, chosen by a hash of
    the encoded image, so that equal files never fall into two of these. stream: training images are read from
    disk or net by `workers` processes, shuffled through `buffer` rows; validation and test are then their
    first `head` images. on_bad: "stop" at an unreadable image or "skip" it; the log lists what is skipped.
    Raises ImportError without `datasets`, FileNotFoundError without data, ValueError for
    unknown columns or images.
    """
    given = open_parquet(path) if path else open_repo(repo, config, stream)
    columns = find_columns(given["train"].features or {}, image_column, label_column)
    shares = {name: 0.0 if name in given else share for name, share in (("val", val), ("test", test))}
    rows = {name: split_rows(given, name, columns, shares) for name in ("train", "val", "test")}
    decoded = partial(images, columns=columns, shape=image_shape, on_bad=on_bad)
    place, limit = str(path or repo), head if stream else None
    parts = {name: load(rows[name], decoded, limit, name, place) for name in rows}
    if stream:
        parts["train"] = Stream(rows["train"], decoded, parts["train"], buffer, workers, on_bad == "skip", place, set())
    return Splits(**parts, class_names=columns.class_names)


def library() -> Any:
    """The package `datasets`, imported here because that takes seconds."""
    try:
        return importlib.import_module("datasets")
    except ImportError as error:
        raise ImportError("Hub data needs the package datasets: pip install datasets.") from error


def open_parquet(path: str) -> dict[str, Rows]:
    """The splits of a folder, by the beginning of the files' names; read in place, with no second copy."""
    files = sorted(Path(path).expanduser().rglob("*.parquet"))
    found = {name: [str(file) for file in files if file.name.startswith(name)] for name in SPLITS}
    if not found["train"]:
        raise FileNotFoundError(f"There is no train*.parquet in {path}: set data.path to a folder with some.")
    named = {SPLITS[name]: names for name, names in found.items() if names}
    return dict(library().load_dataset("parquet", data_files=named, streaming=True))


def open_repo(repo: str | None, config: str | None, stream: bool) -> dict[str, Rows]:
    """The splits of a data set on the hub, or of its cached copy when the hub cannot be reached."""
    if repo is None:
        raise ValueError("Set data.repo=OWNER/NAME, or data.path to a folder of parquet files.")
    datasets = library()
    try:
        with offline_if_unreachable():
            splits = datasets.load_dataset(repo, config, streaming=stream)
    except ConnectionError as error:
        raise FileNotFoundError(
            f"The hub cannot be reached and {repo} is not in the local cache: connect, "
            "or set data.path to a folder with its parquet files."
        ) from error
    named = {SPLITS[name]: rows for name, rows in splits.items() if name in SPLITS}
    if "train" not in named:
        raise ValueError(f"{repo} has no split called train, only {', '.join(splits)}: set data.config.")
    return named


@contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Keep `datasets` from retrying for half a minute when one short question finds no hub."""
    hub_constants = importlib.import_module("huggingface_hub").constants
    config = library().config
    before = hub_constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE
    if not reachable(hub_constants.ENDPOINT):
        hub_constants.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub_constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE = before


def find_columns(features: Mapping[str, Any], image: str | None, label: str | None) -> Columns:
    """The first image column and the first class-label column, else the only integer one, unless named."""
    image = image or next((name for name, feature in features.items() if is_image(feature)), None)
    if image is None:
        raise ValueError(f"No column holds images; name one of {', '.join(features)} with data.image_column.")
    classes = [name for name, feature in features.items() if hasattr(feature, "names")]
    integers = [name for name, feature in features.items() if "int" in str(getattr(feature, "dtype", ""))]
    label = label or (classes[0] if classes else integers[0] if len(integers) == 1 else None)
    for name in filter(None, (image, label)):
        if features and name not in features:
            raise ValueError(f"There is no column {name!r}: the columns are {', '.join(features)}.")
    names = getattr(features.get(label), "names", None)
    return Columns(image, label, tuple(names) if names else None)


def is_image(feature: Any) -> bool:
    """Whether a column is an image: typed so, or a bare struct that holds encoded bytes."""
    return type(feature).__name__ == "Image" or (isinstance(feature, Mapping) and "bytes" in feature)


def split_rows(given: Mapping[str, Rows], name: str, columns: Columns, shares: Mapping[str, float]) -> Rows:
    """The encoded rows of one split; train gives up the shares of the splits that do not exist."""
    rows = given.get(name, given["train"]).cast_column(columns.image, library().Image(decode=False))
    if (name in given and name != "train") or not any(shares.values()):
        return rows
    return rows.filter(partial(belongs, shares=shares, name=name), input_columns=[columns.image])


def belongs(image: Encoded | None, shares: Mapping[str, float], name: str) -> bool:
    """Whether a training image falls into the split `name` when the shares are taken out."""
    key = (image["bytes"] or Path(image["path"] or "").name.encode()) if image else b""
    return held_out(key, **shares) == name


def load(rows: Rows, decoded: Callable[[Sequence[Row]], Batch], limit: int | None, name: str, place: str) -> Images:
    """A split in memory, or its first `limit` images; those that `decoded` leaves out are listed."""
    try:
        taken = list(islice(rows, limit))
    except (OSError, ValueError) as error:
        raise ValueError(damage(place, error)) from error
    if not taken:
        raise ValueError(f"The {name} split is empty: raise data.{name}, or choose another data set.")
    x, y, bad = decoded(taken)
    tell_bad(bad, len(taken), name)
    if not len(x):
        raise ValueError(f"All {len(taken)} {name} images are unreadable, so none is left to use. {bad[0]}")
    return Images(x, y)


def images(rows: Sequence[Row], columns: Columns, shape: Sequence[int], on_bad: str = "stop") -> Batch:
    """(x, y, bad) of encoded rows; y is None without labels, or where they are hidden (-1)."""
    x, kept, bad = decode_all([row[columns.image] for row in rows], partial(read, shape=shape), shape, on_bad)
    labels = [rows[i][columns.label] if columns.label else None for i in kept]
    hidden = any(label is None or label < 0 for label in labels)
    return Batch(x, None if hidden else torch.tensor(labels, dtype=torch.long), bad)


def read(image: Encoded | None, shape: Sequence[int]) -> np.ndarray:
    """The pixels (C, H, W) of one encoded image."""
    if image is None:
        raise Unreadable("Cannot read an image: a row has none; remove the row.")
    open_image = partial(library().Image().decode_example, image)
    return decode(open_image, shape, image["path"] or "in a row without a path")
