"""The table ranks settings within a protocol only, and its files carry the numbers that the runs wrote."""

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from genzoo.report import formats, notes, scale, table, units
from genzoo.report.runs import find
from genzoo.report.table import Cell, Group

Make = Callable[..., Path]


def body(group: Group) -> list[list[Cell]]:
    return table.score_sheet(group).body


def best(group: Group) -> list[str]:
    return [cell.text for line in body(group) for cell in line if cell.best]


def lines(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_ranks_within_a_protocol_only(tmp_path: Path, make_run: Make) -> None:
    make_run(tmp_path / "a", "vae", 38.4)
    make_run(tmp_path / "b", "gan", 21.7)
    make_run(tmp_path / "c", "ddpm", 1.0, protocol_id="other", protocol={"n_fake": 200})
    first, second = table.groups(find([tmp_path]))
    assert [(row.name, row.rank) for row in first.rows] == [("GAN", 1), ("VAE", 2)]
    assert [(row.name, row.rank) for row in second.rows] == [("DDPM", 1)]
    assert first.why == ""
    assert second.why == "n_fake is 200 instead of 400"


def test_nan_is_shown_last_without_a_rank(tmp_path: Path, make_run: Make) -> None:
    make_run(tmp_path / "a", "gan", math.nan)
    make_run(tmp_path / "b", "vae", 38.4)
    (group,) = table.groups(find([tmp_path]))
    assert [(row.name, row.rank) for row in group.rows] == [("VAE", 1), ("GAN", None)]
    assert body(group)[1][3] == Cell("NaN")


def test_only_the_best_is_marked_and_calibration_never(tmp_path: Path, make_run: Make) -> None:
    for name, value in (("vae", 38.4), ("gan", 21.7)):
        make_run(tmp_path / name, name, value)
    (group,) = table.groups(find([tmp_path]))
    assert best(group) == ["21.7"]
    assert list(group.calibration) == ["real test", "blurred real", "uniform noise"]
    assert not any(cell.best for line in table.score_sheet(group).foot for cell in line)


@pytest.mark.parametrize(("score", "first"), [("FD-digits", "VAE"), ("precision", "GAN")])
def test_the_direction_of_a_score_decides(tmp_path: Path, make_run: Make, score: str, first: str) -> None:
    make_run(tmp_path / "a", "vae", 0.2, score=score)
    make_run(tmp_path / "b", "gan", 0.7, score=score)
    assert table.groups(find([tmp_path]))[0].rows[0].name == first


def test_names_tell_rows_apart(tmp_path: Path, make_run: Make) -> None:
    make_run(tmp_path / "a", "ddpm", 3.0, overrides=("data=digits", "model.steps=50"))
    make_run(tmp_path / "b", "ddpm", 2.0, overrides=("data=digits", "model.steps=9"))
    make_run(tmp_path / "c", "ddpm", 1.0, overrides=("data=digits", "model.steps=9"))
    names = [row.name for row in table.groups(find([tmp_path]))[0].rows]
    top = tmp_path.name
    assert names == [
        f"DDPM, model.steps=9 ({top}/c)",
        f"DDPM, model.steps=9 ({top}/b)",
        "DDPM, model.steps=50",
    ]


def test_csv_parses_back_to_the_same_numbers(tmp_path: Path, make_run: Make) -> None:
    make_run(tmp_path / "a", "vae", 1 / 3)
    make_run(tmp_path / "b", "gan", 12.0, score="FID", protocol_id="other")
    rows = lines(formats.to_csv(table.groups(find([tmp_path]))))
    runs = {row["run"]: row for row in rows if row["kind"] == "run"}
    assert float(runs["VAE"]["FD-digits"]) == 1 / 3
    assert runs["VAE"]["FID"] == ""
    assert float(runs["GAN"]["FID"]) == 12.0
    assert [float(runs["VAE"][key]) for key in ("training_seconds", "parameters")] == [87.25, 410_123]
    assert [row["run"] for row in rows if row["kind"] == "calibration"].count("real test") == 2


def test_markdown_parses_back_and_keeps_its_columns(tmp_path: Path, make_run: Make) -> None:
    make_run(tmp_path / "a", "vae", 38.4, overrides=("note=a|<b>*c*",))
    make_run(tmp_path / "b", "gan", 21.7)
    text = formats.to_markdown(table.groups(find([tmp_path])))
    lines = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    scores, costs = cells[:7], cells[7:]
    assert ({len(row) for row in scores}, {len(row) for row in costs}) == ({4}, {8})
    assert [row[3] for row in scores[2:]] == ["**21.7**", "38.4", "2.3", "90.1", "400.5"]
    assert [row[2] for row in scores[2:4]] == ["1 seed", "1 seed"]
    assert costs[2][2:] == ["0.41 M", "100,000", "87 s", "1,024", "50", "3.1 ms"]
    assert "<b>" not in text


def seeds(tmp_path: Path, make_run: Make, **values: list[float]) -> Group:
    """One group of a setting a family, one run a value."""
    for family, found in values.items():
        for seed, value in enumerate(found):
            make_run(tmp_path / family / str(seed), family, value, seed=seed)
    (group,) = table.groups(find([tmp_path]))
    return group


def test_seeds_are_one_row_ranked_by_their_mean_not_their_best(tmp_path: Path, make_run: Make) -> None:
    group = seeds(tmp_path, make_run, vae=[1.0, 9.0, 8.0], gan=[4.0, 5.0, 6.0])
    assert [(row.name, row.rank, row.seeds) for row in group.rows] == [("GAN", 1, "3 seeds"), ("VAE", 2, "3 seeds")]
    found = group.rows[1].scores["FD-digits"]
    low, high = stats.t.interval(0.95, 2, 6, stats.sem([1, 9, 8]))
    np.testing.assert_allclose((found.value, found.low, found.high), (6, low, high))
    assert body(group)[0][3] == Cell("5.0", "± 2.5")


def test_the_best_is_marked_only_where_its_interval_is_apart(tmp_path: Path, make_run: Make) -> None:
    assert best(seeds(tmp_path / "apart", make_run, vae=[1.0, 1.1], gan=[8.0, 8.1])) == ["1.1"]
    assert best(seeds(tmp_path / "close", make_run, vae=[1.0, 4.0], gan=[2.0, 6.0])) == []


def test_the_csv_keeps_every_run_below_its_setting(tmp_path: Path, make_run: Make) -> None:
    group = seeds(tmp_path, make_run, vae=[1.0, 9.0, 8.0])
    setting, *runs = [row for row in lines(formats.to_csv([group])) if row["kind"] != "calibration"]
    assert [(row["kind"], row["seed"], float(row["FD-digits"])) for row in runs] == [
        ("run", "0", 1.0),
        ("run", "1", 9.0),
        ("run", "2", 8.0),
    ]
    assert (setting["kind"], setting["seeds"], setting["rank"]) == ("setting", "3", "1")
    mean, low, high, std = (float(setting[f"FD-digits{part}"]) for part in ("", " low", " high", " std"))
    assert (mean, std) == (6, pytest.approx(np.std([1, 9, 8], ddof=1)))
    np.testing.assert_allclose((low, high), stats.t.interval(0.95, 2, 6, stats.sem([1, 9, 8])))


def test_a_score_that_one_seed_lacks_says_how_many_have_it(tmp_path: Path, make_run: Make) -> None:
    make_run(tmp_path / "0", seed=0, scores={"FD": {"value": 1.0}, "recall": {"value": 0.5}})
    make_run(tmp_path / "1", seed=1, scores={"FD": {"value": 1.0}})
    (group,) = table.groups(find([tmp_path]))
    assert body(group)[0][4] == Cell("0.50", "1 seed")


def test_the_standard_scores_are_in_the_order_of_their_families(study: Path) -> None:
    (group,) = table.groups(find([study]))
    assert table.heads(group) == [
        ("Distance", 3),
        ("Fidelity and diversity", 4),
        ("Classes", 2),
        ("Memorisation", 2),
        ("Likelihood", 1),
    ]
    sheet = table.score_sheet(group)
    assert [head[-1] for head in sheet.head[3:]] == [*"↓↓↓↑↑↑↑↑y", "t", "T", "↓"]
    assert not any(line[sheet.head.index(name)].best for line in sheet.body for name in ("AuthPct", "C_T"))
    bits = {row.name: line[-1].text for row, line in zip(group.rows, sheet.body)}
    assert bits["GAN"] == "n/a"
    assert [bits[name][0] for name in ("VAE", "DDPM")] == ["≤", "≤"]
    assert float(bits["FLOW"]) == pytest.approx(3.12, abs=0.1)
    assert not any(line[-1].best for line in sheet.body)  # a bound beside an exact value has no order
    assert list(group.calibration) == ["real test", "real train", "blurred real", "uniform noise"]


def test_places_run_from_the_least_to_the_greatest_on_a_log_scale(tmp_path: Path, make_run: Make) -> None:
    make_run(tmp_path / "a", "vae", math.sqrt(2.31 * 400.5))
    (group,) = table.groups(find([tmp_path]))
    every = [group.floor, group.rows[0].scores, group.marks["uniform noise"]]
    span = scale.whole(group)
    assert span.log
    assert [span.place(found["FD-digits"]).at for found in every] == [0, 50, 100]


def test_seeds_are_placed_among_the_rows_with_their_interval_cut_at_the_ends(tmp_path: Path, make_run: Make) -> None:
    group = seeds(tmp_path, make_run, vae=[1.0, 2.0, 3.0])
    place = scale.place_of_seeds(group, group.rows[0])
    assert (place.at, place.low, place.width) == (50, 0, 100)
    assert np.diff(place.seeds) == pytest.approx(np.full(2, 100 / (2 * 4.302653 / 3**0.5)), abs=0.1)


@pytest.mark.parametrize(
    ("show", "value", "text"),
    [
        (units.count, 410_000, "0.41 M"),
        (units.count, 12_345_678, "12.3 M"),
        (units.count, 76_400, "76 k"),
        (units.duration, 87, "87 s"),
        (units.duration, 726, "12.1 min"),
        (units.duration, 12_240, "3.4 h"),
        (units.latency, 3.1e-3, "3.1 ms"),
        (units.latency, 1.2e-4, "120 µs"),
        (units.integer, 1024.4, "1,024"),
        (units.integer, math.nan, "NaN"),
        (units.integer, None, "–"),
        (units.decimals(2), 12.31, "12.31"),
        (units.decimals(-1), 128.0, "128"),
        (units.work, 3.1e6, "3.1 M"),
        (units.short, 20_000, "20 k"),
    ],
)
def test_numbers_read_as_in_a_paper(show: Callable[[object], str], value: object, text: str) -> None:
    assert show(value) == text


def spent(images: int, asked: int = 1000) -> dict[str, Any]:
    return {"kind": "images", "asked": asked, "spent": images, "reached": images >= asked}


def test_a_run_that_ended_early_is_marked_and_never_best(tmp_path: Path, make_run: Make) -> None:
    make_run(tmp_path / "a", "vae", 1.0, budget=spent(600))
    make_run(tmp_path / "b", "gan", 9.0, budget=spent(1000))
    (group,) = table.groups(find([tmp_path]))
    assert [line[2].text for line in body(group)] == ["1 seed, ended early", "1 seed"]
    assert best(group) == []
    said = notes.of_scores(group)
    assert "VAE ended early" in said
    assert "Budgets spent are not equal: VAE 600 images; GAN 1,000 images." in said
    rows = lines(formats.to_csv([group]))
    found = {row["run"]: (row["budget_spent"], row["budget_reached"]) for row in rows if row["kind"] == "run"}
    assert found == {"VAE": ("600", "False"), "GAN": ("1000", "True")}


def test_equal_budgets_need_no_word(tmp_path: Path, make_run: Make) -> None:
    for family in ("vae", "gan"):
        make_run(tmp_path / family, family, budget=spent(1000))
    assert "udget" not in notes.of_scores(table.groups(find([tmp_path]))[0])
