"""A study's folder says in study.json what was asked; beside it lie the runs: the state of every cell of the grid."""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from genzoo.report import units
from genzoo.report.runs import Run, read

log = logging.getLogger(__name__)

STATES = ("finished", "running", "unfinished", "failed", "unreadable", "not started")
FIELDS = {"name": str, "question": str, "budget": dict, "command": str, "cells": list}


class NoStudyError(ValueError):
    """A study.json of another form."""


class Cell(NamedTuple):
    """One run that was asked for: what tells it from the others, and the run as it is now."""

    overrides: list[str]
    run: Run


class Study(NamedTuple):
    """What study.json asks. budget: as configured, {"images": 80000}; command: that starts or continues it."""

    folder: Path
    name: str
    question: str
    budget: dict[str, Any]
    command: str
    cells: list[Cell]


def find(folders: Sequence[Path]) -> list[Study]:
    """The studies at the folders or right below them, each once; one that cannot be read is logged and left out."""
    paths = [
        path for top in folders for pattern in ("study.json", "*/study.json") for path in sorted(top.glob(pattern))
    ]
    found: dict[Path, Study] = {}
    for path in paths:
        try:
            found.setdefault(path.resolve(), study(path.parent))
        except NoStudyError as error:
            log.warning("%s", error)
    return list(found.values())


def study(folder: Path) -> Study:
    """Reads study.json and the state of every cell.

    Raises FileNotFoundError when there is none, NoStudyError when it is not of the form {"name", "question", "budget",
    "command", "cells": [{"folder", "overrides"}, ...]}.
    """
    path = folder / "study.json"
    if not path.is_file():
        start = "give the folder of a study, or its name, that `python -m genzoo.run -m +study=NAME` has begun."
        raise FileNotFoundError(f"{path} does not exist: {start}")
    try:
        asked = json.loads(path.read_text("utf-8"))
        whole = all(isinstance(asked[key], kind) for key, kind in FIELDS.items())
        cells = [
            Cell([str(o) for o in cell["overrides"]], _run(folder, str(cell["folder"]))) for cell in asked["cells"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NoStudyError(f"{path} is not what genzoo.run writes ({error}): start the study again.") from error
    if not whole:
        raise NoStudyError(f"{path} is not what genzoo.run writes ({', '.join(FIELDS)}): start the study again.")
    return Study(folder, asked["name"], asked["question"], asked["budget"], asked["command"], cells)


def _run(folder: Path, cell: str) -> Run:
    return read(folder / cell, Path(folder.resolve().name, cell).as_posix())


def not_begun(studies: Sequence[Study], known: Sequence[Run]) -> list[Run]:
    """Cells without a run among those known: not started, or failed before they had a config.yaml."""
    places = {run.folder.resolve() for run in known}
    return [cell.run for each in studies for cell in each.cells if cell.run.folder.resolve() not in places]


def budget_in_words(study: Study) -> str:
    """80,000 images a run; "" where the study names none."""
    found = {kind: amount for kind, amount in study.budget.items() if isinstance(amount, (int, float)) and amount}
    kind = next((kind for kind in ("minutes", "flops", "images") if kind in found), None)
    return f"{found[kind]:,.10g} {kind.replace('flops', 'FLOPs')} a run" if kind else ""


def tally(study: Study) -> str:
    """12 cells: 10 finished, 1 running, 1 not started."""
    states = Counter(cell.run.state for cell in study.cells)
    each = ", ".join(f"{states[state]} {state}" for state in STATES if states[state])
    return f"{units.counted(len(study.cells), 'cell')}: {each}"


def grid(study: Study) -> list[list[str]]:
    """A table of states: a line a setting, a column a seed; "" where the grid has no such cell."""
    seeds = list(dict.fromkeys(_split(cell)[1] for cell in study.cells))
    states: dict[str, dict[str, str]] = {}
    for cell in study.cells:
        setting, seed = _split(cell)
        states.setdefault(setting, {})[seed] = cell.run.state
    return [["", *seeds], *([setting, *(found.get(seed, "") for seed in seeds)] for setting, found in states.items())]


def _split(cell: Cell) -> tuple[str, str]:
    """The overrides but for the seed's; the seed's."""
    seeds = [override for override in cell.overrides if override.startswith("seed=")]
    return " ".join(o for o in cell.overrides if o not in seeds), " ".join(seeds)


def status(study: Study) -> str:
    """The grid, the tally, why cells failed, and how to go on; for a terminal."""
    table = grid(study)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in table]
    lost = [f"{' '.join(c.overrides)}: {_reason(c.run)}" for c in study.cells if c.run.note]
    going = [] if is_finished(study) else [f"To continue: {study.command}"]
    return "\n".join([study.name, study.question, "", *lines, "", f"{tally(study)}.", *lost, *going])


def _reason(run: Run) -> str:
    """The error at the end of a traceback, which may be long before that."""
    return f"{run.note.splitlines()[-1]} ({run.place})"


def is_finished(study: Study) -> bool:
    return all(cell.run.state == "finished" for cell in study.cells)
