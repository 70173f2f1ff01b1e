"""How every command meets Hydra and its user: where conf/ is, and errors as one sentence with exit code 2."""

import functools
import logging
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from pytorch_lightning.utilities.exceptions import SIGTERMException

from genzoo.metrics.protocol import short_hash

PATHS = ("run", "out", "data.path", "data.root", "folder", "image", "mask", "guide")


def conf_folder() -> str:
    """Where the configurations are: inside the installed package, else beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return str(folder)
    raise FileNotFoundError(f"no conf/config.yaml in {package} or beside it; install genzoo again")


def folder_name(overrides: str) -> str:
    """A folder's name made of overrides: one level, at most 200 bytes, different for different overrides."""
    name = overrides.replace("/", "_").replace("\\", "_") or "default"
    return name if len(name.encode()) <= 200 else f"{name[:150]}-{short_hash(overrides)}"


def label(model: DictConfig) -> str:
    """A model's `name` in small letters, or its class: genzoo.models.vae.VAE -> vae."""
    return str(model.get("name") or model._target_.rsplit(".", 1)[-1]).lower()


OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
OmegaConf.register_new_resolver("relative", os.path.relpath, replace=True)
OmegaConf.register_new_resolver("label", label, replace=True)


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration as plain dicts and lists: the last that anything sees of Hydra."""
    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)


def command(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make a function of a composed configuration into a program.

    An exception ends it with one sentence on stderr and exit code 2; HYDRA_FULL_ERROR=1 shows the traceback instead.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        @functools.wraps(task)
        def program() -> None:
            wanted = os.environ.get("HYDRA_FULL_ERROR")
            os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra lets exceptions through to here
            hush()
            sys.argv[1:] = [quoted(argument) for argument in sys.argv[1:]]
            try:
                hydra.main(config_path=conf_folder(), config_name=config_name, version_base="1.3")(task)()
            except SIGTERMException:  # saved; Lightning itself would exit with 0, as if the work were done
                sys.exit(143)
            except Exception as error:
                if wanted:
                    raise
                print(f"genzoo: {sentence(error)}\n(HYDRA_FULL_ERROR=1 shows the traceback)", file=sys.stderr)
                sys.exit(2)
            finally:
                os.environ["HYDRA_FULL_ERROR"] = wanted or ""

        return program

    return decorate


def quoted(argument: str) -> str:
    """An override that names a path, quoted for Hydra, whose grammar gives = and , in a folder's name a meaning."""
    key, _, value = argument.partition("=")
    if key not in PATHS or not value or value[0] in "'\"[{$?":
        return argument
    value = os.path.expanduser(value)
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{escaped}'"


def sentence(error: BaseException) -> str:
    """What went wrong at the root, without the layers that passed it on."""
    while isinstance(error, hydra.errors.InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key} has no value: add {error.full_key}=..."
    spoken = isinstance(error, ValueError | OSError | ImportError | hydra.errors.HydraException)
    return str(error).strip() if spoken and str(error) else f"{type(error).__name__}: {error}"


def hush() -> None:
    """Keep Lightning's greetings and advice for DataLoaders, which these runs do not use, off the screen."""
    for name in ("pytorch_lightning", "lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="(pytorch_lightning|lightning_fabric|torchmetrics).*")
