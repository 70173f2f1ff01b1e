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


def _seed(name: str, run: Run) -> Picture:
    return _picture(samples(run).get("fake", NONE), f"{name}, seed {run.seed}", summary=f"Seed {run.seed}")
