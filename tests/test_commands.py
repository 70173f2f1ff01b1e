"""The commands as a user types them: run, sweep, score, sample, report, and what bad input prints."""

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import genzoo
from genzoo import runs
from genzoo.command import folder_name, quoted
from genzoo.loggers import CurvesFile, wandb_mode
from genzoo.metrics.draw import draw
from genzoo.run import finish

ROOT = Path(__file__).parent.parent
TINY = ["width=8", "budget.images=256", "budget.checks=1", "metrics.n=32", "metrics.n_likelihood=16",
        "callbacks.judge.n=16", "trainer=cpu"]  # fmt: skip


@contextmanager
def typed(folder: Path, module: str, *arguments: str) -> Iterator[None]:
    """As if `python -m module arguments` had been typed in `folder`, without paying for the imports again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", [module, *arguments])
        patch.delenv("HYDRA_FULL_ERROR", raising=False)
        yield


def command(folder: Path, module: str, *arguments: str) -> int:
    """The exit code of a command."""
    with typed(folder, module, *arguments):
        try:
            return import_module(module).main() or 0
        except SystemExit as stop:
            return stop.code


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> tuple[Path, int]:
    """A sweep in an empty folder, whose first run cannot be scored."""
    folder = tmp_path_factory.mktemp("user")
    sweep = ["model=vae", "metrics.reference=tests,train", "study=s", *TINY]
    return folder, command(folder, "genzoo.run", "-m", *sweep)


def test_a_sweep_finishes_the_good_run_and_names_the_bad_one(sweep):
    folder, code = sweep
    good = next(folder.glob("outputs/s/*reference=train*/seed=0"))
    assert code == 2
    files = {
        ".lock",
        "config.yaml",
        "metrics.json",
        "samples.npz",
        "samples.png",
        "curves.csv",
        "checkpoints",
        "run.log",
    }
    assert files == {path.name for path in good.iterdir()}
    bad = next(folder.glob("outputs/s/*reference=tests*/seed=0"))
    assert "Traceback" in (bad / "failed.txt").read_text()
    assert not (bad / "metrics.json").exists()
    assert not list(folder.glob("**/wandb"))


def test_metrics_json_has_the_sections_that_the_report_reads(sweep):
    folder, _ = sweep
    metrics = json.loads(next(folder.glob("outputs/s/*reference=train*/seed=0/metrics.json")).read_text())
    sections = {"protocol", "protocol_id", "scores", "likelihoods", "calibration", "budget", "cost", "provenance"}
    assert set(metrics) == sections
    assert metrics["budget"] == {"kind": "images", "asked": 256, "spent": 256, "reached": True, "left_out": 0}
    assert metrics["scores"]["FD-digits"]["n"] == metrics["protocol"]["n_fake"] == 32
    assert metrics["scores"]["bits/dim"]["kind"] == "lower bound"
    assert metrics["cost"]["images_seen"] == 256
    assert metrics["cost"]["training_multiply_adds_per_image"] > metrics["cost"]["sampling_multiply_adds_per_image"] > 0
    assert metrics["provenance"]["command"].startswith("python -m genzoo.run model=vae")
    assert list(metrics["calibration"]) == ["real test", "real train", "uniform noise", "blurred real"]


def test_sample_score_and_report_read_the_run(sweep):
    folder, _ = sweep
    run = next(folder.glob("outputs/s/*reference=train*/seed=0")).relative_to(folder)
    assert command(folder, "genzoo.sample", f"run={run}", "n=5", "png=true") == 0
    fake = np.load(folder / run / "generated/samples.npz")["fake"]
    assert fake.shape == (5, 1, 8, 8) and fake.dtype == np.uint8
    assert np.array_equal(fake, np.load(folder / run / "samples.npz")["fake"][:5])  # image i follows from (seed, i)
    assert np.array_equal(np.asarray(Image.open(folder / run / "generated/00003.png")), fake[3, 0])
    before = (folder / run / "metrics.json").read_bytes()
    assert command(folder, "genzoo.score", f"run={run}", "features=pixels", "metrics.n=16") == 0
    added = json.loads(next((folder / run).glob("metrics-*.json")).read_text())
    assert added["scores"]["FD-pixels"]["n"] == 16
    assert (folder / run / "metrics.json").read_bytes() == before
    assert command(folder, "genzoo.report.__main__", "outputs/s") == 0
    table = (folder / "outputs/s/report/table.md").read_text()
    assert "FD-digits" in table and "FD-pixels" in table
    assert "features=pixels" in (folder / "outputs/s/report/index.html").read_text()


def test_the_same_command_again_says_so_and_changes_nothing(settings, tmp_path, caplog):
    config = settings("model=vae", *TINY)
    first = finish(config, tmp_path, ["model=vae"])
    stamp = (tmp_path / "metrics.json").stat().st_mtime_ns
    with caplog.at_level("INFO", logger="genzoo"):
        assert finish(config, tmp_path, ["model=vae"]) == first
    assert "already finished" in caplog.text
    assert (tmp_path / "metrics.json").stat().st_mtime_ns == stamp


def in_folder(settings, folder: Path, *overrides: str) -> dict:
    return settings(f"folder='{folder}'", *overrides)


def test_a_run_killed_before_its_score_only_scores(settings, tmp_path):
    config = in_folder(settings, tmp_path, "model=vae", *TINY)
    first = finish(config, tmp_path, [])
    (tmp_path / "metrics.json").unlink()
    again = finish(config, tmp_path, [])
    assert again["scores"] == first["scores"]
    assert again["cost"]["images_seen"] == 256


def test_a_folder_of_another_configuration_is_refused(settings, tmp_path):
    finish(settings("model=vae", *TINY), tmp_path, [])
    with pytest.raises(ValueError, match=r"another configuration.*model\.beta"):
        finish(settings("model=vae", "model.beta=2", *TINY), tmp_path, [])


def test_load_gives_the_model_that_was_scored(settings, tmp_path):
    config = in_folder(settings, tmp_path, "model=vae", *TINY)
    finish(config, tmp_path, [])
    model = genzoo.load(tmp_path)
    scored = np.load(tmp_path / "samples.npz")["fake"]
    assert np.array_equal(draw(model.sample, 32, seed=config["metrics"]["seed"]).numpy(), scored)
    assert not model.training


def test_load_names_what_is_wrong(settings, tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        genzoo.load(tmp_path)
    runs.claim(tmp_path, settings("model=vae", *TINY))
    with pytest.raises(FileNotFoundError, match="no checkpoint; the run has not saved yet"):
        genzoo.load(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"last\.ckpt: every checkpoint is damaged"):
        genzoo.load(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["genzoo.run", "model=vaee"], "conf/model has no vaee"),
        (["genzoo.run", "model.betta=1"], "no setting is called model.betta"),
        (["genzoo.run", "data=folder", "data.path=nowhere", "features=pixels"], "nowhere"),
        (["genzoo.sample", "run=nowhere"], "nowhere is not a run folder"),
        (["genzoo.report.__main__", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, says, tmp_path, capsys):
    assert command(tmp_path, *arguments) == 2
    printed = capsys.readouterr().err
    assert says in printed
    assert len(printed.splitlines()) == 1


@pytest.mark.slow
def test_wandb_is_offline_without_a_login_and_asks_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    assert wandb_mode() == "offline"
    assert command(tmp_path, "genzoo.run", "model=vae", "logger=wandb", *TINY) == 0
    assert list(tmp_path.glob("outputs/runs/*/seed=0/wandb/offline-run-*/*.wandb"))


@pytest.mark.slow
def test_the_wheel_carries_all_that_a_run_needs(tmp_path):
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "installed")
    empty = tmp_path / "empty"
    empty.mkdir()
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "installed"), "OMP_NUM_THREADS": "1"}
    for call in (["genzoo.run", "model=vae", *TINY], ["genzoo.report", "outputs"]):
        done = subprocess.run([sys.executable, "-m", *call], cwd=empty, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    config = yaml.safe_load(next(empty.glob("outputs/runs/*/seed=0/config.yaml")).read_text())
    assert config["data"]["name"] == "digits"


def test_names_of_folders_and_quoted_paths():
    assert folder_name("") == "default"
    assert "/" not in folder_name("data.path=../a/b,model=vae")
    long = ",".join(f"model.key{i}={i}" for i in range(40))
    assert len(folder_name(long).encode()) <= 200
    assert folder_name(long) != folder_name(long + "0")
    assert quoted("run=outputs/a/model=vae,seed=1") == "run='outputs/a/model=vae,seed=1'"
    assert quoted("model=vae,gan") == "model=vae,gan"


@pytest.mark.parametrize(
    "override", ["width=0", "data.batch_size=0", "budget.images=0", "budget.checks=0", "latent=0", "seed=-1"]
)
def test_impossible_sizes_are_refused_before_anything_is_written(override, settings, tmp_path):
    key = override.partition("=")[0]
    with pytest.raises(ValueError, match=f"{key}.*give a whole number"):
        finish(settings("model=vae", override), tmp_path / "run", [])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_sigterm_ends_with_143_and_leaves_a_checkpoint(tmp_path):
    call = ["genzoo.run", "model=vae", "width=8", "budget.images=400000", "budget.checks=200", "trainer=cpu"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen([sys.executable, "-m", *call, "metrics=none"], cwd=tmp_path, env=env)
    while run.poll() is None and not list(tmp_path.glob("outputs/runs/*/seed=0/checkpoints/last.ckpt")):
        time.sleep(0.1)
    run.terminate()
    assert run.wait() == 143
    assert genzoo.load(next(tmp_path.glob("outputs/runs/*/seed=0"))).images_seen > 0


def test_resumed_curves_have_each_row_once(tmp_path):
    curves = CurvesFile(tmp_path)
    for images in (10, 20):
        curves.log_metrics({"train/loss": images / 10}, step=images)
    saved = curves.size()
    curves.log_metrics({"train/loss": 3.0}, step=30)
    resumed = CurvesFile(tmp_path)
    resumed.cut(saved)
    resumed.log_metrics({"train/loss": 9.0}, step=30)
    rows = [line.split(",") for line in (tmp_path / "curves.csv").read_text().splitlines()[1:]]
    assert [(int(row[0]), float(row[3])) for row in rows] == [(10, 1.0), (20, 2.0), (30, 9.0)]
