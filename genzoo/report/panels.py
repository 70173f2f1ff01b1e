"""Which curves, fits and bars are drawn, and in which colours: a setting keeps its colour over all panels."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from genzoo.report import figures
from genzoo.report.figures import Fit, Panel, Series
from genzoo.report.runs import curves
from genzoo.report.scores import Estimate
from genzoo.report.table import FLOOR, Group, Row

Curves = list[tuple[Row, dict[str, np.ndarray]]]
BITS = {"val/bits_per_dim": "bits/dim, validation"}


class Bars(NamedTuple):
    """Shares of the classes as SVG paths: bars of the setting, lines of the real images ("" when unknown)."""

    name: str
    bars: str
    levels: str
    alt: str


def panels(group: Group) -> list[Panel]:
    """What all rows share an axis for, the fits of extrapolated scores, then each setting's losses."""
    seen: set[Any] = set()
    found: Curves = []
    for row in group.rows:  # a run scored again has one training
        found += [(row, curves(run)) for run in row.runs if run.folder not in seen]
        seen |= {run.folder for run in row.runs}
    drawn = [*_shared(group, found), *_fits(group), *_losses(group, found)]
    return [panel for panel in drawn if panel]


def _colours(group: Group) -> dict[str, int]:
    return {row.name: i for i, row in enumerate(group.rows)}


def _shared(group: Group, found: Curves) -> Iterator[Panel | None]:
    """Every score, with its floor where that was measured at as many images, and bits/dim."""
    for name in dict.fromkeys(name for _, lines in found for name in lines):
        if name.startswith("score/") or name in BITS:
            title = BITS.get(name, name.removeprefix("score/"))
            seeds = [[lines[name] for other, lines in found if other is row and name in lines] for row in group.rows]
            rows = enumerate(zip(group.rows, seeds, strict=True))
            series = [_over_seeds(row.name, i, every) for i, (row, every) in rows if every]
            yield figures.panel(title, series, level=group.floor.get(title, Estimate()).value)


def _over_seeds(name: str, colour: int, seeds: Sequence[np.ndarray]) -> Series:
    """The mean of the seeds' curves (k, 2), with their lowest and highest as a band, as far as all of them go.

    Seeds judged after other numbers of images are read off their lines at those of the seed with the most points.
    """
    if len(seeds) == 1:
        return Series(name, colour, seeds[0])
    start, end = max(seed[0, 0] for seed in seeds), min(seed[-1, 0] for seed in seeds)
    at = max((seed[:, 0] for seed in seeds), key=len)
    at = at[(at >= start) & (at <= end)]
    values = np.stack([np.interp(at, *seed.T) for seed in seeds])  # (seeds, k)
    band = np.stack([at, values.min(axis=0), values.max(axis=0)], axis=1)
    return Series(name, colour, np.stack([at, values.mean(axis=0)], axis=1), band)


def _fits(group: Group) -> Iterator[Panel | None]:
    """The line behind every extrapolated score."""
    colours = _colours(group)
    for name in group.scores:
        fits = [_fit(row, name, colours[row.name]) for row in group.rows]
        yield figures.fit_panel(f"{name}: its fit", [fit for fit in fits if fit])


def _fit(row: Row, name: str, colour: int) -> Fit | None:
    """The points of all seeds and the mean of their lines, with the worst r²."""
    every = [run.metrics["scores"].get(name, {}).get("fit") or {} for run in row.runs]
    every = [fit for fit in every if fit.get("n") and fit.get("slope") is not None]
    if not every:
        return None
    points = [(1 / n, y) for fit in every for n, y in zip(fit["n"], fit["values"], strict=False)]
    worst = min((fit["r2"] for fit in every if fit.get("r2") is not None), default=None)
    known = f"{row.name}, r² {worst:.2f}" if worst is not None else row.name
    slope = float(np.mean([fit["slope"] for fit in every]))
    return Fit(known, colour, np.array(points, float), slope, row.scores[name].value)


def _losses(group: Group, found: Curves) -> Iterator[Panel | None]:
    """One panel a setting, its seeds together: losses of different families share no axis."""
    for row in group.rows:
        seeds = [lines for other, lines in found if other is row]
        names = sorted({name for lines in seeds for name in lines if "loss" in name})
        series = [Series(name, i, lines[name]) for i, name in enumerate(names) for lines in seeds if name in lines]
        yield figures.panel(f"{row.name}: loss", series, spread=98)


def classes(group: Group) -> list[Bars]:
    """The class shares of real images and of every row that has them, all on one scale."""
    rows = {row.name: _shares([run.metrics["scores"] for run in row.runs]) for row in group.rows}
    data = _shares([group.calibration.get(FLOOR, {})])
    known = {name: shares for name, shares in rows.items() if len(shares)}
    most = max((shares.max() for shares in [*known.values(), data] if len(shares)), default=0)
    if not known or not most > 0:
        return []
    real = {"Real": data} if len(data) else {}
    return [_bars(name, shares, data, most) for name, shares in {**real, **known}.items()]


def _bars(name: str, shares: np.ndarray, data: np.ndarray, most: float) -> Bars:
    beside = figures.levels(data, most) if len(data) == len(shares) and name != "Real" else ""
    least = int(shares.argmin())
    alt = f"{name}: shares of {len(shares)} classes, the least {shares[least]:.1%} of class {least}"
    return Bars(name, figures.bars(shares, most), beside, alt)


def _shares(found: list[dict[str, Any]]) -> np.ndarray:
    """The mean shares over runs (classes,); empty where none were measured."""
    every = [score["shares"] for scores in found for score in scores.values() if score.get("shares")]
    return np.mean(every, axis=0) if every else np.zeros(0)
