"""A study: experiments/<name>/study.yaml names a question, a grid of runs and a budget; one command answers it."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from genzoo import report
from genzoo.command import DEBUG, conf_folder, folder_name, in_words, quoted, refuse_option
from genzoo.provenance import command_line, refuse_secrets
from genzoo.runs import write_json
from genzoo.suggest import did_you_mean, one_line

OPTION = "+study="


class Study(NamedTuple):
    """name: of the folder in experiments/ and in outputs/; settings: of its study.yaml; typed: the command line's
    arguments; overrides: of the command line and the grid; arguments: all of it for Hydra.

    The grid of study.yaml gives each key its list of values; a key on the command line takes the place of the grid's.
    """

    name: str
    settings: dict[str, Any]
    typed: list[str]
    overrides: list[str]
    arguments: list[str]

    @property
    def folder(self) -> Path:
        return Path("outputs", self.name)

    def cells(self) -> list[dict[str, Any]]:
        """Every run that Hydra will start: its folder in the study's, as Hydra names it, and its overrides."""
        no_names = nameless()
        return [cell(chosen, no_names) for chosen in BasicSweeper.split_arguments(parsed(self.overrides), None)[0]]

    def budget(self) -> dict[str, Any]:
        """What each run may use; None for what the runs differ in."""
        given = [o for o in parsed(self.overrides) if o.key_or_group.startswith("budget.")]
        values = {o.key_or_group.removeprefix("budget."): None if o.is_sweep_override() else o.value() for o in given}
        return {**self.settings.get("budget", {}), **values}

    def plan(self) -> None:
        """Write study.json, by which the report knows what there should be."""
        content = {
            "name": self.name,
            "question": self.settings.get("question", ""),
            "budget": self.budget(),
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


def cell(overrides: Sequence[str], no_names: Sequence[str]) -> dict[str, Any]:
    """One run of a study: its folder as conf/hydra/genzoo.yaml has it, and its overrides."""
    own = [o for o in parsed(overrides) if not o.is_hydra_override() and o.key_or_group != "study"]
    seed = next((o.value() for o in own if o.key_or_group == "seed"), 0)
    named = get_overrides_dirname(own, no_names, item_sep=",", kv_sep="=")
    return {"folder": f"{folder_name(named)}/seed={seed}", "overrides": [o.input_line for o in own]}


def nameless() -> list[str]:
    """The keys that are no part of a folder's name."""
    settings = yaml.safe_load(Path(conf_folder(), "hydra", "genzoo.yaml").read_text())
    return settings["job"]["config"]["override_dirname"]["exclude_keys"]


def parsed(overrides: Sequence[str]) -> list[Override]:
    """The overrides as Hydra reads them. Raises ValueError for one that its grammar refuses."""
    with in_words("config"):
        return grammar().parse_overrides(list(overrides))


@cache
def grammar() -> OverridesParser:
    """Hydra's, with the files of conf/ for glob()."""
    return OverridesParser.create(ConfigLoaderImpl(create_config_search_path(conf_folder())))


def line_of(arguments: Sequence[str]) -> Namespace:
    """The arguments as Hydra takes them apart, options and overrides in any order."""
    parser = get_args_parser()
    parser.error = refuse_option
    return parser.parse_known_intermixed_args(arguments)[0]


def bare(key: str) -> str:
    """A key without the signs that add or delete it."""
    return key.lstrip("+~")


def written(value: Any) -> str:
    """A value of a grid as one writes it on the command line; strings may use Hydra's grammar."""
    return value if isinstance(value, str) else Override._get_value_element_as_str(value)


def asked(arguments: Sequence[str]) -> Study | None:
    """The study that `+study=NAME` among the arguments asks for, found in --config-dir or in experiments/; else None.

    Raises FileNotFoundError for a name that is in neither, ValueError for one without a grid or without -m, and for
    overrides that cannot be read or hold a secret.
    """
    if OPTION.rstrip("=") in arguments:
        raise ValueError(f"{OPTION[:-1]} names no study: write {OPTION}NAME, the name of a folder in experiments/")
    name = next((a.removeprefix(OPTION) for a in arguments if a.startswith(OPTION)), None)
    if name is None:
        return None
    refuse_secrets(arguments)  # before study.json is written
    line = line_of(arguments)
    root = root_of(name, line.config_dir)
    settings = read(root / name / "study.yaml")
    if not line.multirun:
        raise ValueError(f"{OPTION}{name} is a sweep: add -m")
    options = [a for a in arguments if a not in line.overrides]
    overrides = [quoted(o) for o in line.overrides if not o.startswith(OPTION)]
    keys, grid = {bare(o.get_key_element()) for o in parsed(overrides)}, settings["grid"].items()
    overrides += [f"{key}={','.join(map(written, values))}" for key, values in grid if bare(key) not in keys]
    own = ["study=" + name, f"+{name}=study", f"hydra.searchpath=[file://{root}]"]
    excluded = f"hydra.job.config.override_dirname.exclude_keys=[{','.join((*nameless(), name))}]"
    typed = [a for a in arguments if a != DEBUG]
    return Study(name, settings, typed, overrides, [*options, *overrides, *own, excluded])


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


def root_of(name: str, config_dir: str | None) -> Path:
    """The folder that holds `name`/study.yaml."""
    places = ("experiments", Path(conf_folder()).parent / "experiments")
    roots = [Path(folder).resolve() for folder in ([config_dir, *places] if config_dir else places)]
    for root in roots:
        if name and (root / name / "study.yaml").is_file():
            return root
    known = sorted({path.parent.name for root in roots for path in root.glob("*/study.yaml")})
    raise FileNotFoundError(f"No study {name!r}: {did_you_mean(name, known)} (or name a --config-dir)")
