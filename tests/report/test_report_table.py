"""The table ranks within a protocol only, and its files carry the numbers that the runs wrote."""

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from genzoo.report import formats, table, units
from genzoo.report.runs import find

Make = Callable[..., Path]


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
    assert table.cells(group, group.rows[1])[3] == ("NaN", False)


def test_only_the_best_is_marked_and_calibration_never(tmp_path: Path, make_run: Make) -> None:
    for name, value in (("vae", 38.4), ("gan", 21.7)):
        make_run(tmp_path / name, name, value)
    (group,) = table.groups(find([tmp_path]))
    assert [cell.text for row in group.rows for cell in table.cells(group, row) if cell.best] == ["21.7"]
    assert list(group.calibration) == ["real test", "blurred real", "uniform noise"]
    assert not any(cell.best for scores in group.calibration.values() for cell in table.score_cells(group, scores))


@pytest.mark.parametrize(("score", "best"), [("FD-digits", "VAE"), ("precision", "GAN")])
def test_the_direction_of_a_score_decides(tmp_path: Path, make_run: Make, score: str, best: str) -> None:
    make_run(tmp_path / "a", "vae", 0.2, score=score)
    make_run(tmp_path / "b", "gan", 0.7, score=score)
    assert table.groups(find([tmp_path]))[0].rows[0].name == best


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
    rows = list(csv.DictReader(io.StringIO(formats.to_csv(table.groups(find([tmp_path]))))))
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
    assert {len(row) for row in cells} == {10}
    assert [row[3] for row in cells[2:]] == ["**21.7**", "38.4", "2.3", "90.1", "400.5"]
    assert cells[2][4:] == ["0.41 M", "100,000", "87 s", "1,024", "3.1 ms", "50"]
    assert "<b>" not in text


def test_position_runs_from_the_least_to_the_greatest_on_a_log_scale(tmp_path: Path, make_run: Make) -> None:
    make_run(tmp_path / "a", "vae", math.sqrt(2.31 * 400.5))
    (group,) = table.groups(find([tmp_path]))
    every = [group.floor, group.rows[0].run.metrics["scores"], group.calibration["uniform noise"]]
    assert [table.position(group, scores) for scores in every] == [0, 50, 100]


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
        (units.fixed([12.31, 0.43]), 12.31, "12.31"),
        (units.fixed([128.0, 64.0]), 128.0, "128"),
        (units.short, 20_000, "20 k"),
    ],
)
def test_numbers_read_as_in_a_paper(show: Callable[[object], str], value: object, text: str) -> None:
    assert show(value) == text


def test_a_run_scored_again_is_a_row_with_a_name_of_its_own(tmp_path: Path, make_run: Make) -> None:
    folder = make_run(tmp_path / "a", "ddpm")
    again = json.loads((folder / "metrics.json").read_text())
    again["provenance"]["overrides"].append("steps=5")
    again["scores"]["FD-digits"]["value"] = 50.0
    (folder / "metrics-0123456789ab.json").write_text(json.dumps(again))
    (group,) = table.groups(find([tmp_path]))
    assert [(row.name, table.value(row.run.metrics["scores"], "FD-digits")) for row in group.rows] == [
        ("DDPM", 38.4),
        ("DDPM, steps=5", 50.0),
    ]
