"""The gallery: samples of every setting at equal size beside real images, and folded below what to compare with."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from genzoo.report import pictures, units
from genzoo.report.pictures import Drawing
from genzoo.report.runs import Run, samples
from genzoo.report.table import Group, Row

NEAREST = "Nearest training images"
NEAREST_NOTE = "Each sample above the training image nearest to it in feature space: a copy shows as a twin."
CLOSEST = " The closest pairs come first."
RECONSTRUCTIONS = "Reconstructions"
RECONSTRUCTIONS_NOTE = (
    "Each held-out image above what the model makes of its code: what is lost, the code did not hold."
)
STRIPS = {  # arrays of rows: the summary of the fold, the sentence in it
    "interpolation": (
        "Interpolations",
        "Each row goes from one latent to another: smooth and always an image where the model has learnt more than its "
        "training images.",
    ),
    "trajectory": (
        "From noise to image",
        "Each row is one sample in the making: the model's guess of the final image (x̂₀) at some of the steps, the "
        "first at the left.",
    ),
}
NONE = np.zeros((0, 1, 1, 1), np.uint8)


@dataclass(frozen=True)
class Picture:
    """Images, or the dots of points (SVG path), or neither; summary and note: of the fold it is shown in."""

    alt: str
    draw: Drawing | None = None
    dots: str = ""
    summary: str = ""
    note: str = ""


@dataclass(frozen=True)
class Tile:
    """A setting in the gallery: its first seed's samples, and in folds its neighbours and its other seeds."""

    name: str
    detail: str
    picture: Picture
    folds: list[Picture]


def galleries(groups: list[Group]) -> tuple[list[list[Tile]], int]:
    """Per group real images, then every row's samples; and how many images a side the page can carry."""
    tiles = [[_real(group), *map(_tile, group.rows)] for group in groups]
    every = [picture for group in tiles for tile in group for picture in (tile.picture, *tile.folds)]
    return tiles, pictures.fitting([picture.draw for picture in every if picture.draw])


def _real(group: Group) -> Tile:
    dataset = str(group.protocol.get("dataset"))
    return Tile("Real", dataset, _picture(real(group), f"real, {dataset}"), [])


def real(group: Group) -> np.ndarray:
    """Real images (k, C, H, W) as the first readable run kept them."""
    return next((found["real"] for found in map(samples, group.runs) if found), NONE)


def fakes(row: Row) -> np.ndarray:
    """Samples (k, C, H, W) of the row's first seed; empty when they cannot be read."""
    return samples(row.runs[0]).get("fake", NONE)


def _tile(row: Row) -> Tile:
    first = row.runs[0]
    found = samples(first)
    folds = [_nearest(row.name, found)] if "nearest" in found and not pictures.is_points(found["fake"]) else []
    folds += _reconstructions(row.name, found) + _strips(row.name, found)
    folds += [_seed(row.name, run) for run in row.runs[1:]]
    return Tile(row.name, _drawn(first), _picture(found.get("fake", NONE), f"{row.name}, {_drawn(first)}"), folds)


def _drawn(run: Run) -> str:
    """The seed of a run and how its samples were drawn."""
    return ": ".join(filter(None, [f"seed {run.seed}", str(run.provenance.get("sampling") or "")]))


def _picture(images: np.ndarray, alt: str, summary: str = "") -> Picture:
    if not images.size:
        return Picture(f"No readable samples: {alt}", summary=summary)
    if pictures.is_points(images):
        return Picture(f"{units.counted(len(images), 'point')}: {alt}", dots=pictures.dots(images), summary=summary)
    return Picture(f"Images: {alt}", partial(pictures.grid, images), summary=summary)


def _nearest(name: str, found: dict[str, np.ndarray]) -> Picture:
    distance = found.get("distance")
    note = NEAREST_NOTE + ("" if distance is None else CLOSEST)
    draw = partial(pictures.pairs, found["fake"], found["nearest"], distance)
    return Picture(f"Images: {name}, each above its nearest training image", draw, summary=NEAREST, note=note)


def _reconstructions(name: str, found: dict[str, np.ndarray]) -> list[Picture]:
    """Real images above their reconstructions, as many as there are of both."""
    real, again = found.get("real", NONE), found.get("reconstruction", NONE)
    k = min(len(real), len(again))
    if not k or real.shape[1:] != again.shape[1:] or pictures.is_points(real):
        return []
    draw = partial(pictures.pairs, real[:k], again[:k], None)
    alt = f"Images: real, each above its reconstruction by {name}"
    return [Picture(alt, draw, summary=RECONSTRUCTIONS, note=RECONSTRUCTIONS_NOTE)]


def _strips(name: str, found: dict[str, np.ndarray]) -> list[Picture]:
    kept = {key: found[key] for key in STRIPS if key in found and found[key].shape[2:] != (2, 1, 1)}
    return [
        Picture(f"{name}: rows of images, {key}", partial(pictures.strips, images), summary=summary, note=note)
        for key, images in kept.items()
        for summary, note in [STRIPS[key]]
    ]


def _seed(name: str, run: Run) -> Picture:
    return _picture(samples(run).get("fake", NONE), f"{name}, seed {run.seed}", summary=f"Seed {run.seed}")
