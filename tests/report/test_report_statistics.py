"""The statistics over seeds against scipy, closed forms, and repeated draws of a known truth."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from genzoo.report.statistics import bootstrap_interval, improvement, interquartile_mean, luck, t_interval


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_the_t_interval_is_scipys(random: np.random.Generator, n: int) -> None:
    values = random.normal(3, 2, n)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    np.testing.assert_allclose(t_interval(values, 0.9), expected, rtol=1e-9)


@pytest.mark.parametrize("n", [3, 5])
def test_the_t_interval_holds_the_truth(random: np.random.Generator, n: int) -> None:
    draws = random.normal(1.5, 0.2, (200, n))
    intervals = [t_interval(values) for values in draws]
    assert 0.90 <= np.mean([low <= 1.5 <= high for low, high in intervals]) <= 0.99


def test_one_value_has_no_interval() -> None:
    with pytest.raises(ValueError, match="1 value has no interval"):
        t_interval(np.array([1.0]))


def test_the_interquartile_mean_is_scipys_trimmed_mean(random: np.random.Generator) -> None:
    for n in range(1, 14):
        values = random.normal(0, 1, (4, n))
        np.testing.assert_allclose(interquartile_mean(values), stats.trim_mean(values, 0.25, axis=-1), rtol=1e-12)
    assert interquartile_mean(np.array([1, 2, 3, 1e9])) == 2.5


@pytest.mark.parametrize(("n", "m"), [(2, 3), (5, 5), (40, 7)])
def test_improvement_is_mann_whitneys_u(random: np.random.Generator, n: int, m: int) -> None:
    x, y = random.integers(0, 6, n).astype(float), random.integers(1, 7, m).astype(float)  # with ties
    assert improvement(x, y) == pytest.approx(stats.mannwhitneyu(x, y).statistic / (n * m), rel=1e-12)
    assert improvement(x, y) + improvement(y, x) == pytest.approx(1)
    assert improvement(x, x) == 0.5


def test_improvement_tends_to_its_closed_form_of_gaussians(random: np.random.Generator) -> None:
    x, y = random.normal(1, 1, 2000), random.normal(0, 1, 2000)
    assert improvement(x, y) == pytest.approx(stats.norm.cdf(1 / 2**0.5), abs=0.02)


def test_the_bootstrap_of_two_values_is_its_binomial() -> None:
    """A resampled mean of (0, 1) is 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4."""
    values = np.array([0.0, 1.0])
    assert bootstrap_interval(interquartile_mean, values) == (0, 1)
    assert bootstrap_interval(interquartile_mean, values, confidence=0.4) == (0.5, 0.5)


def test_the_bootstrap_of_many_values_is_the_normal_interval(random: np.random.Generator) -> None:
    x, y = random.normal(0, 1, 200), random.normal(0, 3, 400)
    low, high = bootstrap_interval(lambda a, b: a.mean(-1) - b.mean(-1), x, y)
    half = 1.96 * (x.var() / 200 + y.var() / 400) ** 0.5
    assert (high - low) / 2 == pytest.approx(half, rel=0.05)
    assert (high + low) / 2 == pytest.approx(x.mean() - y.mean(), abs=half / 10)


def test_the_bootstrap_repeats_itself(random: np.random.Generator) -> None:
    x, y = random.normal(0, 1, (2, 5))
    before = np.random.get_state()[1].copy()
    assert bootstrap_interval(improvement, x, y) == bootstrap_interval(improvement, x, y)
    assert bootstrap_interval(improvement, x, y) != bootstrap_interval(improvement, x, y, seed=1, repeats=50)
    np.testing.assert_array_equal(before, np.random.get_state()[1])


@pytest.mark.parametrize(("n", "m"), [(2, 2), (3, 3), (2, 5)])
def test_luck_counts_the_clean_splits(n: int, m: int) -> None:
    everyone = set(range(n + m))
    splits = [(list(some), list(everyone - set(some))) for some in combinations(range(n + m), n)]
    clean = [improvement(np.array(x), np.array(y)) in (0, 1) for x, y in splits]
    assert luck(n, m) == len(clean) / sum(clean)
