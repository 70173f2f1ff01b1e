"""How every command meets Hydra and its user: where conf/ is, and errors as one sentence with exit code 2."""

import functools
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, MissingMandatoryValue, OmegaConf
from omegaconf.errors import InterpolationResolutionError, InterpolationToMissingValueError, OmegaConfBaseException
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from genzoo.files import remedy
from genzoo.metrics.protocol import short_hash
from genzoo.nets import foreign
from genzoo.provenance import refuse_secrets
from genzoo.suggest import composition_sentence, did_you_mean, known_keys, one_line, refuse_added, refuse_misfits

DEBUG, FULL_ERROR = "--debug", "HYDRA_FULL_ERROR"
PATHS = (
    *("run", "out", "data.path", "data.root", "folder", "image", "mask", "map", "guide", "first_stage", "from"),
    *("condition.path", "diffusers.path", "diffusers.first_stage.path", "model.net.path", "model.first_stage.path"),
    "data.maps",
)
CAPTIONS = ("prompt", "y", "prior.y")


def conf_folder() -> str:
    """Where the configurations are: inside the installed package, else beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "conf", package.parent / "conf"):
        if (folder / "config.yaml").is_file():
            return str(folder)
    raise FileNotFoundError(f"no conf/config.yaml in {package} or beside it; install genzoo again")


def folder_name(overrides: str) -> str:
    """A folder's name made of overrides: one level, at most 200 bytes, different for different overrides."""
    name = overrides.replace("'", "").replace("/", "_").replace("\\", "_") or "default"
    return name if len(name.encode()) <= 200 else f"{name[:150]}-{short_hash(overrides)}"


def label(model: DictConfig) -> str:
    """A model's `name` in small letters, or its class: genzoo.models.vae.VAE -> vae."""
    return str(model.get("name") or model._target_.rsplit(".", 1)[-1]).lower()


def latent_shape(first_stage: str) -> list[int]:
    """(c, h, w) of the latents of a trained first stage. Raises ValueError for none, and for a run of another kind."""
    from genzoo.runs import load

    if first_stage is None:
        raise ValueError("set first_stage=RUN_FOLDER of a trained autoencoder_kl or autoencoder_vq")
    shape = getattr(load(first_stage), "latent_shape", None)
    if shape is None:
        raise ValueError(f"first_stage={first_stage} has no latents: give a run of autoencoder_kl or autoencoder_vq")
    return list(shape)


OmegaConf.register_new_resolver("diffusers_latent", foreign.latent_shape, replace=True)
OmegaConf.register_new_resolver("diffusers_target", foreign.target, replace=True)
OmegaConf.register_new_resolver("latent_shape", latent_shape, replace=True)
OmegaConf.register_new_resolver("folder_name", folder_name, replace=True)
OmegaConf.register_new_resolver("relative", os.path.relpath, replace=True)
OmegaConf.register_new_resolver("label", label, replace=True)


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration as plain dicts and lists: the last that anything sees of Hydra.

    Raises ValueError for a `_target_` that is not there or does not take what it is given.
    """
    settings = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    refuse_misfits(settings, OmegaConf.to_container(cfg))
    return settings


def command(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make a function of a composed configuration into a program that ends as `ending` says."""

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        @functools.wraps(task)
        def program() -> None:
            with ending(), loud():
                hush()
                refuse_secrets(sys.argv[1:])
                raised: list[Exception] = []
                sys.argv[1:] = [quoted(argument) for argument in sys.argv[1:] if argument != DEBUG]
                check_options()
                with in_words(config_name):
                    hydra.main(config_path=conf_folder(), config_name=config_name, version_base="1.3")(
                        kept(task, raised, config_name)
                    )()
                for error in raised:
                    raise error

        return program

    return decorate


def kept(task: Callable[[DictConfig], Any], raised: list[Exception], config_name: str) -> Callable[[DictConfig], Any]:
    """The task of a single run, whose exception is put into `raised`, since Hydra would print overrides before it.

    In a sweep the exception goes on, for launchers and sweepers to see.
    """

    @functools.wraps(task)
    def job(cfg: DictConfig) -> Any:
        hush()  # again, for launchers that start processes
        hydra_cfg = HydraConfig.get()
        try:
            known = functools.partial(known_keys, conf_folder(), config_name)
            refuse_added(hydra_cfg.overrides.task, hydra_cfg.runtime.choices, known)
            return task(cfg)
        except Exception as error:
            if hydra_cfg.mode == RunMode.MULTIRUN:
                raise
            raised.append(error)

    return job


