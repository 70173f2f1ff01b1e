"""Fine-tuning begins exactly where another run ended, needs that run no more, and keeps its own promises."""

import hashlib
import json
import shutil
import signal
from itertools import count, product
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image

from genzoo import export, finetune, runs
from genzoo.command import quoted
from genzoo.data.captions import caption_strings
from genzoo.data.datamodule import to_float
from genzoo.data.splits import Images
from genzoo.generator import Generator, to_uint8
from genzoo.nets.lora import LowRank
from genzoo.nets.text import word_id
from genzoo.run import finish

from . import test_resume
from .conftest import composed
from .torture import TINY, alike

SMALL = [*(o for o in TINY if not o.startswith(("data.flip", "metrics"))), "metrics=none"]
DDPM = ["model=ddpm", "steps=2", "model.bound_terms=2", "model.inversion=2", "condition=classes", *SMALL]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of digits with classes."""
    folder = tmp_path_factory.mktemp("first")
    finish(composed(f"folder='{folder}'", *DDPM, "budget.images=256"), folder, [])
    return folder


def samples(model: Generator) -> torch.Tensor:
    torch.manual_seed(1)
    return model.eval().sample(4, torch.arange(4))


def tuned(first: Path, *overrides: str) -> Generator:
    """The model of a fine-tuning before its first step."""
    settings = composed(f"from='{first}'", *DDPM, *overrides)
    model = runs.build(settings)
    finetune.take(model, str(first), settings["model"])
    return model


@pytest.mark.parametrize("overrides", [[], ["lora.rank=2"], ["lora.rank=2", "lora.modules=conv", "lora.alpha=8"]])
def test_it_begins_where_the_other_run_ended(first: Path, overrides: list[str]) -> None:
    there = runs.load(first)
    with torch.no_grad():
        untrained = samples(runs.build(composed(f"from='{first}'", *DDPM, *overrides)))
    assert not torch.equal(samples(there), untrained)
    assert torch.equal(samples(tuned(first, *overrides)), samples(there))


def test_another_model_is_refused_in_one_sentence(first: Path) -> None:
    sentence = (
        r"net\.conditioning\.time\.0\.weight is \(16, 4\) there and \(32, 8\) here; set as there model\.net\.width"
    )
    with pytest.raises(ValueError, match=rf"^from={first} does not fit: {sentence} \(4 there, 8 now\)"):
        tuned(first, "width=8")
    with pytest.raises(ValueError, match=r"does not fit: encoder\.\S+ is missing there and .*model\._target_"):
        settings = composed("model=vae", *SMALL)
        finetune.take(runs.build(settings), str(first), settings["model"])
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        tuned(first / "nowhere")


RECORD = {"protocol_id": "", "scores": {}, "provenance": {"family": "", "sampling": "", "overrides": []}}


@pytest.mark.parametrize(("family", "part"), [("latent", "decoder"), ("code_prior", "codebook")])
def test_two_stage_models_share_their_first_stage_or_are_refused(
    family: str, part: str, tmp_path: Path, monkeypatch
) -> None:
    config = composed(f"model={family}", "width=8", "steps=2")
    model, run, other = runs.build(config), tmp_path / "run", tmp_path / "other"
    export.write(run, model, config, RECORD)
    again = runs.build(config)
    finetune.take(again, str(run), config["model"])
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    there = config["first_stage"]
    stage = runs.load(there)
    with torch.no_grad():  # of the codebook's, which is a buffer, everything else stays
        next(t for name, t in stage.state_dict().items() if part in name).add_(1)
    export.write(other, stage, {**config, "model": export.read(there)[0]["model"]}, RECORD)
    on_other = composed(f"model={family}", "width=8", "steps=2", f"first_stage='{other}'")
    sentence = f"^from={run} was trained on another first stage than first_stage={other}: set "
    with pytest.raises(ValueError, match=f"{sentence}the one that it was trained on$"):
        finetune.take(runs.build(on_other), str(run), on_other["model"])
    monkeypatch.setattr(finetune, "settings_of", lambda run: config["model"])  # as a run has them, which names a folder
    with pytest.raises(ValueError, match=f"{sentence}first_stage={there}, as there$"):
        finetune.take(runs.build(on_other), str(run), on_other["model"])


def test_settings_stay_as_they_are_asked_for_and_what_was_learned_comes_along(first: Path) -> None:
    cosine = tuned(first, "model.sigmas._target_=genzoo.diffusion.schedules.cosine")
    there = runs.load(first)
    assert torch.equal(cosine.asks, there.asks) and not torch.equal(cosine.sigmas, there.sigmas)
    shorter = tuned(first, "model.sigmas.steps=50")
    assert len(shorter.sigmas) == 50 and torch.equal(shorter.net.stem.weight, there.net.stem.weight)
    there.asks = there.asks[:10]  # as of another data set's conditions
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "load", lambda run: there)
        assert len(tuned(first).asks) == 1000


TUNING = [*DDPM, "lora.rank=2", "prior.weight=0.5", "prior.n=16", "budget.images=256"]


@pytest.fixture(scope="module")
def whole(first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuning that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    finish(composed(f"folder='{folder}'", *TUNING, f"from='{first}'"), folder, [])
    return folder


def test_stops_change_nothing_and_the_first_run_may_go(first: Path, whole: Path, tmp_path: Path, monkeypatch) -> None:
    """Bit for bit; and as soon as its weights and images are there, the folder that it came from disappears."""
    copy = shutil.copytree(first, tmp_path / "a = copy, of it")
    drew = finetune.drawn
    monkeypatch.setattr(finetune, "drawn", lambda *arguments: [drew(*arguments), shutil.rmtree(copy)][0])
    monkeypatch.setattr(test_resume, "TINY", SMALL)
    stops = [(signal.SIGTERM, "on_train_batch_end", 64), (signal.SIGINT, "on_before_optimizer_step", 190)]
    stopped = test_resume.trained(tmp_path / "stopped", [*TUNING, f"from='{copy}'"], stops)
    assert not copy.exists()
    alike(whole, stopped)
    record = json.loads((stopped / runs.METRICS).read_text())["provenance"]["from"]
    weights = first / runs.CHECKPOINTS / "last.ckpt"
    assert record["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert record["images_seen"] == 256 and record["run"] == str(copy)


def test_its_model_is_a_plain_one_that_needs_no_other_run(first: Path, whole: Path, tmp_path: Path) -> None:
    model = runs.load(whole)
    assert model.images_seen == 256 and not any(isinstance(m, LowRank) for m in model.modules())
    assert model.state_dict().keys() == runs.load(first).state_dict().keys()
    assert not torch.equal(samples(model), samples(runs.load(first)))
    export.write(tmp_path, model, runs.read_settings(whole), runs.finished(whole))
    assert torch.equal(samples(runs.load(tmp_path)), samples(model))
    assert torch.equal(samples(tuned(tmp_path)), samples(model))  # a shared folder is a beginning, too
    with (whole / "curves.csv").open() as lines:
        assert {"train/prior", "train/new"} <= {line.split(",")[2] for line in lines}


def test_with_lora_the_frozen_weights_stay_those_of_the_first_run(first: Path, whole: Path) -> None:
    state = torch.load(whole / runs.CHECKPOINTS / "last.ckpt", weights_only=True)
    there = runs.load(first).state_dict()
    name = "net.down.0.res.conv1"
    mark = f"{name}.parametrizations.weight."
    for weights in (state["state_dict"], state["ema"]["average"]):
        assert torch.equal(weights[f"{mark}original"], there[f"{name}.weight"]) and weights[f"{mark}0.B"].any()
    b, a = (state["ema"]["average"][f"{mark}0.{part}"] for part in "BA")
    merged = there[f"{name}.weight"] + (b @ a).view_as(there[f"{name}.weight"])
    torch.testing.assert_close(runs.load(whole).state_dict()[f"{name}.weight"], merged)
    layers = [m.weight for m in runs.load(first).modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    expected = sum(2 * (len(w) + w[0].numel()) for w in layers)
    assert runs.finished(whole)["provenance"]["from"]["trained_parameters"] == expected


def test_images_of_a_run_before_count_where_it_is_told(first: Path, tmp_path: Path) -> None:
    (tmp_path / runs.SETTINGS).write_bytes((first / runs.SETTINGS).read_bytes())
    shutil.copytree(first / runs.CHECKPOINTS, tmp_path / runs.CHECKPOINTS)
    runs.write_json(tmp_path / finetune.ORIGIN, {"images_seen": 1000})
    settings = composed(f"from='{tmp_path}'", *DDPM)
    assert finetune.take(runs.build(settings), str(tmp_path), settings["model"])["images_seen"] == 1256


class Squares(Generator):
    """A loss that is known by hand: the mean of (x - y)^2."""

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (x.flatten(1) - y[:, None]).square().mean(), "other": x.mean()}


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_the_loss_is_equation_2(weight: float) -> None:
    model = Squares((1, 1, 1), torch.optim.Adam)
    level = torch.full((1, 1, 1, 1), 255, dtype=torch.uint8)  # 1.0
    preserve = finetune.Preserve(Images(level.expand(5, 1, 1, 1), torch.full((5,), 3.0)), weight)
    preserve.on_train_start(None, model)
    x = torch.tensor([0.5, -0.5]).view(2, 1, 1, 1)
    terms = model.training_step((x, torch.tensor([1.0, 1.0])), 0)
    assert terms["new"] == (0.5**2 + 1.5**2) / 2 and terms["prior"] == 4.0
    assert terms["loss"] == terms["new"] + weight * terms["prior"] and terms["other"] == 0.0
    preserve.on_train_end(None, model)
    assert model.training_step((x, torch.tensor([1.0, 1.0])), 0).keys() == {"loss", "other"}


def test_the_prior_is_the_first_model_s_own_images_of_what_it_was_asked(first: Path, tmp_path: Path) -> None:
    x, y = finetune.drawn(str(first), 12, 3, torch.device("cpu"))
    again = finetune.drawn(str(first), 12, 3, torch.device("cpu"))
    assert torch.equal(again.x, x) and torch.equal(again.y, y) and len(y.unique()) > 3
    model = runs.load(first)
    found = finetune.draw(model.sample, 12, seed=3 + finetune.APART, y=y)
    assert x.dtype == torch.uint8 and torch.equal(found, x) and len(x.unique(dim=0)) == 12
    other = to_uint8(model.sample(12, y))
    assert not torch.equal(other, x)
    finetune.save(Images(x, y), tmp_path / "p.npz")
    kept = finetune.kept(tmp_path / "p.npz")
    assert torch.equal(kept.x, x) and torch.equal(kept.y, y)
    finetune.save(Images(x), tmp_path / "p.npz")
    assert finetune.kept(tmp_path / "p.npz").y is None


def test_the_prior_is_of_what_is_asked_for_in_turn(first: Path) -> None:
    x, y = finetune.drawn(str(first), 5, 3, torch.device("cpu"), [3, 8])
    assert y.tolist() == [3, 8, 3, 8, 3]
    assert torch.equal(x, finetune.draw(runs.load(first).sample, 5, seed=3 + finetune.APART, y=y))
    with pytest.raises(ValueError, match=r"^prior\.y=a seven: this model knows the classes 0 to 9"):
        finetune.drawn(str(first), 5, 3, torch.device("cpu"), "a seven")
    assert quoted("prior.y=a seven, a two") == "prior.y='a seven, a two'"  # as a shell hands it over


def captioned(folder: Path, said: dict[str, list[int]], n: int = 16) -> str:
    """A tree of n images 4x4 a split for each caption, of noise about these levels of their columns."""
    random = np.random.default_rng(0)
    for split, (caption, columns) in product(("train", "val", "test"), said.items()):
        (folder / split).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            file = folder / split / f"{caption} {i}"
            pixels = np.array(columns) + random.integers(-20, 21, (4, 4))
            Image.fromarray(pixels.astype(np.uint8)).save(file.with_suffix(".png"))
            file.with_suffix(".txt").write_text(caption)
    return f"data.path='{folder}'"


@pytest.mark.slow
def test_a_new_word_is_learned_and_what_is_named_is_preserved(tmp_path: Path, caplog) -> None:
    words = [
        "model=ddpm",
        "steps=2",
        "condition=text",
        "condition.dim=8",
        "condition.words=64",
        "model.optimizer.lr=0.01",
    ]
    data = ["data=folder", "data.ask=caption", "data.size=4", "data.channels=1", "features=pixels"]
    tiny = ["width=4", "blocks=1", "data.batch_size=16", "budget.images=320", "budget.checks=1", "trainer=cpu"]
    told = [*words, *data, *tiny, "metrics=none", "callbacks.judge.n=4", "model.inversion=2", "model.bound_terms=2"]
    known = captioned(tmp_path / "known", {"a dark wall": [30, 30, 30, 30], "a bright wall": [220, 220, 220, 220]})
    first, second = tmp_path / "first", tmp_path / "second"
    finish(composed(f"folder='{first}'", *told, known), first, [])
    twin = next(word for i in count() if word_id(word := f"w{i}", 64) == word_id("dark", 64))
    new = captioned(tmp_path / "new", {f"a {twin} wall": [30, 220, 30, 220]})
    prior = [f"from='{first}'", "prior.weight=1", "prior.n=4", "prior.y=['a dark wall','a bright wall']"]
    with caplog.at_level("WARNING", "genzoo"):
        finish(composed(f"folder='{second}'", *told, new, *prior), second, [])
    assert f"from={first} knows new words as others, by their ids: {twin!r} as 'dark'; choose other" in caplog.text
    asked = caption_strings(finetune.kept(second / finetune.PRIOR).y)
    assert asked == ["a dark wall", "a bright wall"] * 2
    x, y = instantiate(composed(*told, new)["data"], _convert_="all").split("test")

    def loss(run: Path) -> float:
        torch.manual_seed(0)
        with torch.no_grad():
            return runs.load(run).loss(to_float(x), y)["loss"].item()

    assert loss(second) < 0.8 * loss(first)


@pytest.mark.parametrize("family", ["ddpm", "consistency", "mean_flow", "code_prior", "vae"])
def test_every_told_family_is_asked_for_what_training_had(family: str, settings) -> None:
    model = runs.build(settings(f"model={family}", "condition=classes", "width=8"))
    if hasattr(model, "asks"):
        model.asks.copy_(torch.arange(len(model.asks)) % 10)
    y = finetune.asked(model, 200)
    assert y.shape == (200,) and len(y.unique()) == 10 and y.max() == 9


def test_the_prior_of_a_model_of_codes_is_codes(settings) -> None:
    model = runs.build(settings("model=code_prior", "condition=classes", "width=8"))
    x, y = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8), torch.arange(6)
    for encoded in (False, True):
        model.encoded = encoded
        preserve = finetune.Preserve(Images(x, y), weight=1.0)
        preserve.on_train_start(None, model)
        batch = to_float(x)
        assert torch.equal(preserve.x, model.codes(batch) if encoded else batch)
        assert model.training_step((batch, y), 0)["prior"].isfinite()
        preserve.on_train_end(None, model)


def test_maps_are_preserved_as_the_data_has_them(settings) -> None:
    model = runs.build(settings("model=ddpm", "condition=maps", "width=4", "blocks=1", "steps=2"))
    x, maps = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8), torch.rand(3, 1, 8, 8)
    preserve = finetune.Preserve(Images(x, model.condition.of(to_float(x), maps)), weight=1.0)
    preserve.on_train_start(None, model)
    assert torch.equal(preserve.y, maps) and model.training_step((to_float(x), maps), 0)["prior"].isfinite()


@pytest.mark.parametrize(
    "override, sentence",
    [
        ("lora.rank=4", r"^lora\.rank=4 needs a trained model to begin with: add from=RUN_FOLDER$"),
        ("prior.weight=1", r"^prior\.weight=1 needs a trained model"),
        ("lora.rank=0", r"^lora\.rank=0: give a whole number of at least 1$"),
        ("lora.alpha=0", r"^lora\.alpha=0: give a number above 0, or null$"),
        ("prior.weight=-1", r"^prior\.weight=-1: give a number above 0, or null$"),
        ("prior.n=1.5", r"^prior\.n=1\.5: give a whole number"),
        ("prior.y=3", r"^prior\.y=3 says what is drawn to go on learning from: add prior\.weight=1$"),
    ],
)
def test_mistakes_are_named(override: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        finish(composed(f"folder='{tmp_path}'", *DDPM, override), tmp_path, [])


def test_a_gan_is_tuned_whole_or_not_at_all(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    gan = ["model=gan", *SMALL, "budget.images=128"]
    finish(composed(f"folder='{folders[0]}'", *gan), folders[0], [])
    tuning = [f"folder='{folders[1]}'", *gan, f"from='{folders[0]}'"]
    with pytest.raises(ValueError, match=r"^gan trains two players: leave out lora\.rank and prior\.weight"):
        finish(composed(*tuning, "prior.weight=1"), folders[1], [])
    shutil.rmtree(folders[1])
    assert finish(composed(*tuning), folders[1], [])["provenance"]["from"]["images_seen"] == 128
