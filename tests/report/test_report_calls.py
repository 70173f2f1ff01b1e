"""Records of one checkpoint sampled in many ways stand apart from the ranked rows, each where its calls put it."""

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from genzoo.report import calls, formats, gallery, latex, notes, panels, table, tradeoffs, write
from genzoo.report.runs import find
from genzoo.report.table import Group

from .conftest import COST, again

Make = Callable[..., Path]
CALLS = {"ddim": (5, 10, 20, 50), "heun": (9, 19, 39, 99)}  # of each sampler at STEPS
STEPS = (5, 10, 20, 50)


def value(sampler: str, steps: int) -> float:
    """Lower with more steps, but for the last of ddim."""
    return round(30 + {"ddim": 400, "heun": 150}[sampler] / steps + 30 * (sampler == "ddim" and steps == 50), 3)


@pytest.fixture
def runs(tmp_path: Path, make_run: Make) -> Path:
    """A DDPM with eight further records beside two families of one call."""
    for family, fd in (("vae", 38.4), ("gan", 90.0)):
        make_run(tmp_path / "runs" / family, family, fd, cost=COST | {"nfe": 1, "training_seconds": 10.0})
    ddpm = make_run(tmp_path / "runs" / "ddpm", "ddpm", 50.0)
    for sampler, numbers in CALLS.items():
        for steps, nfe in zip(STEPS, numbers, strict=True):
            again(ddpm, value(sampler, steps), float(nfe), f"sampler={sampler}", f"steps={steps}")
    return tmp_path / "runs"


@pytest.fixture
def group(runs: Path) -> Group:
    (found,) = table.groups(find([runs]))
    return found


def test_only_a_runs_own_record_is_ranked(group: Group) -> None:
    assert [(row.name, row.rank) for row in group.rows] == [("VAE", 1), ("DDPM", 2), ("GAN", 3)]
    assert len(group.again) == 8
    assert {row.rank for row in group.again} == {None}
    assert {row.name for row in group.again} >= {"DDPM, heun, 10 steps", "DDPM, ddim, 50 steps"}
    assert min(row.scores["FD-digits"].value for row in group.again) < 38.4  # better than the first, after a look
    assert "DDPM; these records stand below" in notes.of_scores(group)


def test_tracks_differ_in_their_steps_alone(group: Group) -> None:
    found = {
        track.name: [(n, row.scores["FD-digits"].value) for n, row in track.records] for track in calls.tracks(group)
    }
    assert found == {f"DDPM, {name}": [(n, value(name, n)) for n in STEPS] for name in CALLS}


def test_the_figure_has_a_line_a_track_and_a_mark_a_family(group: Group) -> None:
    panel = calls.panel(group)
    assert panel is not None
    assert {line.name: len(line.marks) for line in panel.lines} == {
        "VAE": 1,
        "GAN": 1,
        "DDPM": 1,
        "DDPM, ddim": 4,
        "DDPM, heun": 4,
    }
    assert [bool(line.joined) for line in panel.lines] == [len(line.marks) > 1 for line in panel.lines]
    marks = {line.name: line.marks for line in panel.lines}
    at = {nfe: mark[0] for name, numbers in CALLS.items() for nfe, mark in zip(numbers, marks[f"DDPM, {name}"])}
    at |= {1: marks["VAE"][0][0], 50: marks["DDPM"][0][0]}
    slope = np.diff(list(at.values())) / np.diff(np.log(list(at)))
    np.testing.assert_allclose(slope, slope.mean(), atol=0.6)  # places are rounded to a tenth
    assert all(x == sorted(x) for x in ([mark[0] for mark in line.marks] for line in panel.lines))
    assert [text for _, _, text, _ in panel.labels] == [row.name for row in group.rows] + ["ddim", "heun"]


def test_full_marks_are_those_that_nothing_beats(group: Group) -> None:
    points = {(1.0, 38.4), (1.0, 90.0), (50.0, 50.0)}
    points |= {(float(c), value(s, n)) for s, numbers in CALLS.items() for n, c in zip(STEPS, numbers, strict=True)}
    best = [p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)]
    panel = calls.panel(group)
    assert panel is not None
    assert sum(full for line in panel.lines for *_, full in line.marks) == len(best)
    assert 1 < len(best) < len(points)


def test_the_table_is_samplers_by_steps(group: Group) -> None:
    sheet = calls.sheet(group)
    assert sheet is not None
    assert sheet.head == ["Run", "5 steps", "10 steps", "20 steps", "50 steps", "Its own steps"]
    own, *lines = sheet.body
    assert [cell.text for cell in own] == ["DDPM (as trained)", "", "", "", "", "50"]
    assert [line[0].text for line in lines] == ["DDPM, ddim", "DDPM, heun"]
    for name, line in zip(CALLS, lines, strict=True):
        assert [float(cell.text) for cell in line[1:5]] == [pytest.approx(value(name, n), abs=0.5) for n in STEPS]
        assert [cell.detail.rpartition(", ")[2] for cell in line[1:5]] == [f"{n} calls" for n in CALLS[name]]
        assert line[5].text == ""


def test_what_costs_and_curves_show_is_not_repeated(group: Group) -> None:
    assert [panel.against.partition(",")[0] for panel in tradeoffs.panels(group)] == ["training seconds"]
    assert all(len(panel.legend) <= 3 for panel in panels.panels(group))
    assert len(panels.panels(group)) == 1 + 3  # the score, and each family's loss


