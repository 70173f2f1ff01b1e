"""What every test shares: one thread, a seed, and a configuration composed as the command line would."""

import gc
import json
import multiprocessing
import tempfile
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra

from genzoo import export, runs
from genzoo.command import conf_folder, plain
from genzoo.metrics import cost

cost.BATCHES, cost.ENOUGH = (1, 4), 0.0  # the runs of tests need no good measure of their speed
FRESH = multiprocessing.get_context("forkserver")  # processes that have imported genzoo.run, and done nothing else
FRESH.set_forkserver_preload(["genzoo.run"])
FOLDER = "/folder/of/the/run"
STAGES = {"model=latent": "autoencoder_kl", "model=code_prior": "autoencoder_vq"}
torch.set_num_threads(1)  # two threads on two busy cores wait for each other


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Cached statistics of the tests stay apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def composed_once() -> Iterator[None]:
    """Hydra composes a configuration twice, first to read hydra.mode from it, which no command sets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hydra, "get_mode", lambda *_, **__: None)
        yield


def pytest_collection_finish() -> None:
    gc.freeze()  # else each collection looks at all modules again


def composed(*overrides: str, config: str = "config") -> dict:
    """The plain configuration of these overrides; a test that trains gives `folder`. A second stage gets a first."""
    stage = next((STAGES[o] for o in overrides if o in STAGES), None)
    if stage and not any("first_stage=" in o for o in overrides):
        overrides = (*overrides, f"first_stage='{first_stage(stage, *(o for o in overrides if o.startswith('data')))}'")
    folder = next((o for o in reversed(overrides) if o.startswith("folder=")), "folder=unused")
    text = composition(config, *(o for o in overrides if not o.startswith("folder=")))
    return json.loads(text.replace(FOLDER, folder.partition("=")[2].strip("'")))


@cache
def composition(config: str, *overrides: str) -> str:
    """As JSON and of a run in FOLDER, since Hydra takes longer than most tests."""
    with initialize_config_dir(config_dir=conf_folder(), version_base="1.3"):
        return json.dumps(plain(compose(config, overrides=[f"folder={FOLDER}", *overrides])))


@cache
def first_stage(model: str, *data: str) -> str:
    """The folder of an untrained autoencoder of these images."""
    torch.manual_seed(0)
    config = composed(f"model={model}", "width=8", *data)
    folder = tempfile.mkdtemp(prefix="stage")
    provenance = {"family": "autoencoder", "sampling": "", "overrides": []}
    export.write(Path(folder), runs.build(config), config, {"protocol_id": "", "scores": {}, "provenance": provenance})
    return folder


@pytest.fixture
def settings(tmp_path: Path):
    """`settings(*overrides)`: the plain configuration of a run in the test's own folder."""
    return partial(composed, f"folder='{tmp_path}'")
