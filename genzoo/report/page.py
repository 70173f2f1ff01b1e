"""The report: finished runs become tables, galleries and curves, and these one page that needs no network."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from genzoo.report import figures, formats, notes, pictures, scale, settings, sheets, table, units
from genzoo.report.gallery import fakes, galleries, real
from genzoo.report.panels import classes, panels
from genzoo.report.runs import Run, find
from genzoo.report.table import Group, Row


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
    for group in groups[:1]:
        sets = [("Real", real(group)), *((row.name, fakes(row)) for row in group.rows)]
        pictures.montage(sets).save(out / "samples.png")
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
    tiles, side = galleries(groups)
    return environment.get_template("template.html").render(
        title=notes.title(groups),
        studies=notes.each_once(run.config.get("study") for run in [*_runs(rows), *rest]),
        summary=notes.summary(groups, rest),
        groups=groups,
        rest=rest,
        galleries=tiles,
        side=side,
        panels=[panels(group) for group in groups],
        classes=[classes(group) for group in groups],
        sure=any(map(sheets.order_note, groups)),
        likely=any(map(sheets.likelihood_sheet, groups)),
        columns=[row.name for row in rows],
        differences=_differences(rows),
        versions=_versions(rows),
        table=table,
        sheets=sheets,
        scale=scale,
        notes=notes,
        figures=figures,
    )


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
