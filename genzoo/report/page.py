"""The report: finished runs become tables, galleries and curves, and these one page that needs no network."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from genzoo.report import figures, formats, table, units
from genzoo.report.figures import Panel, Series
from genzoo.report.runs import Run, curves, find, samples
from genzoo.report.table import Group, Row

Curves = list[tuple[Row, dict[str, np.ndarray]]]
BITS = {"val/bits_per_dim": "bits/dim, validation"}


@dataclass(frozen=True)
class Tile:
    """Samples as the gallery shows them: an image (data URI) or the dots of points (SVG path), or neither."""

    name: str
    detail: str
    alt: str
    image: str = ""
    dots: str = ""


def write(folders: list[Path], out: Path) -> Path:
    """Writes index.html, table.md, table.csv, samples.png on all runs below the folders into `out`; returns the page.

    Raises FileNotFoundError when there is no such folder or no run in any of them.
    """
    runs = find(folders)
    groups = table.groups(runs)
    rest = [run for run in runs if run.state != "finished"]
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(formats.to_markdown(groups, rest), "utf-8")
    (out / "table.csv").write_text(formats.to_csv(groups), "utf-8")
    (out / "index.html").write_text(_html(groups, rest), "utf-8")
    for images in groups[:1]:
        figures.montage([(name, arrays) for name, _, arrays in _sets(images)]).save(out / "samples.png")
    return out / "index.html"


def _html(groups: list[Group], rest: list[Run]) -> str:
    rows = [row for group in groups for row in group.rows]
    environment = Environment(
        loader=PackageLoader("genzoo.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html").render(
        title=_title(groups),
        studies=_each_once(run.config.get("study") for run in [*(row.run for row in rows), *rest]),
        summary=_summary(groups, rest),
        groups=groups,
        notes=[_table_note(group) for group in groups],
        rest=rest,
        galleries=_galleries(groups),
        panels=[_panels(group) for group in groups],
        columns=[_label(row) for row in rows],
        differences=_differences([row.run for row in rows]),
        versions=_versions(rows),
        table=table,
        figures=figures,
    )


def _each_once(items: Iterable[object]) -> list[str]:
    return list(dict.fromkeys(str(item) for item in items if item is not None))


def _listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _label(row: Row) -> str:
    return f"{row.name}, seed {row.run.seed}"


def _title(groups: list[Group]) -> str:
    """VAE, GAN and DDPM on digits."""
    families = _each_once(row.run.family for group in groups for row in group.rows)
    data = _each_once(group.protocol.get("dataset") for group in groups)
    return f"{_listed(families)} on {_listed(data)}" if groups else "No finished run yet"


def _summary(groups: list[Group], rest: list[Run]) -> list[str]:
    """What was compared, and what came out of it; then how many runs are not in the tables."""
    runs = [row.run for group in groups for row in group.rows]
    seen = _each_once(units.integer(run.metrics["cost"].get("images_seen")) for run in runs)
    trained = f"trained on {seen[0]} images each" if len(seen) == 1 else "trained on unequal numbers of images"
    sentences = (
        [f"{_counted(len({run.folder for run in runs}), 'run')}, {trained}. {_best(groups[0])}"] if groups else []
    )
    if len(groups) > 1:
        apart = f"They were scored under {len(groups)} protocols and are ranked within each; the sentence above"
        sentences.append(f"{apart} is about the first.")
    if rest:
        sentences.append(f"{_counted(len(rest), 'run')} without scores: see the end of the page.")
    return sentences


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _best(group: Group) -> str:
    """The first row in a sentence, beside the floor; "" when there is no second row to compare it with."""
    if len([row for row in group.rows if row.rank]) < 2:
        return ""
    name, first = group.scores[0], group.rows[0]
    text, floor = (table.score_cells(group, s)[0].text for s in (first.run.metrics["scores"], group.floor))
    most = "highest" if table.higher_is_better(name) else "lowest"
    beside = f" (real images against real images: {floor})" if name in group.floor else ""
    return f"{first.name} reached the {most} {name}, {text}{beside}."


def _table_note(group: Group) -> str:
    """How to read the table: the order, what it does not know, and where the times were taken."""
    devices = _each_once(row.run.metrics["cost"].get("device") for row in group.rows)
    scores = [score for row in group.rows for score in row.run.metrics["scores"].values()]
    parts = [f"Ranked by {group.scores[0]}." if group.scores else "No scores."]
    if not any("std" in score or "ci95" in score for score in scores):
        parts.append("Each row is one run without an error bar, so close values are not yet an order.")
    if group.calibration:
        parts.append("In italics, real and spoilt images scored like a generator.")
    return " ".join([*parts, f"Times on {_listed(devices)}." if devices else ""])


def _versions(rows: list[Row]) -> list[tuple[list[str], str]]:
    """(rows, "genzoo 0.1, torch 2.11") for each different set of package versions."""
    found: dict[str, list[str]] = {}
    for row in rows:
        versions = row.run.provenance.get("versions") or {}
        text = ", ".join(f"{name} {version}" for name, version in versions.items()) or "versions unknown"
        found.setdefault(text, []).append(_label(row))
    return [(names, text) for text, names in found.items()]


def _galleries(groups: list[Group]) -> list[list[Tile]]:
    """Per group: real images, then every row's samples; as many images each as the page can carry."""
    tiles = [(g, name, *found) for g, group in enumerate(groups) for name, *found in _sets(group)]
    pictures = [images for *_, images in tiles if images.size and not figures.is_points(images)]
    grids, side = figures.fitting(pictures)
    left = iter(grids)
    galleries: list[list[Tile]] = [[] for _ in groups]
    for g, name, detail, images in tiles:
        if figures.is_points(images):
            tile = Tile(name, detail, f"{len(images)} points: {name}, {detail}", dots=figures.dots(images))
        elif images.size:
            tile = Tile(name, detail, f"{min(len(images), side**2)} images: {name}, {detail}", image=next(left))
        else:
            tile = Tile(name, detail, f"No readable samples: {name}, {detail}")
        galleries[g].append(tile)
    return galleries


