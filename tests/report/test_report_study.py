"""A study's grid: the state of each cell as its folder has it, and an exit code that says whether all are finished."""

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from genzoo.report import study, write
from genzoo.report.__main__ import main

Make = Callable[..., Path]
CELLS = [(family, seed) for family in ("vae", "gan") for seed in range(2)]


def ask(folder: Path, **other: Any) -> Path:
    """A study of two families and two seeds, as genzoo.run leaves it."""
    cells = [{"folder": f"model={f}/seed={s}", "overrides": [f"model={f}", f"seed={s}"]} for f, s in CELLS]
    asked = {
        "name": "duel",
        "question": "Which <b>one</b>?",
        "budget": {"images": 80000, "minutes": None},
        "command": "python -m genzoo.run -m +study=duel",
        "cells": cells,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(asked | other))
    return folder


@pytest.fixture
def begun(tmp_path: Path, make_run: Make) -> Path:
    """One cell finished, one failed, one unfinished, one not started."""
    folder = ask(tmp_path / "outputs" / "duel")
    make_run(folder / "model=vae" / "seed=0")
    failed = make_run(folder / "model=vae" / "seed=1", seed=1, value=None)
    (failed / "failed.txt").write_text("Traceback (most recent call last):\nValueError: too hot\n")
    make_run(folder / "model=gan" / "seed=0", "gan", value=None)
    return folder


def test_the_grid_has_a_state_for_each_cell(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open(begun / "model=gan" / "seed=0" / ".lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert study.grid(study.study(begun)) == [
            ["", "seed=0", "seed=1"],
            ["model=vae", "finished", "failed"],
            ["model=gan", "running", "not started"],
        ]
    assert main(["--status", str(begun)]) == 1
    said = capsys.readouterr().out
    assert "model=gan  unfinished  not started" in said
    assert "4 cells: 1 finished, 1 unfinished, 1 failed, 1 not started." in said
    assert "model=vae seed=1: ValueError: too hot" in said
    assert "To continue: python -m genzoo.run -m +study=duel" in said


def test_a_name_is_a_study_of_outputs_and_a_finished_one_ends_with_0(
    tmp_path: Path, make_run: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ask(tmp_path / "outputs" / "duel")
    for family, seed in CELLS:
        make_run(folder / f"model={family}" / f"seed={seed}", family, seed=seed)
    monkeypatch.chdir(tmp_path)
    assert main(["--status", "duel"]) == 0


def test_the_report_asks_the_question_and_lists_what_is_missing(begun: Path, tmp_path: Path) -> None:
    text = write([begun], tmp_path / "out").read_text("utf-8")
    assert "Which &lt;b&gt;one&lt;/b&gt;?" in text
    assert "Study duel: 80,000 images a run; 4 cells: 1 finished, 1 unfinished, 1 failed, 1 not started." in text
    assert "<b>not started</b> · duel/model=gan/seed=1" in text
    assert "ValueError: too hot" in text
    assert "- duel/model=gan/seed=1: not started" in (tmp_path / "out" / "table.md").read_text("utf-8")


def test_a_cell_that_failed_before_its_configuration_is_listed(tmp_path: Path, make_run: Make) -> None:
    folder = ask(tmp_path / "duel")
    make_run(folder / "model=vae" / "seed=0")
    (folder / "model=gan" / "seed=1").mkdir(parents=True)
    (folder / "model=gan" / "seed=1" / "failed.txt").write_text("ImportError: no such family")
    assert "ImportError: no such family" in write([folder], tmp_path / "out").read_text("utf-8")


def test_studies_below_a_folder_are_found(tmp_path: Path) -> None:
    ask(tmp_path / "a")
    ask(tmp_path / "b", name="other")
    assert [each.name for each in study.find([tmp_path, tmp_path / "a"])] == ["duel", "other"]


@pytest.mark.parametrize("content", ["{", "[]", '{"name": "a"}', '{"name": 1, "cells": []}'])
def test_a_broken_study_is_one_sentence(
    tmp_path: Path, make_run: Make, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "a")
    (tmp_path / "study.json").write_text(content)
    assert main(["--status", str(tmp_path)]) == 2
    said = capsys.readouterr().err.strip()
    assert "study.json is not what genzoo.run writes" in said
    assert "\n" not in said
    assert main([str(tmp_path)]) == 0  # the report goes on without it


def test_no_study_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--status", str(tmp_path)]) == 2
    assert "+study=NAME" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["a", "--status", "b"]])
def test_folders_or_a_study_not_both(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
