"""W&B: what a run would send, read back from the file that it leaves when it is offline."""

import json
import os
import random
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genzoo.loggers import CurvesFile, WandbCurves, finish_wandb, pictures, run_id, strip, summary, wandb_mode

SETTINGS = {"seed": 3, "study": "s", "model": {"_target_": "genzoo.models.vae.VAE", "latent": 8}}
RECORD = {
    "protocol_id": "3f9a1c22d0be",
    "scores": {"FD-digits": {"value": 1.5, "ci95": [1.25, 1.75], "n": 400}, "recall": {"value": 0.5, "n": 400}},
    "likelihoods": [{"value": 3.5, "ci95": [3.25, 3.75], "n": 100, "kind": "lower bound", "method": "ELBO"}],
    "cost": {"images_seen": 1000, "nfe": 1, "peak_memory_bytes": None},
}


def bodies(data: bytes) -> Iterator[bytes]:
    """The records of a log as LevelDB's doc/log_format.md has it, behind W&B's header of 7 bytes."""
    at, parts = 7, []
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        if at + 7 + length > len(data):
            return
        parts.append(data[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):  # FULL, LAST; 2 and 3 are the first and the middle of a longer record
            yield b"".join(parts)
            parts = []


def closed(file: Path) -> list:
    """The records of a run that ended: W&B's own process may still be writing when `finish` returns."""
    from wandb.proto.wandb_internal_pb2 import Record

    for _ in range(200):
        found = [Record.FromString(body) for body in bodies(file.read_bytes())]
        if any(record.HasField("exit") for record in found):
            return found
        time.sleep(0.05)
    raise TimeoutError(f"{file} has no end after 10 s")


class Offline:
    """The newest offline W&B run below a folder: run, config, axes, history, summary, artifacts, exit_code."""

    def __init__(self, folder: Path) -> None:
        found = closed(max(folder.glob("wandb/offline-run-*/*.wandb")))  # their names begin with the time
        self.run = next(record.run for record in found if record.HasField("run"))
        self.tags = [list(record.run.tags) for record in found if record.HasField("run")][-1]
        changed = [*self.run.config.update, *(i for r in found if r.HasField("config") for i in r.config.update)]
        self.config = {item.key: json.loads(item.value_json) for item in changed if item.key}
        self.axes = [record.metric for record in found if record.HasField("metric")]
        self.history = [items(record.history.item) for record in found if record.HasField("history")]
        told = [items(record.summary.update) for record in found if record.HasField("summary")]
        self.summary = {key: value for each in told for key, value in each.items()}
        sent = [record.request.log_artifact.artifact for record in found if record.request.HasField("log_artifact")]
        self.artifacts = [record.artifact for record in found if record.HasField("artifact")] + sent
        self.exit_code = next(record.exit.exit_code for record in found if record.HasField("exit"))


def items(found) -> dict:
    """Keys with their values; what is inside a picture or a table is samples/count."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in found}


def values(history: list[dict]) -> list[dict]:
    """What was logged, without W&B's own keys."""
    return [{key: value for key, value in row.items() if not key.startswith("_")} for row in history]


@pytest.fixture
def logger(tmp_path, monkeypatch):
    """`logger(name, ...)`: a W&B logger of a run folder, offline."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield lambda name="run", **more: WandbCurves(save_dir=str(tmp_path / name), project="genzoo", **more)
    finish_wandb({})


@pytest.fixture
def trained(logger, tmp_path) -> tuple[Offline, Path]:
    """A run with everything in it, as genzoo.run drives it."""
    folder = tmp_path / "run"
    wandb = logger(group="s", job_type="vae", tags=["digits", "vae"], artifact=True)
    wandb.log_hyperparams(SETTINGS)
    wandb.resume(0)
    for images in (500, 1000):
        wandb.log_metrics({"train/loss": 500 / images}, step=images)
        wandb.log_image("samples", [Image.new("L", (8, 8), images // 8)], step=images)
    for name in ("metrics.json", "config.yaml", "curves.csv"):
        (folder / name).write_text(name)
    real, steps = np.zeros((6, 1, 8, 8), np.uint8), np.zeros((2, 5, 1, 8, 8), np.uint8)
    np.savez(folder / "samples.npz", fake=real, real=real, interpolation=steps, reconstruction=real[:4])
    finish_wandb(RECORD, [CurvesFile(folder), wandb])
    return Offline(folder), folder


def test_a_run_tells_study_family_tags_and_configuration(trained):
    found, folder = trained
    assert found.run.run_id == run_id(folder)
    assert (found.run.project, found.run.run_group, found.run.job_type) == ("genzoo", "s", "vae")
    assert sorted(found.tags) == ["digits", "protocol 3f9a1c22d0be", "vae"]
    assert {key: found.config[key] for key in SETTINGS} == SETTINGS
    assert found.exit_code == 0


def test_images_seen_are_the_axis_of_everything(trained):
    found, _ = trained
    axis = [metric.step_metric for metric in found.axes if metric.glob_name == "*"][-1]
    assert axis == "images"
    assert [(row["images"], row.get("train/loss")) for row in found.history if "train/loss" in row] == [
        (500, 1.0),
        (1000, 0.5),
    ]
    assert all("images" in row for row in found.history)


def test_pictures_are_on_a_slider_and_rows_of_them_at_the_end(trained):
    found, folder = trained
    grids = [(row["images"], row["samples/count"]) for row in found.history if "samples/count" in row]
    assert grids == [(500, 1), (1000, 1)]
    last = found.history[-1]
    assert (last["interpolation/width"], last["interpolation/height"]) == (5 * 8, 2 * 8)
    assert (last["reconstruction/width"], last["reconstruction/height"]) == (4 * 8, 2 * 8)
    assert not any(key.startswith("trajectory") for key in last)
    assert len(list(folder.glob("wandb/offline-run-*/files/media/images/*.png"))) == 4


def test_the_summary_has_scores_with_intervals_and_the_protocol(trained):
    found, _ = trained
    assert summary(RECORD).items() <= found.summary.items()
    assert found.summary["protocol_id"] == "3f9a1c22d0be"
    assert (found.summary["FD-digits low"], found.summary["FD-digits high"]) == (1.25, 1.75)
    assert found.summary["bits/dim, ELBO"] == 3.5
    assert found.summary["cost/images_seen"] == 1000
    assert "recall low" not in found.summary


def test_the_small_files_are_an_artifact_on_request(trained, logger, tmp_path):
    found, _ = trained
    (artifact,) = found.artifacts
    assert artifact.type == "run"
    assert sorted(entry.path for entry in artifact.manifest.contents) == ["config.yaml", "curves.csv", "metrics.json"]
    plain = logger("plain")
    plain.log_hyperparams(SETTINGS)
    finish_wandb(RECORD, [plain])
    assert Offline(tmp_path / "plain").artifacts == []


def test_a_resumed_run_is_the_same_run_with_its_whole_curve(logger, tmp_path):
    """The first session was killed at 900 images, behind the checkpoint at 600."""
    curves, first = CurvesFile(tmp_path / "run"), logger()
    first.log_hyperparams(SETTINGS)
    sizes = {}
    for images in (300, 600, 900):
        for each in (curves, first):
            each.log_metrics({"train/loss": 1 / images, "score/FD": 2.0}, step=images)
        sizes[images] = curves.size()
    finish_wandb({})
    before = Offline(tmp_path / "run")
    time.sleep(1)  # the names of W&B's folders tell seconds apart
    curves, again = CurvesFile(tmp_path / "run"), logger()
    again.log_hyperparams(SETTINGS)
    curves.cut(sizes[600])
    again.resume(600)
    again.log_metrics({"train/loss": 0.25, "score/FD": 1.0}, step=900)
    finish_wandb({})
    after = Offline(tmp_path / "run")
    assert after.run.run_id == before.run.run_id
    assert len(list((tmp_path / "run/wandb").glob("offline-run-*"))) == 2
    assert values(after.history)[:2] == [
        {"images": n, "train/loss": pytest.approx(1 / n, 1e-5), "score/FD": 2.0} for n in (300, 600)
    ]
    assert values(after.history)[2:] == [{"images": 900, "train/loss": 0.25, "score/FD": 1.0}]


class Server:
    """An online W&B run that was resumed: it knows what it was sent before."""

    resumed = True

    def __init__(self, summary: dict) -> None:
        self.summary, self.logged = summary, []

    def log(self, values: dict) -> None:
        self.logged.append(values)


def test_a_server_is_not_sent_again_what_it_has(tmp_path):
    server = Server({"images": 900})
    wandb = WandbCurves(save_dir=str(tmp_path), experiment=server)
    wandb.resume(600)
    for images in (700, 900, 1000):
        wandb.log_metrics({"train/loss": 0.5}, step=images)
    assert server.logged == [{"train/loss": 0.5, "images": 1000}]


def test_two_runs_of_a_sweep_never_merge(logger, tmp_path):
    for name in ("model=vae/seed=0", "model=gan/seed=0"):
        random.seed(0)  # as every run of one seed starts
        wandb = logger(name)
        wandb.log_hyperparams(SETTINGS)
        wandb.log_metrics({name: 1.0}, step=1)
        finish_wandb({})  # as after a failure
    one, two = Offline(tmp_path / "model=vae/seed=0"), Offline(tmp_path / "model=gan/seed=0")
    assert one.run.run_id != two.run.run_id
    assert [values(one.history), values(two.history)] == [
        [{"model=vae/seed=0": 1.0, "images": 1}],
        [{"model=gan/seed=0": 1.0, "images": 1}],
    ]
    assert (one.exit_code, two.exit_code) == (1, 1)


def test_a_folder_filled_anew_is_another_run(tmp_path):
    first = run_id(tmp_path)
    assert run_id(tmp_path) == first
    (tmp_path / "wandb/id").unlink()
    assert run_id(tmp_path) != first


def test_the_configuration_says_group_family_and_tags(settings):
    wandb = settings("logger=wandb", "model=flow", "study=couplings")["logger"]["wandb"]
    assert (wandb["group"], wandb["job_type"], wandb["tags"]) == ("couplings", "flow", ["digits", "flow"])
    assert wandb["artifact"] is False


@pytest.mark.parametrize(
    ("environment", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_API_KEY": "k" * 40}, "online"),
        ({"WANDB_API_KEY": "k" * 40, "WANDB_MODE": "offline"}, "offline"),
        ({"WANDB_BASE_URL": "https://wandb.lab.org"}, "online"),
        ({"WANDB_BASE_URL": "https://elsewhere.org"}, "offline"),
    ],
)
def test_a_login_decides_whether_it_is_online(environment, mode, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    (tmp_path / "netrc").write_text("machine wandb.lab.org login user password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert wandb_mode() == mode


def test_a_strip_puts_row_r_and_column_c_where_they_belong():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 4, 5), np.uint8)
    picture = strip(images)
    assert picture.shape == (8, 15, 3)
    for r, c in np.ndindex(2, 3):
        tile = picture[4 * r : 4 * r + 4, 5 * c : 5 * c + 5]
        assert np.array_equal(tile, images[r, c].transpose(1, 2, 0))
    assert np.array_equal(strip(images[:, :, :1])[:, :, 2], picture[:, :, 0])


def test_rows_of_points_are_no_pictures(tmp_path):
    """Of data=toy2d, which a VAE, a flow and a diffusion model have rows of."""
    points = {"interpolation": (8, 8, 2, 1, 1), "trajectory": (8, 8, 2, 1, 1), "reconstruction": (16, 2, 1, 1)}
    shapes = {**points, "real": (16, 2, 1, 1), "classes": (3, 8, 1, 4, 4)}
    np.savez(tmp_path / "samples.npz", **{name: np.zeros(shape, np.uint8) for name, shape in shapes.items()})
    found = pictures(tmp_path / "samples.npz")
    assert {name: image.image.size for name, image in found.items()} == {"classes": (8 * 4, 3 * 4)}