def _sets(group: Group) -> list[tuple[str, str, np.ndarray]]:
    """(name, detail, images) for the gallery; an empty array where a run's samples cannot be read."""
    found = [(row, samples(row.run)) for row in group.rows]
    none = np.zeros((0, 1, 1, 1), np.uint8)
    real = next((arrays["real"] for _, arrays in found if arrays), none)
    rows = [(row.name, _drawn(row), arrays.get("fake", none)) for row, arrays in found]
    return [("Real", str(group.protocol.get("dataset")), real), *rows]


def _drawn(row: Row) -> str:
    """The seed of a row and how its samples were drawn."""
    return ": ".join(filter(None, [f"seed {row.run.seed}", str(row.run.provenance.get("sampling") or "")]))


def _panels(group: Group) -> list[Panel]:
    """What all rows share an axis for, then each setting's losses."""
    trained = {row.run.folder: row for row in group.rows}  # a run scored again has one training
    found = [(row, curves(row.run)) for row in group.rows if trained[row.run.folder] is row]
    panels = [*_shared_panels(group, found), *_loss_panels(group, found)]
    return [panel for panel in panels if panel]


def _shared_panels(group: Group, found: Curves) -> Iterator[Panel | None]:
    """Every score, with its floor where that was measured at as many images, and bits/dim."""
    colours = {name: i for i, name in enumerate(group.names())}
    for name in dict.fromkeys(name for _, lines in found for name in lines):
        if name.startswith("score/") or name in BITS:
            title = BITS.get(name, name.removeprefix("score/"))
            series = [Series(row.name, colours[row.name], lines[name]) for row, lines in found if name in lines]
            yield figures.panel(title, series, level=table.value(group.floor, title))


def _loss_panels(group: Group, found: Curves) -> Iterator[Panel | None]:
    """One panel a setting, its seeds together: losses of different families share no axis."""
    for name in group.names():
        seeds = [lines for row, lines in found if row.name == name]
        losses = sorted({loss for lines in seeds for loss in lines if "loss" in loss})
        series = [Series(loss, i, lines[loss]) for i, loss in enumerate(losses) for lines in seeds if loss in lines]
        yield figures.panel(f"{name}: loss", series, spread=98)


def _differences(runs: list[Run]) -> list[tuple[str, list[str]]]:
    """(key, a value a run) for each configuration key on which the runs do not agree."""
    flat = [dict(_flat(run.config)) for run in runs]
    keys = dict.fromkeys(key for config in flat for key in config)
    rows = [(key, [str(config.get(key, units.MISSING)) for config in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flat(config: dict[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """Nested mappings as dotted keys."""
    flat: list[tuple[str, Any]] = []
    for key, item in config.items():
        flat += _flat(item, f"{above}{key}.") if isinstance(item, dict) and item else [(f"{above}{key}", item)]
    return flat
