"""How far to trust a score: errors by the jackknife, Student's intervals, repeats.

There is no percentile bootstrap: resampling repeats samples, which moves a Fréchet distance so far up that the interval
leaves out its own estimate.
"""

from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

import torch
from scipy.special import stdtrit
from torch import Tensor


class Replicates(NamedTuple):
    """A score (a float or a NamedTuple of floats), and what it is with each block of samples left out."""

    value: Any
    left_out: list[Any]


def replicates_error(left_out: Sequence[float]) -> float:
    """The standard error of a statistic from its values with each of B blocks of one size left out.

    sqrt((B - 1) / B sum (v - mean v)^2), Efron & Stein (1981). Raises ValueError for fewer than two.
    """
    if len(left_out) < 2:
        raise ValueError(f"A jackknife needs two blocks or more, got {len(left_out)}.")
    mean = fmean(left_out)
    return ((len(left_out) - 1) / len(left_out) * sum((v - mean) ** 2 for v in left_out)) ** 0.5


def jackknife(statistic: Callable[[Tensor], Any], x: Tensor, n_blocks: int = 10) -> Any:
    """The standard error of `statistic(x)` by leaving out each of `n_blocks` runs of consecutive rows of x.

    statistic: rows (n, ...) -> a float, or a tuple or NamedTuple of floats; the errors come in the same form.
    Rows in random order. Raises ValueError for fewer than two blocks or more than rows.
    """
    x = torch.as_tensor(x)
    if not 2 <= n_blocks <= len(x):
        raise ValueError(f"jackknife takes 2 to n = {len(x)} blocks, got {n_blocks}.")
    parts = x.tensor_split(n_blocks)
    return errors([statistic(torch.cat(parts[:i] + parts[i + 1 :])) for i in range(n_blocks)])


def errors(left_out: Sequence[Any]) -> Any:
    """`replicates_error` of floats, or of each field of tuples or NamedTuples of floats."""
    if not isinstance(left_out[0], tuple):
        return replicates_error(left_out)
    fields = [replicates_error(values) for values in zip(*left_out, strict=True)]
    kind = type(left_out[0])
    return kind(*fields) if hasattr(kind, "_fields") else tuple(fields)


def t_interval(value: float, error: float, dof: int) -> tuple[float, float]:
    """The 95% interval of Student's t: `dof` is the number of blocks or repeats less one."""
    half = stdtrit(dof, 0.975).item() * error
    return value - half, value + half


def share_interval(value: float, error: float, n: int, dof: int) -> tuple[float, float]:
    """The 95% interval of a share of n (precision, recall, coverage, authenticity), within 0 and 1, by Wilson (1927).

    Near 0 and 1, where `t_interval` shrinks to nothing, it keeps its width. `error` sets the number of independent
    samples behind the share, n at most: value (1 - value) / error^2. `dof` as for `t_interval`.
    """
    spread = value * (1 - value)
    effective = min(n, spread / error**2) if spread > 0 and error > 0 else n
    z2 = stdtrit(dof, 0.975).item() ** 2 / effective
    centre, half = (value + z2 / 2) / (1 + z2), (z2 * spread + z2**2 / 4) ** 0.5 / (1 + z2)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def repeats_interval(values: Sequence[float]) -> tuple[float, float, tuple[float, float]]:
    """Mean, standard deviation and 95% interval of the mean for scores of disjoint sets of one size.

    The interval is of the expected score at that size. Raises ValueError for fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"An interval over repeats needs two or more, got {len(values)}: raise the number of sets.")
    mean, std = fmean(values), stdev(values)
    return mean, std, t_interval(mean, std / len(values) ** 0.5, len(values) - 1)
