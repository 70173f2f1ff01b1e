"""The tables as files: table.csv with every digit and every run, table.md as people paste it."""

import csv
import html
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from genzoo.report import calls, notes, protocol, sheets
from genzoo.report.runs import Run
from genzoo.report.scores import Estimate, estimate
from genzoo.report.table import Cell, Group, Row, Sheet, score_sheet

PARTS = {"": "value", " low": "low", " high": "high", " std": "std", " n": "n"}  # of each score's columns


def to_csv(tables: Sequence[Group]) -> str:
    """All groups in one table, unrounded, times in seconds; low and high are the ends of 95% intervals.

    kind "setting" is a row of the report: means over its seeds, std over them; for 1 seed low and high are of
    sampling noise. kind "run" is one of its runs, kind "calibration" a calibration row. "setting again" and "run again"
    are the same of runs that were sampled in another way, which have no rank; sampling: in words.
    """
    scores = list(dict.fromkeys(name for group in tables for name in group.scores))
    rows = [row for group in tables for row in [*group.rows, *group.again]]
    costs = list(dict.fromkeys(key for row in rows for run in row.runs for key in run.metrics["cost"]))
    lead = ["protocol_id", "kind", "rank", "run", "family", "sampling", "seeds", "seed"]
    budget = [f"budget_{key}" for key in ("kind", "asked", "spent", "reached")]
    columns = [*lead, *(name + part for name in scores for part in PARTS), *costs, *budget, "place"]
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for group in tables:
        lines = [line for row in group.rows for line in _row_lines(row)]
        lines += [line | {"kind": f"{line['kind']} again"} for row in group.again for line in _row_lines(row)]
        writer.writerows({"protocol_id": group.protocol_id, **line} for line in lines)
        for name, found in group.calibration.items():
            given = {"protocol_id": group.protocol_id, "kind": "calibration", "run": name}
            writer.writerow(given | _entries(found))
    return out.getvalue()


def _row_lines(row: Row) -> list[dict[str, Any]]:
    """The setting, then each of its runs."""
    lead = {"run": row.name, "family": row.family, "sampling": row.runs[0].provenance.get("sampling")}
    costs = {key: row.cost(key) for run in row.runs for key in run.metrics["cost"]}
    whole = {"kind": "setting", "rank": row.rank, "seeds": len(row.runs), **_setting_scores(row), **costs}
    runs = [
        {"kind": "run", "seed": run.seed, "place": run.place}
        | _entries(run.metrics["scores"])
        | run.metrics["cost"]
        | {f"budget_{key}": item for key, item in run.metrics.get("budget", {}).items()}
        for run in row.runs
    ]
    return [lead | line for line in (whole, *runs)]


def _setting_scores(row: Row) -> dict[str, Any]:
    """Every score's mean over the runs that have it, its interval, the std over these runs, and images a run."""
    found: dict[str, Any] = {}
    for name in row.scores:
        entries = [run.metrics["scores"][name] for run in row.runs if name in run.metrics["scores"]]
        values = [float(entry["value"]) for entry in entries]
        std = float(np.std(values, ddof=1)) if len(values) > 1 else None
        found |= _columns(name, row.scores[name], std, entries[0].get("n") if entries else None)
    return found


def _entries(scores: dict[str, Any]) -> dict[str, Any]:
    """One run's scores as they were measured."""
    found: dict[str, Any] = {}
    for name, entry in scores.items():
        found |= _columns(name, estimate([entry]), entry.get("std"), entry.get("n"))
    return found


def _columns(name: str, found: Estimate, std: object, n: object) -> dict[str, Any]:
    value = found.value if found.runs else None
    low, high = (None if math.isnan(end) else end for end in (found.low, found.high))
    return dict(zip((name + part for part in PARTS), (value, low, high, std, n), strict=True))


def to_markdown(tables: Sequence[Group], rest: Sequence[Run] = ()) -> str:
    """A group's tables with their notes, calibration rows last; below all groups the runs without scores."""
    parts = [_markdown(group, i) for i, group in enumerate(tables, 1)]
    if rest:
        parts.append("Without scores:\n\n" + "\n".join(f"- {_plain(run.place)}: {run.state}" for run in rest))
    return "\n\n".join(parts) + "\n"


def _markdown(group: Group, number: int) -> str:
    words = f"Protocol {number} ({_plain(group.protocol_id)}): {_plain(protocol.in_words(group.protocol))}"
    if group.why:
        words += f" Not ranked with protocol 1: {_plain(group.why)}."
    parts = [words, _lines(score_sheet(group)), _plain(notes.of_scores(group))]
    order, likelihood = sheets.order_sheet(group), sheets.likelihood_sheet(group)
    sampled = calls.sheet(group)
    parts += ["Quality against network calls:", _lines(sampled), _plain(calls.note(group))] if sampled else []
    parts += ["How sure is the order?", _lines(order)] if order else []
    parts += [_plain(sheets.order_note(group))]
    parts += ["Likelihood of held-out images:", _lines(likelihood)] if likelihood else []
    parts += ["Cost:", _lines(sheets.cost_sheet(group)), _plain(notes.of_costs(group))]
    return "\n\n".join(filter(None, parts))


def _lines(sheet: Sheet) -> str:
    """A table in Markdown, all columns but that of the names to the right; rows set apart in italics."""
    aligned = [":---" if head in sheets.WORDS else "---:" for head in sheet.head]
    body = [[_cell(cell) for cell in line] for line in sheet.body]
    foot = [[line[0].text, f"*{_cell(line[1])}*", *map(_cell, line[2:])] for line in sheet.foot]
    return "\n".join(f"| {' | '.join(line)} |" for line in [list(map(_plain, sheet.head)), aligned, *body, *foot])


def _cell(cell: Cell) -> str:
    text = _plain(f"{cell.text} {cell.detail}".strip())
    return f"**{text}**" if cell.best else text


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: no HTML, no cell border, no line break."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|").replace("*", "\\*")
