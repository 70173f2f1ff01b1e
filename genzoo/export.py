"""python -m genzoo.export run=outputs/... out=FOLDER: a trained model to share, in files that run no code."""

import hashlib
import html
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save as serialise
from torch import Tensor

from genzoo import runs
from genzoo.command import PATHS, command, plain
from genzoo.files import write_bytes
from genzoo.generator import Generator
from genzoo.provenance import command_line, redacted
from genzoo.trust import check

FORMAT = 1
WEIGHTS, CONFIG, README, SAMPLES = "model.safetensors", "config.json", "README.md", "samples.png"
DATA = ("name", "image_shape", "repo", "config")  # of the data's settings; the others are paths here, and how to train
ORIGIN = ("family", "sampling", "config_hash", "git_commit", "git_dirty", "versions", "started", "finished")
NEEDED = {"format", "sha256", "settings", "images_seen", "provenance"}  # keys of config.json


@command("export")
def main(cfg: DictConfig) -> None:
    settings = plain(cfg)
    run, out = Path(settings["run"]), Path(settings["out"])
    trained, record = runs.read_settings(run), runs.finished(run)
    if record is None:
        raise ValueError(f"{run} has no whole {runs.METRICS}: repeat its genzoo.run command, then export it")
    check(trained, settings["allow"])
    write(out, runs.load(run, allow=settings["allow"]), trained, record)
    if (run / SAMPLES).is_file():
        write_bytes(out / SAMPLES, (run / SAMPLES).read_bytes())
    print(f"{title(trained, record['provenance'])} -> {out}")


def write(out: Path, model: Generator, settings: dict[str, Any], record: dict[str, Any]) -> None:
    """Fill a folder that `read` and genzoo.load take; settings: of the run, record: its metrics.json.

    Nothing of the machine goes with it: no path, no secret, no environment. config.json, which knows the weights by
    their sha256, comes last: a folder that was left half written is refused and not mistaken for another.
    Raises ValueError when `out` is itself the folder of a run, OSError when it cannot be written.
    """
    if (out / runs.SETTINGS).is_file():
        raise ValueError(f"out={out} is a run folder, which loads as it is: give another folder")
    weights = serialise(separate(model.state_dict()))
    content = {
        "format": FORMAT,
        "sha256": hashlib.sha256(weights).hexdigest(),
        "settings": {
            "model": alone(settings["model"]),
            "data": {k: v for k, v in settings["data"].items() if k in DATA},
        },
        "images_seen": model.images_seen,
        **{key: record[key] for key in ("protocol", "protocol_id", "scores", "likelihoods") if key in record},
        "provenance": origin(record["provenance"]),
    }
    write_bytes(out / README, "\n".join(card(content, model)).encode())
    write_bytes(out / WEIGHTS, weights)
    write_bytes(out / CONFIG, (json.dumps(content, indent=2) + "\n").encode())


def alone(model: dict[str, Any]) -> dict[str, Any]:
    """A model's settings with those of its first stage in the place of the folder, whose weights the model has, too."""
    stage = model.get("first_stage")
    if not isinstance(stage, dict) or stage["_target_"] != "genzoo.runs.load":
        return model
    folder = runs.folder_of(stage["run_dir"])
    settings = read_config(folder / CONFIG)["settings"] if is_shared(folder) else runs.read_settings(folder)
    return model | {"first_stage": alone(settings["model"])}


def separate(state: dict[str, Any]) -> dict[str, Tensor]:
    """Copies on the CPU that share no memory, as safetensors wants them. Raises ValueError for what is no tensor."""
    if odd := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"{odd[0]} of the model's state is no tensor: only tensors can be shared")
    return {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()}


def origin(provenance: dict[str, Any]) -> dict[str, Any]:
    """Where a model came from, without paths and what looks like a secret."""
    overrides = [redacted(o) for o in provenance["overrides"] if o.partition("=")[0].lstrip("+") not in PATHS]
    kept = {key: provenance[key] for key in ORIGIN if key in provenance}
    return {**kept, "command": command_line("genzoo.run", overrides)}


