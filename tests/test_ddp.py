"""One training in two processes: the images, weights and scores of one, files written once, failures that end.

Two processes run this file as "rank" and train several small models one after the other, as torchrun would have it.
"""

import fcntl
import json
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor
from torch.multiprocessing import start_processes

from genzoo import load, processes, runs
from genzoo.data import datamodule
from genzoo.data.batches import Batch, epoch_batches
from genzoo.data.splits import Images
from genzoo.metrics import ranks
from genzoo.processes import launch, to_start
from genzoo.run import finish
from genzoo.score import Scorer
from tests.conftest import FRESH, composed

ROOT = Path(__file__).parent.parent
TINY = ["width=8", "budget.images=300", "budget.checks=1", "callbacks.judge.n=16", "trainer.accelerator=cpu"]
CASES = {  # five steps of 2 x 32 images each
    "vae": ["model=vae", "model.mixture=3", "model.particles=2", "metrics.n=41", "metrics.n_likelihood=9"],
    "gan": ["model=gan", "nets=dcgan", "metrics.n=21", "metrics.sets=2"],
    "noiseless": ["model=vae", "metrics=none"],  # so that the images alone decide
}
SLOW = {
    "flow": ["model=flow", "model.steps=2", "metrics.n=41", "metrics.n_likelihood=9"],
    "ddpm": ["model=ddpm", "steps=3", "metrics.n=41", "metrics.n_likelihood=9"],
    "told": ["model=ddpm", "condition=classes", "steps=3", "metrics.n=41", "metrics.n_likelihood=9"],
    "codes": ["model=autoencoder_vq", "factor=2", "metrics.n=41"],
    "latent": ["model=latent", "condition=classes", "steps=3", "metrics.n=41"],
    "prior": ["model=code_prior", "condition=classes", "metrics.n=41"],
}


def settings_of(folder: Path, *overrides: str) -> dict[str, Any]:
    return composed(f"folder='{folder}'", *TINY, *overrides)


def in_two_processes(root: Path, cases: dict[str, list[str]]) -> Path:
    """Train every case in root/name, all in the same two processes."""
    chosen = {
        name: settings_of(root / name, "trainer=ddp", "data.batch_size=32", *case) for name, case in cases.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "start_processes", forked)
        launch(2, runpy.run_path, __file__, {"chosen": chosen}, "rank")
    return root


def forked(*arguments: Any, start_method: str, **options: Any) -> Any:
    """torch's start_processes, but in processes that have the imports behind them: those are most of the time."""
    return start_processes(*arguments, start_method=FRESH.get_start_method(), **options)


def as_rank(chosen: dict[str, dict[str, Any]]) -> None:
    """What each of the two processes does: it keeps its weights, the indices it trained on and the scores it found."""
    torch.set_num_threads(1)
    models, taken, noise = [], [], []
    build, epoch, randn_like = runs.build, datamodule.batches_of_epoch, torch.randn_like

    def built(settings: dict[str, Any]) -> Any:
        models.append(build(settings))
        return models[-1]

    def listed(images: Images, order: list[Tensor], *arguments: Any) -> Iterator[Batch]:
        taken.extend(order)
        return epoch(images, order, *arguments)

    def drawn(x: Tensor) -> Tensor:
        noise.append(randn_like(x))
        return noise[-1]

    runs.build, datamodule.batches_of_epoch = built, listed
    for name, settings in chosen.items():
        folder = Path(settings["folder"])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "randn_like", torch.zeros_like if name == "noiseless" else drawn)
            found = finish(settings, folder, [])
        seen = {"state": models[-1].state_dict(), "taken": taken[:5], "scores": json.dumps(found["scores"])}
        torch.save({**seen, "noise": noise[:1]}, folder.with_name(f"{name}-{os.environ['LOCAL_RANK']}.pt"))
        taken.clear(), noise.clear()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    return in_two_processes(tmp_path_factory.mktemp("ddp"), CASES)


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> Path:
    return in_two_processes(tmp_path_factory.mktemp("ddp"), SLOW)


def seen_by(root: Path, name: str) -> list[dict[str, Any]]:
    return [torch.load(root / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1)]


FAMILIES = [
    ("trained", "vae"),
    ("trained", "gan"),
    *(pytest.param("others", name, marks=pytest.mark.slow) for name in SLOW),
]


@pytest.mark.parametrize(("root", "name"), FAMILIES)
def test_both_ranks_end_with_the_same_weights_and_scores(root, name, request) -> None:
    first, second = seen_by(request.getfixturevalue(root), name)
    for key, value in first["state"].items():
        assert torch.equal(value, second["state"][key]), key
    assert first["scores"] == second["scores"]


@pytest.mark.parametrize(("root", "name"), FAMILIES)
def test_one_process_finds_the_same_scores(root, name, request) -> None:
    """Of the model that two processes trained and scored: images, distances, and likelihoods with their noise."""
    folder = request.getfixturevalue(root) / name
    settings, metrics = runs.read_settings(folder), runs.finished(folder)
    data = instantiate(settings["data"], _convert_="all")
    judged = Scorer(settings, data, torch.device("cpu"))(load(folder))
    assert np.array_equal(np.load(folder / "samples.npz")["fake"], judged.fakes.numpy()[:256])
    assert judged.record["scores"].keys() == metrics["scores"].keys()
    for score, row in metrics["scores"].items():
        assert judged.record["scores"][score]["value"] == pytest.approx(row["value"], rel=1e-6, abs=1e-6), score
        assert row["n"] == judged.record["scores"][score]["n"]
    assert [row["value"] for row in judged.record["likelihoods"]] == pytest.approx(
        [row["value"] for row in metrics["likelihoods"]], rel=1e-6
    )
    assert judged.record["protocol_id"] == metrics["protocol_id"]


