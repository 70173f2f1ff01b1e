"""Fine-tuning: training begins with another run's weights, and may go on learning from that run's own samples."""

import hashlib
import json
import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn

from genzoo import export, runs
from genzoo.asking import condition_of, conditions_of, in_turn
from genzoo.checkpoints import newest
from genzoo.data.datamodule import to_float
from genzoo.data.splits import Images
from genzoo.files import write_whole
from genzoo.generator import Batch, Generator
from genzoo.metrics.draw import draw, per_image
from genzoo.models.latent import Latent
from genzoo.nets.lora import base
from genzoo.nets.maps import Maps
from genzoo.nets.text import Text, captions, shared_ids
from genzoo.told import Classed, Told

log = logging.getLogger("genzoo")
ORIGIN, PRIOR = "from.json", "prior.npz"
STAGE = "first_stage."  # begins the names of what a two-stage model holds of its first stage
APART = 2**20  # from the seeds of scores: no sample is judged whose noise made an image that was trained on


def check(settings: dict[str, Any]) -> None:
    """Raises ValueError for numbers that there cannot be, and for a fine-tuning of nothing."""
    lora, prior = settings["lora"], settings["prior"]
    for key, value in {"lora.rank": lora["rank"], "prior.n": prior["n"]}.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"{key}={value}: give a whole number of at least 1")
    for key, value in {"lora.alpha": lora["alpha"], "prior.weight": prior["weight"]}.items():
        if value is not None and (not isinstance(value, int | float) or isinstance(value, bool) or not value > 0):
            raise ValueError(f"{key}={value}: give a number above 0, or null")
    for key, value in {"lora.rank": lora["rank"], "prior.weight": prior["weight"]}.items():
        if value is not None and not settings["from"]:
            raise ValueError(f"{key}={value} needs a trained model to begin with: add from=RUN_FOLDER")
    if prior["y"] is not None and prior["weight"] is None:
        raise ValueError(f"prior.y={prior['y']} says what is drawn to go on learning from: add prior.weight=1")


def begin(settings: dict[str, Any], folder: Path, model: Generator, trainer: Trainer) -> None:
    """What `from` asks for, before training: its weights, unless this run has a checkpoint, and its samples.

    A resumed run needs the folder of the other one no more. Of several processes rank 0 has to come first.
    Raises ValueError for a model of another kind, for LoRA or a prior with two players, and for a prior.y that the
    other run's model does not take.
    """
    run, prior = settings["from"], settings["prior"]
    weight = prior["weight"]
    if not run:
        return
    if not model.automatic_optimization and (settings["lora"]["rank"] or weight):
        raise ValueError(f"{model.family} trains two players: leave out lora.rank and prior.weight, and tune it whole")
    if newest(folder / runs.CHECKPOINTS) is None:
        record = take(model, run, settings["model"])
        if trainer.is_global_zero:
            runs.write_json(folder / ORIGIN, record)
            trainer.callbacks.append(NewWords(run))
    if weight:
        path = folder / PRIOR
        if not path.is_file():
            save(drawn(run, prior["n"], settings["seed"], trainer.strategy.root_device, prior["y"]), path)
        trainer.callbacks.append(Preserve(kept(path), weight))


def origin(folder: Path) -> dict[str, Any]:
    """Under "from", what a run began with: the run, the sha256 of its weights, and the images that these have learned
    from, there and in the runs before it, which no budget here counts. Empty for a run that began with nothing."""
    path = folder / ORIGIN
    return {"from": json.loads(path.read_text())} if path.is_file() else {}


# --- Weights.


