"""What every test shares: one thread, a seed, and a configuration composed as the command line would."""

from functools import partial
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from genzoo.command import conf_folder, plain
from genzoo.metrics import cost

cost.BATCHES, cost.ENOUGH = (1, 4), 0.0  # the runs of tests need no good measure of their speed
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


def composed(*overrides: str, config: str = "config") -> dict:
    """The plain configuration of these overrides; a test that trains gives `folder`."""
    with initialize_config_dir(config_dir=conf_folder(), version_base="1.3"):
        return plain(compose(config, overrides=["folder=unused", *overrides]))


@pytest.fixture
def settings(tmp_path: Path):
    """`settings(*overrides)`: the plain configuration of a run in the test's own folder."""
    return partial(composed, f"folder='{tmp_path}'")