def test_the_csv_keeps_every_record(group: Group) -> None:
    rows = list(csv.DictReader(io.StringIO(formats.to_csv([group]))))
    again = [row for row in rows if row["kind"] == "run again"]
    assert [row["sampling_batch"] for row in again] == ["64"] * 8  # a cost that only they know
    assert {(float(row["nfe"]), float(row["FD-digits"])) for row in again} == {
        (c, value(s, n)) for s, numbers in CALLS.items() for n, c in zip(STEPS, numbers, strict=True)
    }
    assert {row["rank"] for row in rows if row["kind"] == "setting again"} == {""}
    assert [row["rank"] for row in rows if row["kind"] == "setting"] == ["1", "2", "3"]


def test_the_gallery_folds_a_picture_a_track_below_its_run(group: Group) -> None:
    (tiles,), _ = gallery.galleries([group])
    assert {tile.name: [picture.summary for picture in tile.again] for tile in tiles} == {
        "Real": [],
        "VAE": [],
        "GAN": [],
        "DDPM": ["ddim: 5, 10, 20 and 50 steps", "heun: 5, 10, 20 and 50 steps"],
    }


def test_the_page_and_the_tables_show_it(runs: Path, tmp_path: Path) -> None:
    page = write([runs], tmp_path / "out")
    text = page.read_text("utf-8")
    assert text.count("<h2>Quality against network calls</h2>") == 1
    assert text.count("Other samplers and steps") == 1
    assert text.count("python -m genzoo.score sampler=heun") == 1  # one command, four records
    assert (page.parent / "figures" / "fd-digits-against-network-calls-an-image.svg").is_file()
    assert "| DDPM, heun | " in (page.parent / "table.md").read_text("utf-8")
    assert r"\label{tab:calls-1}" in (page.parent / "table.tex").read_text("utf-8")


def test_records_of_several_seeds_are_their_mean(tmp_path: Path, make_run: Make) -> None:
    for seed in range(3):
        folder = make_run(tmp_path / str(seed), "ddpm", 50.0, seed=seed)
        again(folder, 30.0 + seed, 9.0, "sampler=heun", "steps=5")
    (group,) = table.groups(find([tmp_path]))
    assert [(row.name, len(row.runs)) for row in group.rows] == [("DDPM", 3)]
    ((_, row),) = calls.tracks(group)[0].records
    assert (len(row.runs), row.scores["FD-digits"].value) == (3, 31.0)


def test_a_protocol_without_the_own_record_ranks_the_most_calls(tmp_path: Path, make_run: Make) -> None:
    make_run(tmp_path / "vae", "vae", protocol_id="other", cost=COST | {"nfe": 1})
    folder = make_run(tmp_path / "ddpm", "ddpm")
    for steps in STEPS:
        again(folder, 100.0 / steps, float(steps), "metrics=other", "sampler=ddim", f"steps={steps}")
    for path in folder.glob("metrics-*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"protocol_id": "other"}))
    group = next(found for found in table.groups(find([tmp_path])) if found.protocol_id == "other")
    assert [row.name for row in group.rows] == ["DDPM, ddim, 50 steps", "VAE"]
    assert [track.name for track in calls.tracks(group)] == ["DDPM, ddim"]
    assert len(calls.tracks(group)[0].records) == 4  # the ranked one is on the line too
    panel = calls.panel(group)
    assert panel is not None
    assert {line.name: len(line.marks) for line in panel.lines} == {"VAE": 1, "DDPM, ddim": 4}
    assert "for want of a record of its own sampling" in notes.of_scores(group)
    sheet = calls.sheet(group)
    assert sheet is not None
    assert [len(sheet.head), len(sheet.body)] == [5, 1]


def test_other_settings_than_steps_are_lines_of_their_own(tmp_path: Path, make_run: Make) -> None:
    folder = make_run(tmp_path / "a", "ddpm")
    again(folder, 20.0, 50.0, "guidance.scale=2")
    again(folder, 21.0, 10.0, "steps=10")
    again(folder, 22.0, math.nan, "grid=karras", "steps=10")
    (group,) = table.groups(find([tmp_path]))
    assert [track.name for track in calls.tracks(group)] == [
        "DDPM, grid=karras",
        "DDPM, guidance.scale=2",
        "DDPM, its own sampler",
    ]
    panel = calls.panel(group)
    assert panel is not None
    assert {line.name for line in panel.lines} == {"DDPM", "DDPM, guidance.scale=2", "DDPM, its own sampler"}
    sheet = calls.sheet(group)
    assert sheet is not None
    assert [cell.text for line in sheet.body for cell in line[1:]] == ["", "38.4", "22.0", "", "", "20.0", "21.0", ""]


def test_nothing_sampled_again_is_no_figure_and_no_table(tmp_path: Path, make_run: Make) -> None:
    make_run(tmp_path / "a", "ddpm")
    make_run(tmp_path / "b", "vae", cost=COST | {"nfe": 1})
    (group,) = table.groups(find([tmp_path]))
    assert (calls.tracks(group), calls.panel(group), calls.sheet(group)) == ([], None, None)
    assert "network calls" in {panel.against.partition(",")[0] for panel in tradeoffs.panels(group)}
    assert "tab:calls" not in latex.to_latex([group])
