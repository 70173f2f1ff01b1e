"""Every file in conf/data, composed under a small root config, makes a DataModule with its keys in place."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

CONF = Path(__file__).parents[2] / "conf" / "data"
ROOT = "defaults: [_self_, nets: conv, features: digits, data: digits]\nseed: 3\n"
KEYS = {"width", "budget", "data"}


@pytest.fixture(scope="module")
def conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config folder with the real data group and stubs of the groups that it overrides."""
    folder = tmp_path_factory.mktemp("conf")
    shutil.copytree(CONF, folder / "data")
    (folder / "config.yaml").write_text(ROOT)
    for option in ("nets/conv", "nets/mlp", "features/digits", "features/fashion_mnist", "features/inception",
                   "features/pixels"):  # fmt: skip
        path = folder / f"{option}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"name: {path.stem}\n")
    return folder


def composed(conf: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(conf), version_base="1.3"):
        return compose("config", list(overrides))


def module(conf: Path, *overrides: str) -> Any:
    return instantiate(composed(conf, *overrides).data, _convert_="all")


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_every_data_file_makes_a_datamodule(conf: Path, name: str, tmp_path: Path) -> None:
    overrides = [f"data={name}"] + ([f"data.path={tmp_path}"] if name == "folder" else [])
    config = composed(conf, *overrides)
    data = module(conf, *overrides)
    assert KEYS <= config.keys() and config.width > 0 and config.budget.images >= 80_000
    assert data.name == name and data.seed == 3
    assert len(data.image_shape) == 3 and type(data.image_shape) is tuple


def test_a_data_set_chooses_features_and_nets_and_the_command_line_wins(conf: Path) -> None:
    assert composed(conf).features.name == "digits" and composed(conf).nets.name == "conv"
    toy = composed(conf, "data=toy2d")
    assert toy.features.name == "pixels" and toy.nets.name == "mlp"
    assert composed(conf, "data=fashion_mnist", "features=inception").features.name == "inception"


def test_the_source_gets_its_keys_from_the_command_line(conf: Path, tmp_path: Path) -> None:
    data = module(conf, "data=folder", f"data.path={tmp_path}", "data.size=48", "data.channels=1")
    assert data.image_shape == (1, 48, 48)
    assert data.options == {
        "path": str(tmp_path),
        "size": 48,
        "channels": 1,
        "val": 0.05,
        "test": 0.1,
        "ask": "class",
        "length": 100,
        "on_bad": "stop",
        "maps": None,
        "map_channels": 1,
    }
    toy = module(conf, "data=toy2d", "data.kind=moons", "+data.train=100", "+data.val=10", "+data.test=20")
    assert [len(toy.split(name).x) for name in ("train", "val", "test")] == [100, 10, 20]


def test_a_key_that_no_one_knows_is_refused(conf: Path) -> None:
    with pytest.raises(Exception, match="sise"):
        module(conf, "data=toy2d", "+data.sise=3")
