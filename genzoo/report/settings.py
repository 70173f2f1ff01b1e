"""A setting is what a run was asked to do but for its seed: runs of one setting differ by luck alone."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from genzoo.report.runs import Run

# Names of places and of who logs; and the protocol, which metrics.json states as it was used.
INCIDENTAL = ("study", "folder", "logger", "hydra", "data.root", "data.path", "metrics", "features")
UNSAMPLED = ("metrics", "features", "device", "data.")  # overrides of genzoo.score that leave the sampling as it was


def flat(config: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    found: dict[str, Any] = {}
    for key, item in config.items():
        found |= flat(item, f"{above}{key}.") if isinstance(item, dict) and item else {f"{above}{key}": item}
    return found


def essence(config: dict[str, Any]) -> dict[str, Any]:
    """The dotted keys of a configuration that its runs share whatever their seed: no seeds, no places of files."""
    folder = str(config.get("folder") or "")
    return {
        key: item
        for key, item in flat(config).items()
        if not (_is_seed(key) or _is_incidental(key) or (folder and f"{item}/".startswith(f"{folder}/")))
    }


def _is_seed(key: str) -> bool:
    return key.rpartition(".")[2] == "seed" or key.endswith("_seed")


def _is_incidental(key: str) -> bool:
    return any(f"{key}.".startswith(f"{name}.") for name in INCIDENTAL)


def settings(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs of one protocol by setting, each setting's seeds in order.

    A seed that a setting already has is no further seed: such a run begins a setting of its own.
    """
    found: dict[tuple[str, int], list[Run]] = {}
    times: Counter[tuple[str, str]] = Counter()
    for run in runs:
        key, seed = _key(run), str(run.seed)
        found.setdefault((key, times[key, seed]), []).append(run)
        times[key, seed] += 1
    return [sorted(same, key=lambda run: f"{run.seed!s:>20}") for same in found.values()]


def _key(run: Run) -> str:
    """A run scored again may have sampled otherwise than its config.yaml says: its words and overrides tell."""
    return json.dumps([essence(run.config), run.provenance.get("sampling"), resampled(run)], default=str)


def trained(found: Sequence[list[Run]]) -> tuple[list[list[Run]], list[list[Run]]]:
    """The settings parted into those that stand for what was trained, and the same trainings sampled otherwise.

    A training is stood for by the record of its own sampling. Where a protocol has none, by the one of the most
    network calls, which is chosen without a look at its scores.
    """
    first: list[list[Run]] = []
    again: list[list[Run]] = []
    for same in sorted(found, key=_standing):
        known = {run.folder for other in first for run in other}
        (again if known & {run.folder for run in same} else first).append(same)
    return first, again


def _standing(same: Sequence[Run]) -> tuple[bool, bool, int, float]:
    """Sorts own sampling before others, a run's own record before one scored again, many seeds and calls before few."""
    calls = same[0].metrics.get("cost", {}).get("nfe")
    number = float(calls) if isinstance(calls, (int, float)) else 0.0
    other = bool(resampled(same[0]))
    return other, bool(same[0].variant), other * -len(same), other * -number


def resampled(run: Run) -> list[str]:
    """What a second scoring asked of the sampling, not of the protocol or the machine."""
    return [override for override in run.added if not override.startswith(UNSAMPLED)]


def words(overrides: Sequence[str]) -> list[str]:
    """["sampler=heun", "steps=10", "guidance.scale=2"] -> ["heun", "10 steps", "guidance.scale=2"]."""
    return [re.sub(r"^steps=(.+)", r"\1 steps", override).removeprefix("sampler=") for override in overrides]


def asked(run: Run) -> list[str]:
    """The overrides of the command that trained it which say more than family, seed, place and protocol."""
    every = [str(override) for override in run.provenance.get("overrides") or []]
    own = every[: len(every) - len(run.added)]
    plain = [override for override in own if not override.startswith(("model=", "seed="))]
    return [override for override in plain if not _is_incidental(override.partition("=")[0].lstrip("+"))]


def names(found: Sequence[Sequence[Run]]) -> list[str]:
    """A name a training: the family, what its commands asked and others did not, its place if that is not enough."""
    overrides = [_shared([asked(run) for run in runs]) for runs in found]
    common = set(_shared(overrides))
    short = [
        ", ".join([runs[0].family, *(o for o in own if o not in common)])
        for runs, own in zip(found, overrides, strict=True)
    ]
    twice = Counter(short)
    return [f"{name} ({runs[0].place})" if twice[name] > 1 else name for name, runs in zip(short, found, strict=True)]


def _shared(lists: Sequence[Sequence[str]]) -> list[str]:
    """What all the lists hold, in the first one's order."""
    return [item for item in lists[0] if all(item in other for other in lists[1:])]
