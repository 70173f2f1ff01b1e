"""The gallery: samples of every setting at equal size beside real images, and folded below what to compare with."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from genzoo.report import calls, notes, pictures, units
from genzoo.report.calls import Track
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
    "asked": (
        "What was asked for",
        "Each row is one held-out image, the map that was made of it where the model is told one, and samples of what "
        "the data says of it: its boxes, its caption or its map.",
    ),
}
CLASSES = "One class a row"
CLASSES_NOTE = "Each row is samples of one class, asked for by its label, in the order of the classes."
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
    """A setting in the gallery: its first seed's samples, and in folds its neighbours and its other seeds.

    again: in one further fold, a picture for each other sampler.
    """

    name: str
    detail: str
    picture: Picture
    folds: list[Picture]
    again: list[Picture]


def galleries(groups: list[Group]) -> tuple[list[list[Tile]], int]:
    """Per group real images, then every row's samples; and how many images a side the page can carry."""
    tiles = [[_real(group), *_tiles(group)] for group in groups]
    every = [picture for group in tiles for tile in group for picture in (tile.picture, *tile.folds, *tile.again)]
    return tiles, pictures.fitting([picture.draw for picture in every if picture.draw])


def _real(group: Group) -> Tile:
    dataset = str(group.protocol.get("dataset"))
    return Tile("Real", dataset, _picture(real(group), f"real, {dataset}"), [], [])


def real(group: Group) -> np.ndarray:
    """Real images (k, C, H, W) as the first readable run kept them."""
    return next((found["real"] for found in map(samples, group.runs) if found), NONE)


def fakes(row: Row) -> np.ndarray:
    """Samples (k, C, H, W) of the row's first seed; empty when they cannot be read."""
    return samples(row.runs[0]).get("fake", NONE)


def _tiles(group: Group) -> list[Tile]:
    tracks = calls.tracks(group)
    return [_tile(row, [track for track in tracks if track.training == row.training]) for row in group.rows]


def _tile(row: Row, tracks: list[Track]) -> Tile:
    first = row.runs[0]
    found = samples(first)
    folds = [_nearest(row.name, found)] if "nearest" in found and not pictures.is_points(found["fake"]) else []
    folds += _reconstructions(row.name, found) + _strips(row.name, found) + _classes(row.name, found)
    folds += [_seed(row.name, run) for run in row.runs[1:]]
    picture = _picture(found.get("fake", NONE), f"{row.name}, {_drawn(first)}")
    again = [picture for track in tracks for picture in _again(track)]
    return Tile(row.name, _drawn(first), picture, folds, again)


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


def _classes(name: str, found: dict[str, np.ndarray]) -> list[Picture]:
    """All classes (classes, samples, C, H, W), however few columns the page can carry."""
    images = found.get("classes", NONE)
    if not images.size or images.shape[2:] == (2, 1, 1):
        return []
    draw = partial(pictures.strips, images, rows=len(images))
    return [Picture(f"{name}: images, one class a row", draw, summary=CLASSES, note=CLASSES_NOTE)]


def _again(track: Track) -> list[Picture]:
    """The first samples of each record of a track, one below the other; [] for points and what cannot be read."""
    found = [(n, samples(row.runs[0]).get("fake", NONE)) for n, row in track.records]
    shown = [(n, images) for n, images in found if images.size and not pictures.is_points(images)]
    if not shown:
        return []
    k = min(8, *(len(images) for _, images in shown))
    images = np.stack([images[:k] for _, images in shown])  # (records, k, C, H, W)
    steps = notes.listed([str(n) for n, _ in shown if n])
    summary = track.words + (f": {steps} steps" if steps else "")
    return [Picture(f"Images: {track.name}", partial(pictures.strips, images, rows=len(images)), summary=summary)]


def _seed(name: str, run: Run) -> Picture:
    return _picture(samples(run).get("fake", NONE), f"{name}, seed {run.seed}", summary=f"Seed {run.seed}")
