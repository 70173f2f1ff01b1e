"""The report: finished runs become tables, galleries and curves, and these one page that needs no network."""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from types import ModuleType

from jinja2 import Environment, PackageLoader, StrictUndefined

from genzoo.files import write_bytes, write_whole
from genzoo.report import (
    calls,
    drawing,
    figures,
    files,
    formats,
    latex,
    notes,
    palette,
    pictures,
    protocol,
    scale,
    scores,
    settings,
    sheets,
    study,
    table,
    tradeoffs,
    units,
)
from genzoo.report.figures import Panel
from genzoo.report.gallery import fakes, galleries, real
from genzoo.report.panels import classes, panels
from genzoo.report.runs import Run, find
from genzoo.report.table import Group, Row


def write(folders: list[Path], out: Path) -> Path:
    """Writes the report on all runs below the folders into `out`; returns its page.

    index.html, table.md, table.csv, table.tex, samples.png, and in figures/ every figure as SVG and PDF.
    Raises FileNotFoundError when there is no such folder or no run in any of them.
    """
    runs = find(folders)
    studies = study.find(folders)
    groups = table.groups(runs)
    rest = [run for run in [*runs, *study.not_begun(studies, runs)] if run.state != "finished"]
    write_bytes(out / "table.md", formats.to_markdown(groups, rest).encode())
    write_bytes(out / "table.csv", formats.to_csv(groups).encode())
    write_bytes(out / "table.tex", latex.to_latex(groups).encode())
    environment, drawn = _environment(), [_drawn(group) for group in groups]
    files.save([[*steps, *costs, *curves] for steps, costs, curves in drawn], out / "figures", environment)
    write_bytes(out / "index.html", _html(environment, groups, rest, studies, drawn).encode())
    for group in groups[:1]:
        sets = [("Real", real(group)), *((row.name, fakes(row)) for row in group.rows)]
        write_whole(out / "samples.png", partial(pictures.montage(sets).save, format="PNG"))
    return out / "index.html"


def _drawn(group: Group) -> tuple[list[Panel], list[Panel], list[Panel]]:
    """The figures: quality against network calls, if any; quality against cost; curves."""
    return [panel for panel in [calls.panel(group)] if panel], tradeoffs.panels(group), panels(group)


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("genzoo.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _html(
    environment: Environment,
    groups: list[Group],
    rest: list[Run],
    studies: list[study.Study],
    drawn: list[tuple[list[Panel], list[Panel], list[Panel]]],
) -> str:
    rows = [row for group in groups for row in group.rows]
    tiles, side = galleries(groups)
    script = resources.files("genzoo.report").joinpath("sort.js").read_text("utf-8")
    return environment.get_template("template.html").render(
        title=notes.title(groups),
        studies=notes.each_once(run.config.get("study") for run in [*_runs(rows), *rest]),
        asked=studies,
        summary=notes.summary(groups, rest),
        groups=groups,
        rest=rest,
        galleries=tiles,
        side=side,
        steps=[found for found, _, _ in drawn],
        costs=[found for _, found, _ in drawn],
        panels=[found for _, _, found in drawn],
        classes=[classes(group) for group in groups],
        sure=any(map(sheets.order_note, groups)),
        likely=any(map(sheets.likelihood_sheet, groups)),
        columns=[row.name for row in rows],
        differences=_differences(rows),
        versions=_versions(rows),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **_rooms(),
    )


def _rooms() -> dict[str, ModuleType]:
    """The modules whose functions the template calls, each by its own name."""
    rooms = (calls, drawing, figures, files, notes, palette, protocol, scale, scores, sheets, study, table, tradeoffs)
    rooms = (*rooms, units)
    return {room.__name__.rpartition(".")[2]: room for room in rooms}


def _runs(rows: Iterable[Row]) -> list[Run]:
    return [run for row in rows for run in row.runs]


def _versions(rows: Sequence[Row]) -> list[tuple[list[str], str]]:
    """(runs, "genzoo 0.1, torch 2.11") for each different set of package versions."""
    found: dict[str, list[str]] = {}
    for row, run in ((each, run) for each in rows for run in each.runs):
        versions = run.provenance.get("versions") or {}
        text = ", ".join(f"{name} {version}" for name, version in versions.items()) or "versions unknown"
        found.setdefault(text, []).append(f"{row.name}, seed {run.seed}")
    return [(names, text) for text, names in found.items()]


def _differences(rows: Sequence[Row]) -> list[tuple[str, list[str]]]:
    """(key, a value a row) for each configuration key, seeds and places aside, on which the rows do not agree."""
    flat = [settings.essence(row.runs[0].config) for row in rows]
    keys = dict.fromkeys(key for config in flat for key in config)
    found = [(key, [str(config.get(key, units.MISSING)) for config in flat]) for key in keys]
    return [(key, values) for key, values in found if len(set(values)) > 1]