@pytest.mark.parametrize("name", CASES)
def test_ranks_share_the_order_without_overlap(trained, name) -> None:
    """A step's batches are together the batch of one process with twice the size."""
    first, second = (torch.stack(seen["taken"]) for seen in seen_by(trained, name))
    together = torch.cat([first, second], 1).sort(1).values  # (5 steps, 64)
    n = len(instantiate(settings_of(trained)["data"], _convert_="all").split("train").x)
    whole = torch.stack(epoch_batches(n, 64, seed=0, epoch=0)[:5])
    assert torch.equal(together, whole.sort(1).values)
    assert len(together.unique()) == 320


def test_two_processes_train_as_one_with_twice_the_batch(trained, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    finish(settings_of(tmp_path / "one", *CASES["noiseless"], "data.batch_size=64"), tmp_path / "one", [])
    one, two = load(tmp_path / "one").state_dict(), load(trained / "noiseless").state_dict()
    for key, value in two.items():
        torch.testing.assert_close(value, one[key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_the_folder_is_that_of_one_process(trained, name) -> None:
    files = {"config.yaml", "metrics.json", "samples.npz", "samples.png", "curves.csv", "checkpoints"}
    assert files == {path.name for path in (trained / name).iterdir() if not path.name.startswith(".")}
    assert [path.name for path in (trained / name / "checkpoints").glob("next*")] == []
    rows = [row.split(",") for row in (trained / name / "curves.csv").read_text().splitlines()[1:]]
    assert len({(row[0], row[2]) for row in rows}) == len(rows)
    cost = runs.finished(trained / name)["cost"]
    assert cost["images_seen"] == 320 and cost["device"].startswith("2 x cpu")
    assert load(trained / name).images_seen == 320


def test_each_rank_draws_noise_of_its_own(trained) -> None:
    first, second = (seen["noise"][0] for seen in seen_by(trained, "vae"))
    assert first.shape == second.shape and not torch.isclose(first, second).any()


FAILS = "raise ValueError('disk full')"
MEETS = "dist.init_process_group('gloo', rank={}, world_size=2)\n{}"
AT_WORK = {
    "sleeps": ("time.sleep(600)", FAILS),
    "waits": (MEETS.format(0, "dist.barrier()"), MEETS.format(1, FAILS)),
}


@pytest.mark.slow
@pytest.mark.parametrize("other", ["sleeps", "waits"])
def test_a_rank_that_fails_ends_the_others(other) -> None:
    """Whatever these are at; the sentence is that of the rank that failed."""
    own = f"import os, time, torch.distributed as dist\nexec({AT_WORK[other]}[int(os.environ['LOCAL_RANK'])])"
    with pytest.raises(ChildProcessError, match=r"^rank 1 of 2: disk full$"):
        launch(2, exec, own)


@pytest.mark.slow
def test_no_rank_outlives_a_command_that_was_killed(tmp_path) -> None:
    """The system lets go of a dead process's locks."""
    locks = [tmp_path / "0", tmp_path / "1"]
    hold = "import fcntl, os, time; f = open(os.environ['LOCAL_RANK'], 'w'); fcntl.flock(f, fcntl.LOCK_EX)"
    call = f"from genzoo.processes import launch; launch(2, exec, {hold + '; time.sleep(600)'!r})"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = subprocess.Popen([sys.executable, "-c", call], cwd=tmp_path, env=env)
    wait_until(lambda: all(path.exists() and not free(path) for path in locks))
    command.kill()
    wait_until(lambda: all(map(free, locks)))
    command.wait()


def free(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def wait_until(holds: Callable[[], bool], most: float = 120.0) -> None:
    end = time.monotonic() + most
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.parametrize(("n", "world"), [(2, 2), (41, 2), (256, 3), (10_000, 8)])
def test_shares_are_contiguous_and_differ_by_one_at_most(n, world, monkeypatch) -> None:
    monkeypatch.setattr(ranks, "world", lambda: world)
    shares = []
    for rank in range(world):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        shares.append(ranks.share(n))
    assert [i for share in shares for i in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    with pytest.raises(ValueError, match=f"{world - 1} images cannot be shared by {world} processes"):
        ranks.share(world - 1)


def test_machines_want_a_launcher(tmp_path) -> None:
    settings = settings_of(tmp_path, "trainer=ddp", "+trainer.num_nodes=2")
    with pytest.raises(ValueError, match=r"trainer\.num_nodes=2: start the command with torchrun or srun"):
        to_start(instantiate(settings["trainer"], logger=False, precision=None))


@pytest.mark.slow
def test_every_job_of_a_sweep_has_processes_of_its_own(tmp_path) -> None:
    """The first job fails on both ranks, the second is trained."""
    call = ["genzoo.run", "-m", "model=vae", "trainer=ddp", "data.batch_size=32", "metrics=none", *TINY]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *call, "model.optimizer.lr=1e30,1e-3"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and "became nan" in done.stderr
    (bad,), (good,) = (list(tmp_path.glob(f"outputs/runs/*/seed=0/{file}")) for file in ("failed.txt", "metrics.json"))
    assert runs.read_settings(bad.parent)["model"]["optimizer"]["lr"] == 1e30
    assert runs.finished(good.parent)["cost"]["images_seen"] == 320
    assert done.stdout.count("vae: not scored") == 1


if __name__ == "rank":
    as_rank(chosen)  # noqa: F821 (given by launch)
