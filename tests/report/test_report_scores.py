"""A score is printed with the interval that was measured, in the direction that is better, never rounded to a lie."""

import math

import numpy as np
import pytest
from scipy import stats

from genzoo.report import scores
from genzoo.report.scores import Estimate, estimate

NAMES = ["bits/dim", "AuthPct", "recall", "FD-digits", "own", "class entropy", "C_T", "KD-digits", "IS-digits"]


def text(found: Estimate, *others: Estimate) -> str:
    return " ".join(scores.text(found, scores.printer([found, *others]))).strip()


def test_several_runs_are_their_mean_with_students_interval() -> None:
    values = [1.2, 1.9, 1.4]
    found = estimate([{"value": v, "n": 400, "ci95": [0, 9]} for v in values])
    assert found.value == pytest.approx(1.5)
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert (found.low, found.high, found.runs) == (pytest.approx(low), pytest.approx(high), 3)


def test_one_run_has_the_sampling_interval_it_measured() -> None:
    assert estimate([{"value": 2.0, "ci95": [1.5, 3.0]}]) == Estimate(2, 1.5, 3, runs=1)
    repeats = [1.0, 2.0, 6.0]
    found = estimate([{"value": 3.0, "repeats": repeats, "std": 2.6}])
    np.testing.assert_allclose((found.low, found.high), stats.t.interval(0.95, 2, 3, stats.sem(repeats)))
    assert math.isnan(estimate([{"value": 2.0, "ci95": None}]).low)


def test_a_nan_is_never_dropped() -> None:
    assert not estimate([{"value": 1.0}, {"value": math.nan}]).known
    assert estimate([]).runs == 0


@pytest.mark.parametrize(
    ("found", "printed"),
    [
        (Estimate(1.58, 1.41, 1.75, 3), "1.58 ± 0.17"),
        (Estimate(1.58, 1.44, 1.9, 1), "1.58 [1.44, 1.90]"),
        (Estimate(128.3, 120.1, 136.5, 3), "128 ± 8"),
        (Estimate(-0.0012, -0.0042, 0.0018, 1), "-0.0012 ± 0.0030"),
        (Estimate(0.71, runs=1), "0.71"),
        (Estimate(math.nan, runs=1), "NaN"),
        (Estimate(3.12, 3.1, 3.14, 1, "exact"), "3.120 ± 0.020"),
        (Estimate(3.12, 3.07, 3.17, 1, "lower bound"), "≤ 3.12 ± 0.05"),
        (Estimate(3.12, 3.07, 3.17, 1, "estimate"), "≈ 3.12 ± 0.05"),
        (Estimate(), "–"),
    ],
)
def test_a_cell_reads_as_in_a_paper(found: Estimate, printed: str) -> None:
    assert text(found) == printed


def test_the_rows_of_a_column_have_one_number_of_decimals_and_a_mark_its_own() -> None:
    rows = [Estimate(0.77, 0.6, 0.94, 3), Estimate(24.68, 24.6, 24.8, 1), Estimate(2.0, 1.9, 2.1, 3)]
    show = scores.printer(rows)
    assert [show(found.value) for found in rows] == ["0.77", "24.68", "2.00"]
    floor = Estimate(0.0112, 0.0101, 0.0123, 1)
    assert scores.text(floor, scores.mark_printer(floor, show)) == ("0.0112", "± 0.0011")
    assert scores.mark_printer(Estimate(0.5, runs=1), show)(0.5) == "0.50"


def test_without_intervals_a_column_shows_two_digits_of_its_smallest_value() -> None:
    show = scores.printer([Estimate(12.31, runs=1)], [Estimate(0.43, runs=1), Estimate(math.nan, runs=1)])
    assert show(12.31) == "12.31"
    assert scores.printer([Estimate(128.0, runs=1)])(128.0) == "128"


def test_no_minus_before_a_zero() -> None:
    assert scores.printer([Estimate(1.0, 0.8, 1.2)])(-0.001) == "0.00"


def test_directions() -> None:
    assert {name: scores.direction(name) for name in NAMES} == {
        "FD-digits": -1,
        "KD-digits": -1,
        "bits/dim": -1,
        "own": -1,
        "recall": 1,
        "IS-digits": 1,
        "class entropy": 0,
        "AuthPct": 0,
        "C_T": 0,
    }
    assert [scores.arrow(name).strip() for name in ("KD-digits", "recall", "C_T")] == ["↓", "↑", ""]


def test_distances_first_then_fidelity_classes_memorisation_likelihood() -> None:
    expected = ["FD-digits", "KD-digits", "recall", "class entropy", "IS-digits", "AuthPct", "C_T", "bits/dim", "own"]
    assert scores.in_order(NAMES) == expected


def test_intervals_overlap_when_they_share_a_point() -> None:
    a, b, point = Estimate(1, 0, 2), Estimate(3, 2, 4), Estimate(2.5)
    assert a.overlaps(b) and b.overlaps(a)
    assert not a.overlaps(Estimate(3, 2.1, 4))
    assert b.overlaps(point) and not a.overlaps(point)
