"""The table as files: table.csv with every digit, table.md as people paste it."""

import csv
import html
import io
from collections.abc import Sequence
from typing import Any

from genzoo.report.runs import Run
from genzoo.report.table import COSTS, Group, Row, cells, header, in_words, score_cells


def to_csv(tables: Sequence[Group]) -> str:
    """All groups in one table, unrounded, times in seconds; kind is "run" or "calibration"."""
    scores = list(dict.fromkeys(name for group in tables for name in group.scores))
    costs = list(dict.fromkeys(key for g in tables for row in g.rows for key in row.run.metrics["cost"]))
    lead = ["protocol_id", "kind", "rank", "run", "family", "seed"]
    columns = [*lead, *_score_columns(scores), *costs, "place"]
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for group in tables:
        writer.writerows(_csv_row(group, row) for row in group.rows)
        for name, found in group.calibration.items():
            given = {"protocol_id": group.protocol_id, "kind": "calibration", "run": name}
            writer.writerow(given | _csv_scores(found))
    return out.getvalue()


def _score_columns(scores: list[str]) -> list[str]:
    return [name + part for name in scores for part in ("", " std", " n")]


def _csv_scores(scores: dict[str, Any]) -> dict[str, Any]:
    parts = (("", "value"), (" std", "std"), (" n", "n"))
    return {name + end: score.get(key) for name, score in scores.items() for end, key in parts}


def _csv_row(group: Group, row: Row) -> dict[str, Any]:
    run = row.run
    lead = {"protocol_id": group.protocol_id, "kind": "run", "rank": row.rank, "run": row.name}
    return (
        lead
        | {"family": run.family, "seed": run.seed, "place": run.place}
        | _csv_scores(run.metrics["scores"])
        | run.metrics["cost"]
    )


def to_markdown(tables: Sequence[Group], rest: Sequence[Run] = ()) -> str:
    """One table a group, its calibration rows last; below them the runs without scores."""
    parts = [_markdown(group, i) for i, group in enumerate(tables, 1)]
    if rest:
        parts.append("Without scores:\n\n" + "\n".join(f"- {_plain(run.place)}: {run.state}" for run in rest))
    return "\n\n".join(parts) + "\n"


def _markdown(group: Group, number: int) -> str:
    head = header(group)
    lines = [head, ["---"] + [":---"] + ["---:"] * (len(head) - 2)]
    for row in group.rows:
        lines.append([f"**{_plain(c.text)}**" if c.best else _plain(c.text) for c in cells(group, row)])
    for name, scores in group.calibration.items():
        found = ["", f"*{_plain(name)}*", "", *(_plain(c.text) for c in score_cells(group, scores))]
        lines.append(found + [""] * len(COSTS))
    words = f"Protocol {number} ({_plain(group.protocol_id)}): {_plain(in_words(group))}"
    if group.why:
        words += f" Not ranked with protocol 1: {_plain(group.why)}."
    return words + "\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: no HTML, no cell border, no line break."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|").replace("*", "\\*")
