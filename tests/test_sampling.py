"""One trained diffusion model with classes, sampled and scored in every way that the commands offer."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import genzoo
from genzoo import sample, score
from genzoo.data.digits import digits
from tests.test_commands import TINY, command, typed


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, str]:
    """The user's folder, and a finished run in it."""
    folder = tmp_path_factory.mktemp("user")
    small = ["model=ddpm", "condition=classes", "steps=3", "study=s", "model.bound_terms=2", "model.inversion=2"]
    assert command(folder, "genzoo.run", *small, *TINY, "budget.images=1024") == 0
    return folder, next(folder.glob("outputs/s/*/seed=0")).relative_to(folder).as_posix()


def drawn(folder: Path, run: str, *arguments: str) -> np.ndarray:
    assert command(folder, "genzoo.sample", f"run={run}", "n=6", *arguments) == 0
    return np.load(folder / run / "generated/samples.npz")["fake"]


def test_the_run_shows_each_class(run) -> None:
    folder, path = run
    assert np.load(folder / path / "samples.npz")["classes"].shape == (10, 8, 1, 8, 8)
    metrics = json.loads((folder / path / "metrics.json").read_text())
    assert metrics["cost"]["nfe"] == 3
    assert metrics["provenance"]["family"] == "DDPM"
    right, real = metrics["scores"]["class right"], metrics["calibration"]["real test"]["class right"]
    assert right["n"] == right["asked"] == metrics["protocol"]["n_fake"] and right["value"] < 0.5 < real["value"]
    bound = metrics["likelihoods"][0]
    assert set(bound["terms"]) == {"prior", "diffusion", "reconstruction"}
    assert sum(bound["terms"].values()) == pytest.approx(bound["value"])
    asks = genzoo.load(folder / path).asks  # of the training digits, read after the training
    shares = torch.bincount(digits().train.y) / 1297
    torch.testing.assert_close(torch.bincount(asks) / 1000, shares, rtol=0, atol=0.01)  # but for a last part of a batch


def test_classes_and_guidance(run) -> None:
    folder, path = run
    threes, mixed = drawn(folder, path, "y=3"), drawn(folder, path, "y=[3,4]")
    assert np.array_equal(threes[::2], mixed[::2]) and not np.array_equal(threes[1::2], mixed[1::2])
    assert np.array_equal(drawn(folder, path, "y=3", "guidance.scale=1"), threes)
    without = drawn(folder, path, "y=3", "guidance.scale=0")
    assert np.array_equal(without, drawn(folder, path, "y=4", "guidance.scale=0"))
    assert not np.array_equal(drawn(folder, path, "y=3", "guidance.scale=4"), threes)
    assert np.array_equal(drawn(folder, path, "y=3", "guidance.scale=4", "guidance.interval=[0,1e-9]"), threes)
    itself = drawn(folder, path, "y=3", "guidance.scale=3", f"guide='{path}'")
    assert np.abs(itself.astype(int) - threes).max() <= 1  # as weak as the model is, there is nothing to gain


def test_samplers_and_steps_are_swept_from_the_same_noise(run, capsys) -> None:
    folder, path = run
    quick = [f"run={path}", "metrics=quick", "metrics.n=40"]
    with typed(folder, "genzoo.score", "sampler=ddim,heun", "steps=4", *quick):
        score.program()
    printed = capsys.readouterr().out
    records = [json.loads(p.read_text()) for p in (folder / path).glob("metrics-*.json")]
    calls = {r["provenance"]["sampling"]: r["cost"]["nfe"] for r in records}
    assert {words.partition(" steps,")[0]: n for words, n in calls.items()} == {
        "ddim, 4": 4,
        "heun, 4": 7,
    }
    assert "| Sampling | Network calls | FD-digits | class right | Seconds an image |" in printed
    assert printed.count("| heun, ") == 1
    assert (folder / "outputs/s/report/index.html").is_file()
    assert "network calls" in (folder / "outputs/s/report/index.html").read_text()
    # the table's scores are those of the same sampler asked for alone
    with typed(folder, "genzoo.score", "sampler=heun", "steps=4", *quick):
        score.program()
    again = [json.loads(p.read_text()) for p in (folder / path).glob("metrics-*.json")]
    assert len(again) == 2
    assert {json.dumps(r["scores"]) for r in again} == {json.dumps(r["scores"]) for r in records}


def test_what_cannot_be_exchanged_is_refused(run, tmp_path, capsys) -> None:
    folder, path = run
    assert command(folder, "genzoo.sample", f"run={path}", "y=10") == 2
    assert "this model knows the classes 0 to 9" in capsys.readouterr().err
    assert command(folder, "genzoo.sample", f"run={path}", "sampler=ddpm_learned") == 2
    assert "ddpm_learned" in capsys.readouterr().err
    vae = sample.runs.build(genzoo.runs.read_settings(folder / path) | {"model": {"_target_": "torch.nn.Identity"}})
    nothing = {"sampler": None, "spacing": None, "steps": 4, "guidance": {}, "guide": None}
    with pytest.raises(ValueError, match="Identity has no steps to exchange: leave out steps="):
        sample.exchange_sampling(vae, nothing)
    assert isinstance(vae, torch.nn.Identity)


def test_a_model_that_is_guided_by_itself_alone_refuses_a_guide_at_once(settings) -> None:
    model = genzoo.runs.build(settings("model=consistency", "condition=classes", "width=8"))
    asked = {"sampler": None, "spacing": None, "steps": None, "guidance": {}, "guide": "a/run"}
    with pytest.raises(ValueError, match="Consistency has no guide: leave it out"):
        sample.exchange_sampling(model, asked)


def test_a_prior_of_codes_is_drawn_from_otherwise(settings) -> None:
    model = genzoo.runs.build(settings("model=code_prior", "condition=classes", "width=8"))
    asked = {"sampler": None, "spacing": None, "steps": None, "guide": None, "temperature": 0.5, "top_k": 3}
    sample.exchange_sampling(model, {**asked, "guidance": {"scale": 2.0, "interval": None}})
    assert model.sampling.endswith("temperature 0.5, of the 3 likeliest, guidance 2")
    for options, words in (
        ({"guidance": {"interval": [0.2, 2]}}, "this model has no noise levels: leave out guidance.interval"),
        ({"guide": "a/run", "guidance": {}}, "CodePrior has no guide: leave it out"),
        ({"steps": 4, "guidance": {}}, "CodePrior has no steps to exchange: leave out steps="),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            sample.exchange_sampling(model, asked | options)
    with pytest.raises(ValueError, match=re.escape("top_k=100000: give 1 to")):
        sample.exchange_sampling(model, {**asked, "top_k": 100_000, "guidance": {}})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 0}, "temperature=0: give a number above 0"),
        ({"temperature": float("nan")}, "temperature=nan: give a number above 0"),
        ({"top_k": -1}, "top_k=-1: give a whole number of at least 0"),
        ({"guidance": {"scale": float("nan"), "interval": None}}, "guidance.scale=nan: give a number"),
    ],
)
def test_draws_that_there_cannot_be_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        sample.check_exchange({"steps": None, "guidance": {"scale": None, "interval": None}} | options)
