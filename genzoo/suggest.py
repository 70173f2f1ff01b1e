"""What Hydra refuses, said in one line: the culprit, the nearest names that there are, what to write instead."""

import difflib
import inspect
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf

PLAIN = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a word",
    list: "a list, as in [1,2]",
    types.NoneType: "null",
}


def nearest(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """The known names most like this one, best first: beside it, then those of other parents that end like it.

    >>> nearest("lr", ["seed", "model.optimizer.lr"])
    ['model.optimizer.lr']
    >>> nearest("model.betta", ["model.beta", "model.net", "beta"])
    ['model.beta']
    """
    parts = {key: key.rpartition(".") for key in known}
    head, _, last = name.rpartition(".")
    beside = {end: key for key, (parent, _, end) in parts.items() if parent == head}
    found = [beside[end] for end in difflib.get_close_matches(last, beside, most)]
    found += difflib.get_close_matches(name, parts, most, cutoff=0.85)
    found += [key for key, (_, _, end) in parts.items() if end == last]
    return list(dict.fromkeys(found))[:most]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """did you mean a or b? Where nothing is like it: there are a, b, c."""
    known = list(known)
    found = nearest(name, known)
    return f"did you mean {' or '.join(found)}?" if found else f"there are {', '.join(known) or 'none'}"


def one_line(text: object) -> str:
    return " ".join(str(text).split())


# --- What Hydra's composition raises.


def composition_sentence(error: Exception, folder: str, config_name: str, arguments: Sequence[str]) -> str:
    """An error of Hydra's before the program began. folder: conf/; arguments: of the command line."""
    match error:
        case OverrideParseException():
            return unreadable(error.override or str(error))
        case MissingConfigException(missing_cfg_file=str(missing)):
            return no_option(missing, list(error.options or options(folder, missing)))
    text = str(error)
    if found := re.match(r"Could not (?:override|delete from config\.) '~?([^']+)'", text):
        return no_key(found[1], folder, config_name, arguments)
    if found := re.search(r"config group '([^']+)' does not exist", text):
        return f"{found[1]} is no group of conf/: {did_you_mean(found[1], groups(folder))}"
    if found := re.match(r"Could not append to config\. An item is already at '([^']+)'", text):
        return f"{found[1]} is there already: leave out the + before {found[1]}="
    if found := re.match(r"Ambiguous value for argument '([^']+)'", text):
        return f"{found[1]} has several values: add -m to run them all, or write [...] around them for a list"
    if text.startswith("Config group override"):  # which Hydra does not name
        chosen = [a.replace("=", "/", 1) for a in arguments if a.partition("=")[0] in groups(folder)]
        for wrong in (choice for choice in chosen if Path(choice).name not in options(folder, choice)):
            return no_option(wrong, options(folder, wrong))
    return one_line(f"{error}: {error.__cause__}" if error.__cause__ else error)


def unreadable(override: str) -> str:
    """An override that Hydra's grammar refuses."""
    if "=" not in override:
        return f"{override!r} sets nothing: write {override}=VALUE"
    return f"{override!r} cannot be read: close its brackets and quotes, and quote a value with , or = in it"


def no_option(missing: str, known: Sequence[str]) -> str:
    """model/dppm, of the groups in conf/, is no file."""
    group, _, name = missing.rpartition("/")
    if not group:
        return f"--config-name={name}: conf/ has no {name}.yaml; {did_you_mean(name, known)}"
    there = f" (there are {', '.join(known)})" if nearest(name, known) else ""
    return f"{group}={name}: conf/{group} has no {name}; {did_you_mean(name, known)}{there}"


def no_key(key: str, folder: str, config_name: str, arguments: Sequence[str]) -> str:
    """A key that the composed configuration does not have."""
    there = known_keys(folder, config_name, arguments)
    if key in there:
        return f"{key} has no place: another override gives {key.rpartition('.')[0]} a value; leave that one out"
    found = nearest(key, there)
    remedy = f"did you mean {' or '.join(found)}?" if found else "--cfg job lists them all"
    return f"no setting is called {key}; {remedy}"


def groups(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir() if path.is_dir() and path.name != "hydra")


def options(folder: str, missing: str) -> list[str]:
    return sorted(path.stem for path in (Path(folder) / missing).parent.glob("*.yaml"))


def known_keys(folder: str, config_name: str, arguments: Sequence[str] = ()) -> list[str]:
    """Groups and dotted keys of the configuration as far as the arguments choose groups that there are."""
    there = groups(folder)
    chosen = [a for a in arguments if a.partition("=")[0] in there and "," not in a]
    ready = GlobalHydra.instance().is_initialized()
    with nullcontext() if ready else initialize_config_dir(folder, version_base="1.3"):
        try:
            cfg = compose(config_name, overrides=chosen)
        except HydraException:
            cfg = compose(config_name)
    return [*there, *dotted(OmegaConf.to_container(cfg))]


def dotted(content: Any, key: str = "") -> Iterator[str]:
    """a.b.c for every value in nested dicts, outer keys first."""
    for name, value in content.items() if isinstance(content, dict) else ():
        yield f"{key}{name}"
        yield from dotted(value, f"{key}{name}.")


def refuse_added(overrides: Iterable[str], choices: Iterable[str], known: Callable[[], list[str]]) -> None:
    """Raise ValueError for +name=value at the top, which no part of the program would read.

    choices: the groups that Hydra chose from; known: the keys of the configuration without it.
    """
    added = {o.lstrip("+").partition("=")[0].partition("@")[0]: o for o in overrides if o.startswith("+")}
    for name in added.keys() - {*choices}:
        if not {".", "/"} & {*name} and name not in known():
            raise ValueError(f"{added[name]}: nothing reads {name}; {did_you_mean(name, known())}")


# --- What a `_target_` is given.


def refuse_misfits(node: Any, raw: dict[str, Any], key: str = "") -> None:
    """Raise ValueError for a `_target_` that cannot be imported, or is given what it does not take.

    node: nested plain dicts and lists, resolved; raw: the whole configuration with its ${...}, by which an error names
    the key that was set. Nothing is called, so that this comes before all work.
    """
    if isinstance(node, dict) and isinstance(node.get("_target_"), str):
        refuse_misfit(node, raw, key)
    for name, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        refuse_misfits(value, raw, origin(raw, key, name))


def origin(raw: dict[str, Any], parent: str, name: object) -> str:
    """The dotted key of a parent's value, or the one that it refers to by ${...}."""
    key = f"{parent}.{name}".strip(".")
    value: Any = raw
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    whole = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
    return origin(raw, "", whole[1]) if whole else key


def refuse_misfit(node: dict[str, Any], raw: dict[str, Any], key: str) -> None:
    """The same for one dict with a `_target_`."""
    target = node["_target_"]
    function = located(target, origin(raw, key, "_target_"))
    try:
        takes = inspect.signature(function).parameters
    except (TypeError, ValueError):  # of functions in C
        return
    anything = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    for name, value in node.items():
        if name.startswith("_"):
            continue
        said = f"{origin(raw, key, name)}={shown(value)}"
        if name in takes:
            refuse_type(value, takes[name], function, said)
        elif not anything:
            raise ValueError(f"{said}: {target} takes no {name}; {did_you_mean(name, takes)}")


def shown(value: Any) -> str:
    """A value as one types it, but for what is nested."""
    return "null" if value is None else "{...}" if isinstance(value, dict) else str(value)


def located(target: str, key: str) -> Callable[..., Any]:
    """The function or class of this dotted name."""
    try:
        return pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        found = hint(target)
        raise ValueError(f"{key}={target} cannot be imported: {found or one_line(error)}") from error


def hint(target: str) -> str:
    """Which part of a dotted name is wrong, and what is like it; "" where a module itself does not import."""
    owner, *parts = target.split(".")
    for part in parts:
        try:
            pkgutil.resolve_name(f"{owner}.{part}")
        except Exception:  # whatever a module raises while it is imported
            there = names_in(owner)
            return f"{owner} has no {part}; {did_you_mean(part, there)}" if there and part not in there else ""
        owner = f"{owner}.{part}"
    return ""


def names_in(owner: str) -> list[str]:
    """What a module or class holds, with the modules of a package."""
    try:
        thing = pkgutil.resolve_name(owner)
    except ImportError:
        return []
    inside = [module.name for module in pkgutil.iter_modules(getattr(thing, "__path__", []))]
    return inside or [name for name in vars(thing) if not name.startswith("_")]


def refuse_type(value: Any, parameter: inspect.Parameter, function: Callable[..., Any], said: str) -> None:
    """Raise ValueError when a word, number, list, true, false or null stands where the annotation takes others."""
    if value is None and parameter.default is None:
        return
    taken = annotated(function, parameter.name)
    if type(value) not in PLAIN or not taken or not taken <= PLAIN.keys():
        return
    if type(value) not in taken and not (type(value) is int and float in taken):
        raise ValueError(f"{said}: give {' or '.join(word for kind, word in PLAIN.items() if kind in taken)}")


def annotated(function: Callable[..., Any], name: str) -> set[Any]:
    """The types of a parameter's annotation, without Tensor, which no setting is; empty where they are unknown."""
    try:
        hint = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)[name]
    except Exception:  # a name that is imported for type checkers alone, or a parameter of **kwargs
        return set()
    union = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return {
        list if typing.get_origin(kind) in (list, Sequence) else kind
        for kind in union
        if getattr(kind, "__name__", "") != "Tensor"
    }
