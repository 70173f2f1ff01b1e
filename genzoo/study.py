"""A study: experiments/<name>/study.yaml names a question, a grid of runs and a budget; one command answers it."""

import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from genzoo import report
from genzoo.command import DEBUG, conf_folder, folder_name
from genzoo.provenance import command_line
from genzoo.runs import write_json
from genzoo.suggest import did_you_mean, one_line

OPTION = "+study="
NAMELESS = ("seed", "study", "logger", "logger.wandb.artifact")  # conf/hydra/genzoo.yaml: no part of a folder's name


class Study(NamedTuple):
    """name: of the folder in experiments/ and in outputs/; settings: of its study.yaml; typed: the command line's
    arguments; arguments: the same for Hydra.

    The grid of study.yaml gives each key its list of values; a key on the command line takes the place of the grid's.
    """

    name: str
    settings: dict[str, Any]
    typed: list[str]
    arguments: list[str]

    @property
    def folder(self) -> Path:
        return Path("outputs", self.name)

    def cells(self) -> list[dict[str, Any]]:
        """Every run of the grid: its folder in the study's, as conf/hydra/genzoo.yaml names it, and its overrides."""
        keys, values = zip(*(a.split("=", 1) for a in self.arguments if is_override(a)), strict=True)
        choices = [[value] if value.startswith(("[", "'", '"')) else value.split(",") for value in values]
        return [self.cell([f"{k}={v}" for k, v in zip(keys, chosen, strict=True)]) for chosen in product(*choices)]

    def cell(self, overrides: Sequence[str]) -> dict[str, Any]:
        own = [o for o in overrides if o.partition("=")[0] not in ("study", f"+{self.name}")]
        seed = next((o for o in own if o.startswith("seed=")), "seed=0")
        named = ",".join(sorted(o for o in own if o.partition("=")[0] not in NAMELESS))
        return {"folder": f"{folder_name(named)}/{seed}", "overrides": own}

    def plan(self) -> None:
        """Write study.json, by which the report knows what there should be."""
        given = dict(a.split("=", 1) for a in self.typed if a.startswith("budget."))
        budget = {**self.settings.get("budget", {}), **{k.removeprefix("budget."): v for k, v in given.items()}}
        content = {
            "name": self.name,
            "question": self.settings.get("question", ""),
            "budget": budget,
            "command": command_line("genzoo.run", self.typed),
            "cells": self.cells(),
        }
        write_json(self.folder / "study.json", content)

    def report(self) -> None:
        """The report on the cells that are finished, in outputs/<name>/report."""
        try:
            print(report.write([self.folder], self.folder / "report"))
        except FileNotFoundError as error:  # not a single run has begun
            print(f"genzoo: {error}", file=sys.stderr)


def as_typed(overrides: Sequence[str]) -> list[str]:
    """The overrides of a cell as one types them to repeat it: +study=NAME for what `asked` made of that."""
    name = next((o.removeprefix("study=") for o in overrides if o.startswith("study=")), None)
    mark = f"+{name}=study"
    if mark not in overrides:
        return list(overrides)
    return ["-m", OPTION + name, *(o for o in overrides if o not in (mark, f"study={name}"))]


def is_override(argument: str) -> bool:
    """key=value, neither an option nor a setting of Hydra's own."""
    return "=" in argument and not argument.startswith(("-", "hydra.", "hydra/"))


def asked(arguments: Sequence[str]) -> Study | None:
    """The study that `+study=NAME` among the arguments asks for, found in --config-dir or in experiments/; else None.

    Raises FileNotFoundError for a name that is in neither, ValueError for one without a grid or without -m.
    """
    if OPTION.rstrip("=") in arguments:
        raise ValueError(f"{OPTION[:-1]} names no study: write {OPTION}NAME, the name of a folder in experiments/")
    name = next((a.removeprefix(OPTION) for a in arguments if a.startswith(OPTION)), None)
    if name is None:
        return None
    root = root_of(name, arguments)
    settings = read(root / name / "study.yaml")
    grid = settings["grid"]
    if not {"-m", "--multirun"} & set(arguments):
        raise ValueError(f"{OPTION}{name} is a sweep: add -m")
    given = [a for a in arguments if not a.startswith(OPTION)]
    keys = {a.partition("=")[0] for a in given}
    sweep = [f"{key}={','.join(map(str, values))}" for key, values in grid.items() if key not in keys]
    own = ["study=" + name, f"+{name}=study", f"hydra.searchpath=[file://{root}]"]
    excluded = f"hydra.job.config.override_dirname.exclude_keys=[{','.join((*NAMELESS, name))}]"
    return Study(name, settings, [a for a in arguments if a != DEBUG], [*given, *sweep, *own, excluded])


def read(path: Path) -> dict[str, Any]:
    """The contents of a study.yaml. Raises ValueError for one that is damaged or has no grid."""
    try:
        settings = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML, mend it: {one_line(error)}") from error
    grid = settings.get("grid") if isinstance(settings, dict) else None
    if not isinstance(grid, dict) or not grid or not all(isinstance(values, list) for values in grid.values()):
        raise ValueError(f"{path} has no grid: give each key the list of its values under grid:")
    return settings


def root_of(name: str, arguments: Sequence[str]) -> Path:
    """The folder that holds `name`/study.yaml."""
    named = [after for a, after in zip(arguments, [*arguments[1:], ""], strict=True) if a in ("--config-dir", "-cd")]
    named += [a.partition("=")[2] for a in arguments if a.startswith("--config-dir=")]
    roots = [Path(folder).resolve() for folder in (*named, "experiments", Path(conf_folder()).parent / "experiments")]
    for root in roots:
        if name and (root / name / "study.yaml").is_file():
            return root
    known = sorted({path.parent.name for root in roots for path in root.glob("*/study.yaml")})
    raise FileNotFoundError(f"No study {name!r}: {did_you_mean(name, known)} (or name a --config-dir)")