@contextmanager
def ending() -> Iterator[None]:
    """Around a program: an exception ends it with one sentence on stderr and exit code 2, Ctrl-C with 130.

    --debug among the arguments or HYDRA_FULL_ERROR=1 shows the traceback before the sentence.
    """
    debug = DEBUG in sys.argv or bool(os.environ.get(FULL_ERROR))
    try:
        yield
    except KeyboardInterrupt:
        print("genzoo: stopped", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(f"genzoo: {sentence(error)}", file=sys.stderr)
        sys.exit(2)


@contextmanager
def loud() -> Iterator[None]:
    """Let Hydra raise its errors instead of printing them."""
    before = os.environ.get(FULL_ERROR)
    os.environ[FULL_ERROR] = "1"
    try:
        yield
    finally:
        os.environ[FULL_ERROR] = before or ""


@contextmanager
def in_words(config_name: str) -> Iterator[None]:
    """Around Hydra: what it says of the command line becomes a ValueError of one sentence."""
    try:
        yield
    except (OverrideParseException, ConfigCompositionException, ValueError) as error:
        if isinstance(error, ValueError) and not str(error).startswith("Config group override"):
            raise
        raise ValueError(composition_sentence(error, conf_folder(), config_name, sys.argv[1:])) from error


def check_options() -> None:
    """Raises ValueError for options, such as --hlep, that Hydra does not take, which would print its usage."""
    parser = get_args_parser()
    parser.error = refuse_option
    known = [name for action in parser._actions for name in action.option_strings]
    for argument in sys.argv[1:]:
        name = argument.partition("=")[0]
        if name.startswith("--") and not any(option.startswith(name) for option in known):
            raise ValueError(f"there is no option {name}: {did_you_mean(name, [*known, DEBUG])}")
    parser.parse_args()


def refuse_option(message: str) -> NoReturn:
    raise ValueError(f"{message}; --help says what there is")


def quoted(argument: str) -> str:
    """An override that names a path or is a caption, quoted for Hydra, whose grammar gives = and , a meaning."""
    key, _, value = argument.partition("=")
    if not (key in PATHS or (key in CAPTIONS and " " in value)) or not value or value[0] in "'\"[{$?":
        return argument
    value = os.path.expanduser(value)
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{escaped}'"


def sentence(error: BaseException) -> str:
    """What went wrong at the root, in one line, without the layers that passed it on."""
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, MissingMandatoryValue | InterpolationToMissingValueError):
        missing = re.search(r"Missing mandatory value: (\S+)", str(error))
        key = missing[1] if missing and isinstance(error, InterpolationToMissingValueError) else error.full_key
        return f"{key} has no value: add {key}=..."
    if type(error) is InterpolationResolutionError and (inside := in_resolver(error)):
        return sentence(inside)
    if isinstance(error, OmegaConfBaseException):
        return one_line(f"{error.full_key or 'the configuration'}: {error.msg or error}")
    if isinstance(error, OSError) and error.errno and error.filename:
        return one_line(f"{error.filename} cannot be used: {remedy(error, Path(error.filename))}")
    spoken = isinstance(error, ValueError | OSError | ImportError | HydraException | MisconfigurationException)
    return one_line(error if spoken and str(error) else f"{type(error).__name__}: {error} ({DEBUG} shows where)")


def in_resolver(error: BaseException | None) -> BaseException | None:
    """What a resolver raised, which OmegaConf wraps in errors of its own; None for no such thing."""
    while isinstance(error, OmegaConfBaseException):
        error = error.__cause__ or error.__context__
    return error


def hush() -> None:
    """Keep Lightning's greetings and advice for DataLoaders, which these runs do not use, off the screen, and the line
    of code out of our own warnings."""
    for name in ("pytorch_lightning", "lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="(pytorch_lightning|lightning_fabric|torchmetrics).*")
    warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")  # which is by intention
    warnings.formatwarning = formatted


def formatted(message: Warning | str, category: type[Warning], filename: str, *where: Any, **more: Any) -> str:
    """A warning as it is printed."""
    ours = Path(filename).is_relative_to(Path(__file__).parent)
    return f"genzoo: {message}\n" if ours else in_full(message, category, filename, *where, **more)


in_full = warnings.formatwarning
