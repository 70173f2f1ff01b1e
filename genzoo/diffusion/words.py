"""How samples are drawn, in words: ["ddim", "10 steps", "eta 0.5", "trailing"]."""

import inspect
from collections.abc import Callable


def described(function: Callable[..., object]) -> list[str]:
    """A function's name, and what partials of it set to other than its default, in words: ["ddim", "eta 0.5"]."""
    keywords: dict[str, object] = {}
    while hasattr(function, "func"):  # a partial, perhaps of a partial
        function, keywords = function.func, {**function.keywords, **keywords}
    usual = inspect.signature(function).parameters
    return [function.__name__, *(f"{key} {value}" for key, value in keywords.items() if value != usual[key].default)]


def sampling_in_words(sampler: Callable[..., object], steps: int, grid: Callable[..., object]) -> list[str]:
    """A sampler's name, its steps, what else was set of it, and its grid."""
    name, *options = described(sampler)
    return [name, f"{steps} step{'s' * (steps > 1)}", *options, " ".join(described(grid))]
