"""A run folder that came from elsewhere names the code to call; only harmless code may be named there.

Hydra calls whatever a `_target_` names. `check` lets through the classes and functions that models, data and metrics
are made of, judged by where they are defined and not by how they are spelled: `genzoo.nets.conv.torch.hub.load` lies
in torch.hub. Nothing outside the allowed modules is imported on the way, since importing already runs code.
"""

from collections.abc import Iterable, Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

# Every class and function that is defined below these: they compute, and touch neither files nor the network; but for
# genzoo.nets.text.ClipText, genzoo.nets.depth.Depth and genzoo.nets.foreign, which read JSON and safetensors where
# their path says, and call nothing that these name. Not all of torch.nn: torch.nn.attention imports modules by the name
# that it is given.
ROOMS = (
    "genzoo.models", "genzoo.nets", "genzoo.diffusion", "genzoo.metrics.scores",
    "torch.nn.modules", "torch.nn.functional", "torch.optim",
    "nflows.distributions", "nflows.flows", "nflows.nn", "nflows.transforms",
)  # fmt: skip
SHORT = "torch.nn"  # where classes of torch.nn.modules go by a shorter name
# Of the rooms that read and write files: what conf/ names.
NAMES = {
    "genzoo.data.datamodule.DataModule", "genzoo.data.digits.digits", "genzoo.data.folder.folder",
    "genzoo.data.hub.hub", "genzoo.data.idx.fashion_mnist", "genzoo.data.idx.mnist", "genzoo.data.scenes.scenes",
    "genzoo.data.toy2d.toy2d",
    "genzoo.metrics.evaluate.evaluate", "genzoo.metrics.features.cifar10", "genzoo.metrics.features.classifier",
    "genzoo.metrics.features.dinov2", "genzoo.metrics.features.efficientnet", "genzoo.metrics.features.inception",
    "genzoo.metrics.features.pixels",
    "genzoo.runs.load",  # which judges the folder that it reads
}  # fmt: skip
TRAINING = {section: ("genzoo", "pytorch_lightning") for section in ("callbacks", "logger", "on_nan", "trainer")}
LOOKUPS = {"hydra.utils.get_class", "hydra.utils.get_method", "hydra.utils.get_object"}
SPECIAL = {"_target_", "path", "_convert_", "_recursive_"}  # what a look-up may be given
MOST, DEEPEST = 20_000, 50  # values of a configuration and levels of nesting; runs have some hundreds, and seven


def check(config: Any, allow: Iterable[str] = ()) -> None:
    """Let a plain configuration (dicts, lists) of a run folder through if all that it has Hydra call is harmless.

    allow: packages or modules whose own classes and functions may be called too, "mypackage" or "mypackage.nets".
    The sections of TRAINING, which no command takes from a run folder, may also name what is defined in genzoo and
    Lightning.
    Raises ValueError naming key and value: a `_target_` or the path of a look-up such as hydra.utils.get_method that
    is none of these, an interpolation (a run's configuration holds none, and one may read the environment), or a
    configuration too large or too deep to be one.
    """
    allowed = (allow,) if isinstance(allow, str) else tuple(allow)
    for key, value in values(config):
        if isinstance(value, str) and "${" in value:
            raise ValueError(f"{key}={value} is an interpolation, which no run folder holds: do not use this folder")
        if isinstance(value, dict) and "_target_" in value:
            judge(key, value, (*allowed, *ROOMS, *TRAINING.get(key.split(".")[0], ())))


def values(config: Any) -> Iterator[tuple[str, Any]]:
    """Every value of a configuration with its dotted key; YAML's aliases may make a small file endless."""
    waiting, found = [("", config)], 0
    while waiting:
        key, value = waiting.pop()
        found += 1
        if found > MOST or key.count(".") > DEEPEST:
            raise ValueError(f"the configuration has over {MOST:,} values or {DEEPEST} levels: no run wrote it")
        yield key, value
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        waiting += ((f"{key}.{name}".lstrip("."), below) for name, below in inner)


def judge(key: str, node: dict[str, Any], places: tuple[str, ...]) -> None:
    """Raise ValueError unless a node with a `_target_` calls, or looks up, something that may be called."""
    name, target = "_target_", node["_target_"]
    if str(target) in LOOKUPS and {"path"} <= node.keys() <= SPECIAL:  # without _args_ or _partial_: it stands here
        name, target = "path", node.get("path")
        if is_dtype(target):
            return
    if not isinstance(target, str) or not (target in NAMES or harmless(target, places)):
        raise ValueError(
            f"{f'{key}.{name}'.lstrip('.')}={target} may not be called: it is none of genzoo's models, nets, data and "
            f"metrics, nor of torch.nn and torch.optim; only if you trust this folder, add allow=[{root(target)}]"
        )


def root(target: Any) -> str:
    return target.split(".")[0] if isinstance(target, str) else "PACKAGE"


def harmless(target: str, places: tuple[str, ...]) -> bool:
    """Whether a dotted path leads to a class or function that is itself defined below one of the places."""
    module = target.rpartition(".")[0]
    if module != SHORT and not any(below(module, place) for place in places):
        return False
    home = getattr(located(target), "__module__", None)
    return isinstance(home, str) and any(below(home, place) for place in places)


def below(name: str, place: str) -> bool:
    return name == place or name.startswith(f"{place}.")


def located(target: str) -> Any:
    """What Hydra would find at a dotted path; None if that is no class or function, or lies on a detour.

    Each part but the last has to be a module under its own name: no way leads through a module's imports
    (`genzoo.runs.os.system`) or into a class (a method that it inherited from elsewhere).
    """
    *modules, last = target.split(".")
    found: Any = None
    for i, part in enumerate(modules):
        name = ".".join(modules[: i + 1])
        found = getattr(found, part, None) or imported(name)
        if not isinstance(found, ModuleType) or found.__name__ != name:
            return None
    named = vars(found).get(last) if found else None
    return named if callable(named) and hasattr(named, "__qualname__") else None


def imported(name: str) -> ModuleType | None:
    """A module, which lies in one of the places or is a package around it; None if there is none of that name."""
    try:
        return import_module(name)
    except ImportError:
        return None


def is_dtype(path: Any) -> bool:
    """Whether a path is torch.float32 or one of its kind."""
    package, _, name = str(path).partition(".")
    return package == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
