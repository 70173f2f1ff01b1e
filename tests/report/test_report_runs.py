"""Every run folder is found once and read for what it is, whole or broken."""

import fcntl
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from genzoo.report.runs import curves, find, read, samples

Make = Callable[..., Path]


def test_each_run_is_found_once(tmp_path: Path, make_run: Make) -> None:
    run = make_run(tmp_path / "study" / "model=vae" / "seed=0")
    for other in (run / ".hydra", run / "files", tmp_path / "study" / "wandb" / "files"):
        other.mkdir(parents=True)
        (other / "config.yaml").write_text("a: 1")
    (found,) = find([tmp_path, tmp_path / "study", run])
    assert (found.folder, found.state, found.family) == (run, "finished", "VAE")
    assert found.place == f"{tmp_path.name}/study/model=vae/seed=0"


def test_unfinished_failed_and_unreadable_are_told_apart(
    tmp_path: Path, make_run: Make, caplog: pytest.LogCaptureFixture
) -> None:
    make_run(tmp_path / "a", value=None)
    (make_run(tmp_path / "b", value=None) / "failed.txt").write_text("ValueError: too hot")
    (make_run(tmp_path / "c") / "metrics.json").write_text('{"protocol": ')
    with caplog.at_level(logging.WARNING):
        runs = find([tmp_path])
    assert [run.state for run in runs] == ["unfinished", "failed", "unreadable"]
    assert runs[1].note == "ValueError: too hot"
    assert str(tmp_path / "c") in caplog.text
    assert "metrics.json" in caplog.text


@pytest.mark.parametrize(
    "spoilt",
    [
        [],
        {"scores": []},
        {"scores": {"FD": {"value": "low"}}},
        {"scores": {"FD": 3}},
        {"calibration": {"real test": 3}},
        {"protocol_id": None},
        {"scores": {"FD": {"value": 3, "ci95": [1]}}},
        {"scores": {"FD": {"value": 3, "repeats": ["1", "2"]}}},
        {"likelihoods": [{"kind": "exact"}]},
    ],
)
def test_metrics_of_another_form_are_unreadable(tmp_path: Path, make_run: Make, spoilt: object) -> None:
    path = make_run(tmp_path / "a") / "metrics.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | spoilt if isinstance(spoilt, dict) else spoilt))
    (run,) = find([tmp_path])
    assert run.state == "unreadable"
    assert "metrics.json has no" in run.note


def test_no_run_and_no_folder_say_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No run below"):
        find([tmp_path])
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        find([tmp_path / "missing"])


def test_curves_leave_out_a_line_cut_short(tmp_path: Path, make_run: Make) -> None:
    folder = make_run(tmp_path / "a")
    (folder / "curves.csv").write_text("images,seconds,name,value\n20,1,val/loss,2\n10,0,val/loss,nan\n30,2,val/lo")
    found = curves(find([tmp_path])[0])
    np.testing.assert_array_equal(found["val/loss"], [[10, np.nan], [20, 2]])
    assert list(found) == ["val/loss"]


def test_samples_that_cannot_be_read_are_empty(tmp_path: Path, make_run: Make) -> None:
    folder = make_run(tmp_path / "a")
    (run,) = find([tmp_path])
    assert samples(run)["fake"].shape == (64, 1, 8, 8)
    (folder / "samples.npz").write_bytes(b"PK\x03\x04 cut short")
    assert samples(run) == {}
    np.savez(folder / "samples.npz", fake=np.zeros((4, 1, 8, 8)), real=np.zeros((4, 1, 8, 8)))
    assert samples(run) == {}
    four, three = np.zeros((4, 1, 8, 8), np.uint8), np.zeros((3, 1, 8, 8), np.uint8)
    np.savez(folder / "samples.npz", fake=four, real=three, nearest=three)
    assert samples(run) == {}
    np.savez(folder / "samples.npz", fake=four, real=three, nearest=four, distance=np.zeros(3))
    assert samples(run) == {}
    for name in ("trajectory", "classes"):
        np.savez(folder / "samples.npz", fake=four, real=four, **{name: four})
        assert samples(run) == {}


def test_a_run_is_running_while_another_process_holds_its_lock(tmp_path: Path, make_run: Make) -> None:
    folder = make_run(tmp_path / "a", value=None)
    (folder / "failed.txt").write_text("from the try before")
    with open(folder / ".lock", "wb") as lock:
        assert read(folder, "a").state == "failed"  # free: left behind by a killed run
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert read(folder, "a").state == "running"
    assert read(folder, "a").state == "failed"


@pytest.mark.parametrize(
    ("family", "target", "name"),
    [
        ("vae", "vae.VAE", "VAE"),
        ("flow", "flow.Flow", "Flow"),
        ("Flow matching", "diffusion.Diffusion", "Flow matching"),
    ],
)
def test_a_family_is_called_by_its_class_or_by_its_own_name(
    tmp_path: Path, make_run: Make, family: str, target: str, name: str
) -> None:
    make_run(tmp_path / "a", family, config={"model": {"_target_": f"genzoo.models.{target}"}})
    make_run(tmp_path / "b", value=None, config={"model": {"_target_": f"genzoo.models.{target}", "name": family}})
    assert [run.family for run in find([tmp_path])] == [name, name]


def test_a_record_knows_what_its_scoring_added(tmp_path: Path, make_run: Make) -> None:
    folder = make_run(tmp_path / "a", overrides=("steps=50",))
    record = json.loads((folder / "metrics.json").read_text())
    record["provenance"]["overrides"] += ["sampler=heun", "steps=50"]
    (folder / "metrics-ab.json").write_text(json.dumps(record))
    assert [run.added for run in find([tmp_path])] == [(), ("sampler=heun", "steps=50")]
