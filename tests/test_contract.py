"""The contract that every file in conf/model keeps, at every size: a new YAML there is tested with no edit here."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate

import genzoo
from genzoo import runs
from genzoo.callbacks import EMA, averaged
from genzoo.command import conf_folder
from genzoo.generator import Generator, HasEncode, HasLikelihood
from genzoo.run import find, make_trainer

CONFIGS = sorted((Path(conf_folder()) / "model").glob("*.yaml"))
FAMILIES = [path.stem for path in CONFIGS]
SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 32, 48), (1, 15, 17), (2, 1, 1)]
USUAL = SHAPES[1:4]  # less likely to fail than the others
SMALL = ["width=8", "steps=3"]
CHEAP = {"bound_terms": 2, "inversion": 2, "particles": 2}  # of the model, where it has them


def cases() -> list[tuple[str, tuple[int, int, int]]]:
    """Every family at every shape; one that names no class of its own, but varies another, at the first and last.
    Behind -m slow are the usual shapes, and the first of such variants."""
    own = {path.stem: "\n_target_:" in path.read_text() for path in CONFIGS}
    found = [(family, shape) for family in FAMILIES for shape in (SHAPES if own[family] else (SHAPES[0], SHAPES[-1]))]
    late = [shape in USUAL or (not own[family] and shape == SHAPES[0]) for family, shape in found]
    return [pytest.param(*case, marks=pytest.mark.slow) if slow else case for case, slow in zip(found, late)]


everywhere = pytest.mark.parametrize(
    ("family", "shape"), cases(), ids=lambda s: s if isinstance(s, str) else "x".join(map(str, s))
)
each_family = pytest.mark.parametrize("family", FAMILIES)


def small(settings: Callable[..., dict], family: str, shape: tuple[int, int, int]) -> dict:
    """The configuration of a small model."""
    data = ["data=toy2d"] if shape[1:] == (1, 1) else [f"data.image_shape=[{','.join(map(str, shape))}]"]
    chosen = settings(f"model={family}", *data, *SMALL)
    chosen["model"] |= {key: value for key, value in CHEAP.items() if key in chosen["model"]}
    return chosen


@pytest.fixture
def model(settings, family: str, shape: tuple[int, int, int]) -> Generator:
    """A small model in training mode, its parameters a little off their start."""
    model = runs.build(small(settings, family, shape))
    assert isinstance(model, Generator)
    model.train()
    model.loss(*batch(shape))  # what a first batch decides (a flow's scales) is decided
    with torch.no_grad():
        for p in model.parameters():  # layers that start at zero would hide what lies behind them
            p.add_(0.05 * torch.randn_like(p))
    return model


def batch(shape: tuple[int, int, int], n: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """8-bit levels in [-1, 1] and class ids."""
    return torch.randint(256, (n, *shape)) / 127.5 - 1, torch.arange(n)


def samples(model: Generator, n: int = 3, seed: int = 1) -> torch.Tensor:
    torch.manual_seed(seed)
    return model.eval().sample(n)


@everywhere
def test_loss_reaches_every_parameter(model: Generator, shape: tuple[int, int, int]) -> None:
    terms = model.loss(*batch(shape))
    assert "loss" in terms
    assert all(value.shape == () and torch.isfinite(value) for value in terms.values()), terms
    terms["loss"].backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert gradients
    assert not [name for name, g in gradients.items() if g is None or not g.isfinite().all()]
    # single numbers may stand at a minimum or cancel, as the last bias of a relativistic critic does
    assert not [name for name, g in gradients.items() if g.numel() > 1 and not g.any()]


@everywhere
def test_samples_are_images(model: Generator, shape: tuple[int, int, int]) -> None:
    x = samples(model)
    assert x.shape == (3, *shape)
    assert x.dtype == torch.float32
    assert not x.requires_grad
    assert x.min() >= -1 and x.max() <= 1
    assert x.std() > 0
    assert torch.equal(x, samples(model))
    assert not torch.equal(x, samples(model, seed=2))


@everywhere
def test_saved_and_copied_models_sample_the_same(
    model: Generator, settings, family: str, shape: tuple[int, int, int], tmp_path: Path
) -> None:
    expected = samples(model, 4)
    assert torch.equal(samples(copy.deepcopy(model), 4), expected)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    fresh = runs.build(small(settings, family, shape))
    assert not torch.equal(samples(fresh, 4), expected)
    fresh.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(samples(fresh, 4), expected)


@everywhere
def test_abilities_keep_their_shapes(model: Generator, shape: tuple[int, int, int]) -> None:
    x, _ = batch(shape)
    model.eval()
    if isinstance(model, HasLikelihood):
        assert model.likelihood in ("exact", "lower bound", "estimate")
        log_prob = model.log_prob(x)
        assert log_prob.shape == (4,) and log_prob.isfinite().all()
    if isinstance(model, HasEncode):
        decoded = model.decode(model.encode(x))
        assert decoded.shape == x.shape
        assert decoded.abs().max() <= 1


@each_family
def test_a_training_run_loads_with_its_averaged_weights(settings, family: str, tmp_path: Path) -> None:
    budget = ["budget.images=320", "budget.checks=2", "callbacks.judge.n=4"]
    chosen = settings(f"model={family}", f"folder={tmp_path}", "trainer=cpu", "metrics=none", *SMALL, *budget)
    runs.claim(tmp_path, chosen)
    data = instantiate(chosen["data"], _convert_="all")
    model = runs.build(chosen)
    trainer = make_trainer(chosen, tmp_path, model)
    trainer.fit(model, data)
    assert model.images_seen == 320
    loaded, average = genzoo.load(tmp_path), find(trainer, EMA).average
    parameters = dict(loaded.named_parameters())
    assert average.keys() == parameters.keys()
    assert all(torch.equal(parameters[name], average[name]) for name in average)
    assert not loaded.training
    with averaged(trainer, model):
        assert torch.equal(samples(model), samples(loaded))
    assert any(not torch.equal(p, average[name]) for name, p in model.named_parameters())  # the raw weights are others
