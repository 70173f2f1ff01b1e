"""How far a few seeds carry: t-interval, interquartile mean, probability of improvement, bootstrap over seeds."""

from collections.abc import Callable
from math import comb

import numpy as np
from scipy.special import stdtrit

Statistic = Callable[..., np.ndarray]  # of samples (..., n) along their last axis


def t_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Student's interval for the mean of independent values (n,), n >= 2: mean ± t_(n-1) s / sqrt(n).

    Raises ValueError for fewer than two values, which say nothing on their own spread.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"{n} value has no interval: train with at least two seeds.")
    half = stdtrit(n - 1, 0.5 + confidence / 2) * np.std(values, ddof=1) / n**0.5
    return float(np.mean(values) - half), float(np.mean(values) + half)


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """(..., n) -> (...): mean without the lowest and the highest n // 4 values (Agarwal et al. 2021).

    Below four values nothing is cut, and it is the mean.
    """
    n = values.shape[-1]
    return np.sort(values, axis=-1)[..., n // 4 : n - n // 4].mean(axis=-1)


def improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(..., n), (..., m) -> (...): the share of pairs with x > y, ties half: Mann-Whitney's U / (n m).

    An estimate of P(X > Y), the probability of improvement of Agarwal et al. (2021).
    """
    pairs = np.sign(x[..., :, None] - y[..., None, :])  # (..., n, m)
    return 0.5 + 0.5 * pairs.mean(axis=(-2, -1))


def bootstrap_interval(
    statistic: Statistic, *samples: np.ndarray, confidence: float = 0.95, repeats: int = 5000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of `statistic(*samples)`, each sample (n_i,) resampled by itself (stratified).

    As in Agarwal et al. (2021). Few values give too narrow an interval: a resample cannot
    hold what was not seen.
    """
    random = np.random.default_rng(seed)
    again = [s[random.integers(0, len(s), (repeats, len(s)))] for s in samples]  # (repeats, n_i) each
    tail = 50 * (1 - confidence)
    low, high = np.percentile(statistic(*again), [tail, 100 - tail])
    return float(low), float(high)


def luck(n: int, m: int) -> float:
    """Of how many comparisons of equal settings, n values against m, one puts all of one above all of the other."""
    return comb(n + m, n) / 2