def title(settings: dict[str, Any], provenance: dict[str, Any]) -> str:
    return f"{provenance['family']} on {settings['data']['name']}"


def card(content: dict[str, Any], model: Generator) -> Iterator[str]:
    """The lines of README.md: which model this is, how good, how to load it."""
    shape, provenance = " x ".join(map(str, model.image_shape)), content["provenance"]
    yield f"# {inline(title(content['settings'], provenance))}\n"
    yield f"A generative model of {shape} images ({type(model).__name__}), trained by genzoo on "
    yield f"{content['images_seen']:,} images seen of {inline(content['settings']['data']['name'])} with the command\n"
    yield f"    {inline(provenance['command'])}\n"
    yield f"and sampled by {inline(provenance['sampling'])}.\n" if provenance.get("sampling") else ""
    yield '```python\nimport genzoo\n\nmodel = genzoo.load("THIS FOLDER")'
    yield f"images = model.sample(64)  # (64, {', '.join(map(str, model.image_shape))}) in [-1, 1]\n```\n"
    yield from scored(content)


def scored(content: dict[str, Any]) -> Iterator[str]:
    """The lines of a Markdown table of the scores with their 95% intervals."""
    if not content.get("scores"):
        yield "It was not scored.\n"
        return
    yield "| score | value | 95% interval | images |\n|---|---:|---:|---:|"
    for name, row in content["scores"].items():
        interval = "{:.4g} to {:.4g}".format(*row["ci95"]) if row.get("ci95") else ""
        yield f"| {inline(name)} | {row['value']:.4g} | {interval} | {row.get('n', '')} |"
    yield f"\nProtocol {inline(content['protocol_id'])}; {CONFIG} has it whole.\n"


def inline(text: object) -> str:
    """Any text as Markdown that stays on its line and in its cell."""
    return html.escape(" ".join(str(text).split()), quote=False).replace("|", "\\|").replace("`", "'")


def is_shared(folder: str | Path) -> bool:
    """Whether a folder is, or was meant as, one that `write` filled, and no run."""
    folder = Path(folder)
    there = any((folder / name).is_file() for name in (WEIGHTS, CONFIG))
    return there and not (folder / runs.SETTINGS).is_file()


def read(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """What a shared folder holds: settings with "model" and "data", the weights, and the rest of its config.json.

    Raises FileNotFoundError for a file that is missing, ValueError for one that is damaged.
    """
    for path in (Path(folder) / CONFIG, Path(folder) / WEIGHTS):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: fetch the folder again, or export the run again")
    content = read_config(Path(folder) / CONFIG)
    path = Path(folder) / WEIGHTS
    raw = path.read_bytes()
    if hashlib.sha256(raw).hexdigest() != content["sha256"]:
        raise ValueError(f"{path} has not the sha256 in {CONFIG}: one of them is damaged; fetch both again")
    try:
        weights = parse(raw)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file ({error}): fetch it again") from error
    return content["settings"], weights, {key: value for key, value in content.items() if key != "settings"}


def read_config(path: Path) -> dict[str, Any]:
    """A whole config.json of a format that is known. Raises ValueError for any other."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}): fetch it again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise ValueError(f"{path} is of format {found}, this genzoo reads {FORMAT}: take the genzoo that wrote it")
    settings = content.get("settings")
    missing = NEEDED - content.keys() or {"model", "data"} - (settings.keys() if isinstance(settings, dict) else set())
    if missing:
        raise ValueError(f"{path} lacks {min(missing)}: fetch it again")
    return content


def load(folder: str | Path, map_location: str | torch.device = "cpu", allow: Iterable[str] = ()) -> Generator:
    """The model of a shared folder, in evaluation mode. It runs no code that `genzoo.trust.check` does not let through.

    Raises FileNotFoundError and ValueError as `read` and `check` do, and ValueError for weights of another model.
    """
    settings, weights, extras = read(folder)
    check(settings, allow)
    model: Generator = instantiate(settings["model"], _convert_="all")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{Path(folder) / WEIGHTS} does not fit the model of {CONFIG}: {error}") from error
    model.images_seen = extras["images_seen"]
    return model.to(map_location).eval()


if __name__ == "__main__":
    main()