def take(model: Generator, run: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Give a model the averaged weights of a run; returns what `origin` tells.

    Buffers that training has filled come along where they fit: those of another shape the new data fill. Buffers that
    follow from the settings, such as noise levels, stay as `settings`, of the new model, have them.
    Raises ValueError for a parameter that only one of the two has, or that has another shape, and for a first stage
    with other weights: what was learned of the latents of one says nothing of another's.
    """
    source, theirs = runs.load(run), settings_of(run)
    mine, there, untrained = base(model), base(source), base(instantiate(theirs, _convert_="all"))
    others = runs.differences(theirs, settings, "model")
    refuse_stage(run, mine, there, theirs, settings)
    refuse_misfit(run, mine, there, others)
    if others:
        log.info("from=%s: other settings than there: %s", run, ", ".join(others[:5]))
    with torch.no_grad():
        for name, value in there.items():
            learned = isinstance(value, nn.Parameter) or not same(value, untrained.get(name))
            if learned and name in mine and mine[name].shape == value.shape:
                mine[name].copy_(value)
    place = runs.folder_of(run)
    return {
        "run": run,
        "sha256": hashlib.sha256(weights_of(run).read_bytes()).hexdigest(),
        "images_seen": source.images_seen + origin(place).get("from", {}).get("images_seen", 0),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def same(a: Tensor, b: Tensor | None) -> bool:
    return b is not None and torch.equal(a, b)


def refuse_misfit(run: str, mine: dict[str, Tensor], there: dict[str, Tensor], others: list[str]) -> None:
    """Raises ValueError for the first parameter that differs; others: the settings that do."""
    for name in dict.fromkeys([*mine, *there]):
        pair = [state.get(name) for state in (there, mine)]
        shapes = ["missing" if p is None else str(tuple(p.shape)) for p in pair]
        if shapes[0] != shapes[1] and any(isinstance(p, nn.Parameter) for p in pair):
            remedy = f"set as there {', '.join(others[:3])}" if others else "name a run of this model"
            raise ValueError(f"from={run} does not fit: {name} is {shapes[0]} there and {shapes[1]} here; {remedy}")


def refuse_stage(
    run: str,
    mine: dict[str, Tensor],
    there: dict[str, Tensor],
    theirs: dict[str, Any],
    settings: dict[str, Any],
) -> None:
    """Raises ValueError for a two-stage model on another first stage than the run's; theirs: the run's settings."""
    a, b = ({name: t for name, t in state.items() if name.startswith(STAGE)} for state in (mine, there))
    if a and b and (a.keys() != b.keys() or not all(same(t, b[name]) for name, t in a.items())):
        here, known = (model["first_stage"].get("run_dir") for model in (settings, theirs))
        remedy = (
            f"set first_stage={known}, as there" if known and known != here else "set the one that it was trained on"
        )
        raise ValueError(f"from={run} was trained on another first stage than first_stage={here}: {remedy}")


def settings_of(run: str) -> dict[str, Any]:
    """The settings of a trained model."""
    read = export.read(run)[0] if export.is_shared(run) else runs.read_settings(runs.folder_of(run))
    return read["model"]


def weights_of(run: str) -> Path:
    """The file that holds them."""
    if export.is_shared(run):
        return Path(run) / export.WEIGHTS
    return Path(run) if run.endswith(".ckpt") else newest(Path(run) / runs.CHECKPOINTS)


class NewWords(Callback):
    """Warns, before a training on captions, of new words that the weights of a run take for words that they know."""

    def __init__(self, run: str) -> None:
        self.run = run

    def on_fit_start(self, trainer: Trainer, model: Generator) -> None:
        model = model.generator if isinstance(model, Latent) else model
        text, y = condition_of(model), trainer.datamodule.split("train").y
        if not isinstance(text, Text) or y is None or y.dtype != torch.uint8:
            return
        pairs = shared_ids(captions(y), captions(model.asks), text.words)
        if pairs:
            told = ", ".join(f"{new!r} as {old!r}" for new, old in pairs)
            log.warning("from=%s knows new words as others, by their ids: %s; choose other new words", self.run, told)


# --- Prior preservation.


def drawn(run: str, n: int, seed: int, device: torch.device, y: Any = None) -> Images:
    """n images of the model of a run, the same from every device, of what a user asks for (`conditions_of`) in turn, as
    of a class that is to be preserved, or of conditions as its training images had them.

    Raises ValueError for a y that the model does not take.
    """
    model = runs.load(run, device)
    y = in_turn(conditions_of(model, y, "prior.y"), n)
    log.info("drawing %d images of %s, to go on learning from", n, run)
    if y is None:
        with per_image(seed + APART, 0, n):
            y = asked(model, n)
    return Images(draw(model.sample, n, seed=seed + APART, y=y), None if y is None else y.cpu())


def asked(model: Generator, n: int) -> Tensor | None:
    """What a model draws n images of when it is asked for nothing."""
    model = model.generator if isinstance(model, Latent) else model
    return model.chosen(n, None) if isinstance(model, Told | Classed) else None


def save(images: Images, path: Path) -> None:
    arrays = {name: tensor.numpy() for name, tensor in zip("xy", images, strict=True) if tensor is not None}
    write_whole(path, partial(np.savez_compressed, **arrays))


def kept(path: Path) -> Images:
    with np.load(path) as arrays:
        x, y = (torch.from_numpy(arrays[name]) if name in arrays else None for name in "xy")
    return Images(x, y)


class Preserve(Callback):
    """Prior preservation: loss(new images) + weight * loss(as many images of the original model), equation 2 of Ruiz et
    al. 2023, with their conditions.

    prior: uint8 images, of which each step draws its own with torch's global generator.
    """

    def __init__(self, prior: Images, weight: float) -> None:
        self.prior, self.weight = prior, weight

    def on_train_start(self, trainer: Trainer, model: Generator) -> None:
        x, y = self.prior
        x = [to_float(part.to(model.device)) for part in x.split(256)]
        if isinstance(condition_of(model), Maps):  # which the data has without the channel of what is known
            y = y[:, :-1]
        if getattr(model, "encoded", False):  # as the training images are
            x = map(model.latents if isinstance(model, Latent) else model.codes, x)
        self.x, self.y = torch.cat(list(x)), None if y is None else y.to(model.device)
        self.alone = model.training_step
        model.training_step = self.step

    def on_train_end(self, trainer: Trainer, model: Generator) -> None:
        del model.training_step

    def step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """The family's training step on both halves, its terms those of the new images."""
        index = torch.randint(len(self.x), (len(batch[0]),)).to(self.x.device)
        old = self.x[index], None if self.y is None else self.y[index]
        new, prior = self.alone(batch, batch_idx), self.alone(old, batch_idx)
        loss = new["loss"] + self.weight * prior["loss"]
        return {**new, "loss": loss, "new": new["loss"].detach(), "prior": prior["loss"].detach()}
