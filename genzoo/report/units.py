"""Numbers the way a paper prints them: 0.41 M, 87 s, 1,024, NaN as NaN, a dash for what was not measured."""

import math
from collections.abc import Callable, Sequence

MISSING = "–"
Show = Callable[[object], str]


def said(show: Callable[[float], str]) -> Show:
    """Lets `show` see finite numbers only; None is a dash, all else is printed as it is."""

    def text(value: object) -> str:
        if value is None:
            return MISSING
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return str(value)
        return show(value) if math.isfinite(value) else str(value).replace("nan", "NaN").replace("inf", "∞")

    return text


def quantity(units: Sequence[tuple[float, float, str]]) -> Show:
    """A printer of numbers with a unit; each entry is (used from this value on, its size, its name)."""

    def show(value: float) -> str:
        size, unit = next(((size, unit) for start, size, unit in units if abs(value) >= start), units[-1][1:])
        scaled = value / size
        digits = 2 if abs(scaled) < 1 else 1 if abs(scaled) < 20 else 0
        return f"{scaled:,.{digits}f} {unit}"

    return said(show)


# Millions from 100,000 on: nets of 0.08 M and 0.41 M are then read on one scale.
count = quantity([(1e9, 1e9, "B"), (1e5, 1e6, "M"), (0, 1e3, "k")])
duration = quantity([(7200, 3600, "h"), (120, 60, "min"), (0, 1, "s")])
work = quantity([(1e12, 1e12, "T"), (1e9, 1e9, "G"), (1e6, 1e6, "M"), (0, 1e3, "k")])  # multiply-adds
latency = quantity([(1, 1, "s"), (1e-3, 1e-3, "ms"), (0, 1e-6, "µs")])
memory = quantity([(1e9, 1e9, "GB"), (0, 1e6, "MB")])
integer = said(lambda value: f"{value:,.0f}")


def decimals(digits: int) -> Show:
    """A printer with that many decimals, but none below 0 and at most 4."""
    digits = min(max(digits, 0), 4)
    return said(lambda value: f"{value:z,.{digits}f}")  # z: no minus before a zero


def short(value: float) -> str:
    """An axis label: 20000 -> 20 k, 0.05 -> 0.05, 2500000 -> 2.5 M."""
    for size, unit in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def counted(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n:,} {noun}s"
