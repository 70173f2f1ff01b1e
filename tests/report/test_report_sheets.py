"""The smaller tables say how sure an order is, what kind of likelihood a number is, and what was not measured."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from genzoo.report import notes, sheets, table
from genzoo.report.runs import find
from genzoo.report.table import Group

Make = Callable[..., Path]


@pytest.fixture
def compare(tmp_path: Path, make_run: Make) -> Callable[..., Group]:
    """`compare(vae=[...], gan=[...], score=...)`: one group, a setting a family, a run a value."""

    def group(score: str = "FD-digits", half: float | None = None, **values: list[float]) -> Group:
        for family, found in values.items():
            for seed, value in enumerate(found):
                entry = {"value": value} if half is None else {"value": value, "ci95": [value - half, value + half]}
                make_run(tmp_path / family / str(seed), family, seed=seed, scores={score: entry})
        (only,) = table.groups(find([tmp_path]))
        return only

    return group


@pytest.mark.parametrize(("score", "first"), [("FD-digits", "VAE"), ("recall", "GAN")])
def test_the_order_is_as_sure_as_mann_whitney_says(compare: Callable[..., Group], score: str, first: str) -> None:
    values = {"vae": [0.1, 0.2, 0.3, 0.55, 0.4], "gan": [0.25, 0.5, 0.6, 0.7]}
    sheet = sheets.order_sheet(compare(score=score, **values))
    u = stats.mannwhitneyu(values["gan"], values["vae"]).statistic / 20
    assert sheet.body[0][1].text == first
    assert float(sheet.body[0][4].text) == pytest.approx(u, abs=0.005)
    low, high = map(float, sheet.body[0][4].detail.strip("[]").split(","))
    assert 0 < low < u < high <= 1
    middle = {line[1].text: float(line[3].text) for line in sheet.body}
    assert middle["GAN"] == pytest.approx(stats.trim_mean(values["gan"], 0.25), abs=0.01)


def test_equal_rows_are_a_coin_toss(compare: Callable[..., Group]) -> None:
    group = compare(vae=[1.0, 2.0, 3.0], gan=[1.0, 2.0, 3.0])
    assert sheets.order_sheet(group).body[0][4].text == "0.50"
    assert "once in 10 comparisons" in sheets.order_note(group)


def test_a_row_of_one_seed_has_no_probability(compare: Callable[..., Group]) -> None:
    group = compare(vae=[1.0, 1.2], gan=[2.0], flow=[3.0, 3.2])
    assert [(line[3].text, line[4].text) for line in sheets.order_sheet(group).body] == [
        ("1.1", "unknown"),
        ("–", "unknown"),
        ("3.1", ""),
    ]
    assert "may be luck" in sheets.order_note(group)


def test_single_seeds_get_a_sentence_on_their_sampling_intervals(compare: Callable[..., Group]) -> None:
    group = compare(half=0.2, vae=[1.0], gan=[1.3], flow=[3.0])
    assert sheets.order_sheet(group) is None
    note = sheets.order_note(group)
    assert "may be luck" in note
    assert "The intervals of VAE and GAN overlap." in note
    assert "The intervals of GAN and FLOW lie apart." in note
    assert "though its interval overlaps that of GAN" in notes.summary([group], [])[0]


def test_a_row_alone_has_no_order(compare: Callable[..., Group]) -> None:
    assert sheets.order_note(compare(vae=[1.0])) == ""


def test_every_way_of_a_likelihood_is_a_line_with_its_kind(study: Path) -> None:
    (group,) = table.groups(find([study]))
    found = [[cell.text for cell in line] for line in sheets.likelihood_sheet(group).body]
    assert [(line[0], line[1][0], line[3]) for line in found] == [
        ("VAE", "≤", "ELBO"),
        ("", "≤", "IWAE, k = 64"),
        ("GAN", "n", ""),
        ("DDPM", "≤", "VLB, 100 of 1000 terms"),
        ("", "≈", "probability-flow ODE, rtol 1e-4"),
        ("FLOW", "3", "change of variables"),
    ]
    assert found[2][1:3] == ["n/a", "GAN gives no density"]
    ways = [run.metrics["likelihoods"][0] for run in group.rows[0].runs]
    assert float(found[0][1][2:]) == pytest.approx(np.mean([way["value"] for way in ways]), abs=0.005)


def test_no_likelihood_is_no_table(compare: Callable[..., Group]) -> None:
    assert sheets.likelihood_sheet(compare(vae=[1.0])) is None


def test_costs_are_means_over_seeds_and_unmeasured_ones_are_left_out(tmp_path: Path, make_run: Make) -> None:
    for seed, seconds in enumerate((10.0, 20.0)):
        make_run(tmp_path / str(seed), seed=seed, cost={"training_seconds": seconds, "nfe": 1, "parameters": None})
    make_run(tmp_path / "b", "gan", cost={"latency_seconds": 2.1e-3, "nfe": None})
    (group,) = table.groups(find([tmp_path]))
    sheet = sheets.cost_sheet(group)
    assert sheet.head == ["Rank", "Run", "Training", "Network calls", "Sampling one image alone"]
    assert {line[1].text: [cell.text for cell in line[2:]] for line in sheet.body} == {
        "VAE": ["15.0 s", "1", "–"],
        "GAN": ["–", "–", "2.1 ms"],
    }


def test_the_note_says_which_noise_an_interval_is_of(compare: Callable[..., Group]) -> None:
    note = notes.of_scores(compare(half=0.1, vae=[1.0, 1.1], gan=[2.0]))
    assert "training noise" in note
    assert "sampling noise" in note


def test_the_note_names_one_noise_where_there_is_one(compare: Callable[..., Group]) -> None:
    note = notes.of_scores(compare(half=0.1, vae=[1.0], gan=[2.0]))
    assert "training noise" not in note
    assert "sampling noise" in note


def test_seeds_without_scores_are_named(tmp_path: Path, make_run: Make) -> None:
    make_run(tmp_path / "a", "vae", 1.0, seed=0)
    make_run(tmp_path / "b", "gan", 2.0, seed=0)
    make_run(tmp_path / "c", "gan", None, seed=1)
    runs = find([tmp_path])
    said = notes.summary(table.groups(runs), [run for run in runs if run.state != "finished"])
    assert said[-1] == "1 run without scores (GAN lacks 1 seed): see the end."
