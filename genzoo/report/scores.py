"""What is known of a score: its family, the direction that is better, its mean over seeds and the interval."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from genzoo.report import units
from genzoo.report.statistics import t_interval
from genzoo.report.units import Show

FAMILIES = {  # column heads over the scores whose names start so, in the order of the table
    "Distance": ("FD", "FID", "KD", "KID"),
    "Fidelity and diversity": ("precision", "recall", "density", "coverage"),
    "Classes": ("IS", "class entropy"),
    "Asked for": ("class right", "boxes right", "captions right", "digits right", "PSNR of the given"),
    "Reconstruction": ("PSNR", "SSIM", "rFD", "rFID", "codebook perplexity"),
    "Memorisation": ("AuthPct", "C_T"),
    "Likelihood": ("bits/dim",),
}
HIGHER_IS_BETTER = ("IS", "precision", "recall", "density", "coverage", "PSNR", "SSIM")
HIGHER_IS_BETTER += FAMILIES["Asked for"]
NEITHER = ("class entropy", "AuthPct", "C_T", "codebook perplexity")  # good is what real images get
# all other scores: lower is better
BITS = "bits/dim"
SIGNS = {
    "exact": "",
    "lower bound": "≤ ",
    "estimate": "≈ ",
}  # a bound on the likelihood from below is one on bits from above
WORDS = {"exact": "exact", "lower bound": "upper bound on bits (the likelihood's lower bound)", "estimate": "estimate"}


class Estimate(NamedTuple):
    """A score with its 95% interval, NaN where unknown; runs: how many it is the mean of.

    The interval of one run is of sampling noise (other samples of the same model), that of several of training
    noise (other seeds). kind: of a likelihood.
    """

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    runs: int = 0
    kind: str = ""

    @property
    def known(self) -> bool:
        return not math.isnan(self.value)

    def overlaps(self, other: "Estimate") -> bool:
        """Whether the intervals share a point; a value without interval is a point."""
        a, b = ((e.value, e.value) if math.isnan(e.low + e.high) else (e.low, e.high) for e in (self, other))
        return max(a[0], b[0]) <= min(a[1], b[1])


def estimate(found: Sequence[Mapping[str, Any]]) -> Estimate:
    """The entries of one score in the runs of a setting, as one: their mean, never their best.

    A NaN among them makes the mean NaN. Without entries the score is unknown.
    """
    values = np.array([float(score["value"]) for score in found])
    if not len(values):
        return Estimate()
    kind = str(found[0].get("kind", ""))
    with np.errstate(invalid="ignore"):  # infinite scores have no interval
        interval = t_interval(values) if len(values) > 1 else _sampling_interval(found[0])
    return Estimate(float(values.mean()), *interval, runs=len(values), kind=kind)


def _sampling_interval(score: Mapping[str, Any]) -> tuple[float, float]:
    """As measured; over several disjoint sets of samples the t-interval of their mean."""
    if score.get("ci95"):
        return (float(score["ci95"][0]), float(score["ci95"][1]))
    repeats = score.get("repeats") or []
    return t_interval(np.array(repeats, float)) if len(repeats) > 1 else (math.nan, math.nan)


def family(name: str) -> str:
    """The head over a score's column; "Other" for one of no family."""
    return next((head for head, starts in FAMILIES.items() if name.startswith(starts)), "Other")


def in_order(names: Sequence[str]) -> list[str]:
    """The scores' names family by family, those of a family and those of none in the order they came."""
    heads = [*FAMILIES, "Other"]
    return sorted(names, key=lambda name: heads.index(family(name)))


def direction(name: str) -> int:
    """1: higher is better; -1: lower; 0: neither, compare with real images."""
    return 0 if name.startswith(NEITHER) else 1 if name.startswith(HIGHER_IS_BETTER) else -1


def arrow(name: str) -> str:
    return {1: "\N{NO-BREAK SPACE}↑", 0: "", -1: "\N{NO-BREAK SPACE}↓"}[direction(name)]


def printer(rows: Sequence[Estimate], marks: Sequence[Estimate] = ()) -> Show:
    """One printer for the rows of a column: by the median half-width, or two digits of the column's smallest value."""
    widths = sorted(e.high - e.low for e in rows if e.high > e.low)
    if widths:
        return units.decimals(_of_error(widths[(len(widths) - 1) // 2] / 2))
    values = [abs(e.value) for e in [*rows, *marks] if e.value and math.isfinite(e.value)]
    return units.decimals(_of_value(min(values, default=1.0)))


def mark_printer(mark: Estimate, others: Show) -> Show:
    """Of a calibration mark, which may be far smaller than the rows: by its own half-width, if it has one."""
    return units.decimals(_of_error((mark.high - mark.low) / 2)) if mark.high > mark.low else others


def _of_error(half: float) -> int:
    """Decimals that show a half-width as 0.10 to 0.35 or 0.4 to 0.9: the rule of the Particle Data Group."""
    return math.ceil(-math.log10(half / 3.55))


def _of_value(value: float) -> int:
    """Decimals that show two digits of a value."""
    return 1 - math.floor(math.log10(value))


def text(found: Estimate, show: Show, unknown: str = units.MISSING) -> tuple[str, str]:
    """("1.58", "± 0.17"), or ("1.58", "[1.44, 1.90]") where the interval is not symmetric as printed."""
    if not found.runs:
        return unknown, ""
    value = SIGNS.get(found.kind, "") + show(found.value)
    if not math.isfinite(found.low + found.high):
        return value, ""
    below, above = show(found.value - found.low), show(found.high - found.value)
    return value, f"± {above}" if below == above else f"[{show(found.low)}, {show(found.high)}]"
