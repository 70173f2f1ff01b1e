"""python -m genzoo.interop run=... out=FOLDER: a trained diffusion model as a pipeline that diffusers samples from."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from genzoo import runs
from genzoo.command import command, plain
from genzoo.diffusion import grids, guidance, samplers, targets
from genzoo.diffusion.dpm_solver_pp import dpmpp_2m
from genzoo.files import write_bytes
from genzoo.generator import Generator
from genzoo.models.autoencoder import Autoencoder
from genzoo.models.diffusion import Diffusion
from genzoo.models.latent import Latent
from genzoo.nets import foreign
from genzoo.nets.translate_autoencoder import autoencoder, can_encode
from genzoo.nets.translate_unet import unet2d
from genzoo.sample import check_exchange, exchange_sampling

SPACINGS = {grids.trailing: "trailing", grids.leading: "leading"}
PREDICTIONS = {targets.noise: "epsilon", targets.v: "v_prediction", targets.x0: "sample", targets.edm: "v_prediction"}
IN_SIGMA = {samplers.heun: "HeunDiscreteScheduler", samplers.euler: "EulerDiscreteScheduler"}
PURE = 20  # from this first sigma on, noise of variance 1, which diffusers starts from, is within 0.1% of ours in x_T


@command("interop")
def main(cfg: DictConfig) -> None:
    settings = plain(cfg)
    check_exchange(settings)
    out = Path(settings["out"])
    if (out / runs.SETTINGS).is_file():
        raise ValueError(f"out={out} is a run folder: give another folder")
    model = runs.load(settings["run"], allow=settings["allow"])
    exchange_sampling(model, {**settings, "guide": None})
    lines = write(out, model, settings["y"])
    print(*lines, sep="\n")


def write(out: Path, model: Generator, y: int | None = None) -> list[str]:
    """Fill a folder that diffusers loads; the lines of its README.md, which say how.

    y: as of `pipeline`. Raises ImportError without diffusers, ValueError for what has no equal there.
    """
    stage = model.first_stage if isinstance(model, Latent) else model
    made = first_stage(model) if isinstance(model, Autoencoder) else pipeline(model, y)
    made.save_pretrained(out, safe_serialization=True)
    lines = list(described(model, made, out.name))
    if isinstance(stage, Autoencoder) and not can_encode(stage.encoder):
        lines += [
            "# Its decoder equals ours; no encoder of diffusers halves images as ours does, so `encode` gives NaN."
        ]
    write_bytes(out / "README.md", "\n".join(["```python", *lines, "```", ""]).encode())
    return lines


def described(model: Generator, made: Any, folder: str) -> Iterator[str]:
    """The lines of Python that use what was made."""
    name = type(made).__name__
    yield f"from diffusers import {name}"
    yield f'loaded = {name}.from_pretrained("{folder}")'
    if isinstance(model, Autoencoder):
        return
    if made.unet.config.get("num_class_embeds"):
        yield "# Every class is in loaded.unet(x_t, t, class_labels=y). To have loaded() draw one, export with y=CLASS."
    else:
        options = ", ".join(f"{key}={value}" for key, value in call(model).items())
        yield f"images = loaded(batch_size=16, {options}).images"


def pipeline(model: Generator, y: int | None = None) -> Any:
    """A DDIMPipeline or DDPMPipeline of pixels, an LDMPipeline of latents, which with `call(model)` draws from the same
    x_T what model.sample draws.

    Its x_T is noise of variance 1. Ours has sigma^2 / (1 + sigma^2), less by 4e-5 with the usual betas, and with `heun`
    or `euler`, both sigma^2.

    y: of a class-conditional model, the class to draw; None keeps all in the unet, of which no pipeline asks for one.
    Raises ImportError without diffusers, ValueError for what has no equal there.
    """
    package, denoiser = foreign.diffusers(), diffusion(model)
    strength = opened(denoiser.guidance)[1].get("scale", 1.0)
    if y is not None and strength != 1:
        raise ValueError(f"guidance.scale={strength}: these pipelines do not guide; leave y out")
    if not isinstance(model, Latent):
        refuse_in_pixels(denoiser)
    unet = unet_of(denoiser, y)
    steps = scheduler(denoiser)
    if isinstance(model, Latent):
        stage = first_stage(model.first_stage, model.mean, model.std * denoiser.sigma_data)
        if model.image_shape[1] != model.image_shape[2]:
            raise ValueError("diffusers' pipeline of latents draws square images only")
        return package.LDMPipeline(vqvae=stage, unet=unet, scheduler=steps)
    kind = package.DDIMPipeline if isinstance(steps, package.DDIMScheduler) else package.DDPMPipeline
    return kind(unet=unet, scheduler=steps)


def refuse_in_pixels(model: Diffusion) -> None:
    """Raises ValueError for what diffusers' pipeline of latents alone can do: scale both x_T and the result."""
    if model.sigma_data != 1:
        raise ValueError(
            f"model.target.sigma_data={model.sigma_data}: diffusers scales no pixels back: only 1 has an equal"
        )
    if (sampler := opened(model.sampler)[0]) in IN_SIGMA:
        raise ValueError(f"sampler={sampler.__name__}: in pixels diffusers starts from no sigma: take ddim or dpmpp_2m")


def call(model: Generator) -> dict[str, Any]:
    """What the pipeline has to be told at each call, since its folder cannot keep it."""
    denoiser = diffusion(model)
    function, options = opened(denoiser.sampler)
    said: dict[str, Any] = {"num_inference_steps": denoiser.steps}
    if options.get("eta"):
        said["eta"] = options["eta"]
    if function is samplers.ddim and limited(denoiser):
        said["use_clipped_model_output"] = True
    return said


def diffusion(model: Generator) -> Diffusion:
    inner = model.generator if isinstance(model, Latent) else model
    if not isinstance(inner, Diffusion):
        raise ValueError(f"{model.family} is no diffusion model: diffusers has pipelines for those, and autoencoders")
    if opened(inner.target)[0] is targets.velocity:
        raise ValueError(
            "model.target=velocity: diffusers starts flow matching at t=1, ours below: noise, v, x0 and edm have equals"
        )
    return inner


def unet_of(model: Diffusion, y: int | None) -> nn.Module:
    """For EDM it says -F, which is v in units of sigma_data."""
    is_theirs = isinstance(model.net, foreign.DiffusersUNet) and y is None
    unet = model.net.unet if is_theirs else unet2d(model.net, model.image_shape, y)
    if opened(model.target)[0] is targets.edm:
        unet = deepcopy(unet)
        for parameter in unet.conv_out.parameters():
            parameter.data.neg_()
    return unet


def first_stage(model: nn.Module, *scaling: Any) -> nn.Module:
    if not isinstance(model, Autoencoder):
        raise ValueError(f"a first stage of {type(model).__name__} cannot be exported: only our autoencoders can")
    foreign.diffusers()
    return autoencoder(model.encoder, model.decoder, model.bottleneck, model.image_shape, *scaling)


# --- Schedulers.


def scheduler(model: Diffusion) -> Any:
    """The scheduler of diffusers that walks as the model's sampler does. Raises ValueError where there is none."""
    package = foreign.diffusers()
    function, options = opened(model.sampler)
    make = known({samplers.ddim: ddim, samplers.ddpm: ddpm, dpmpp_2m: dpm_solver} | IN_SIGMA, function, "sampler")
    common = {
        "num_train_timesteps": len(model.sigmas),
        "trained_betas": betas(model.sigmas / model.sigma_data),
        "prediction_type": known(PREDICTIONS, opened(model.target)[0], "model.target"),
    }
    if function in IN_SIGMA:
        return in_sigma(package, model, common, make)
    common["timestep_spacing"] = known(SPACINGS, opened(model.grid)[0], "spacing")
    if model.sigma_grid[0] / model.sigma_data < PURE:
        raise ValueError(
            f"sampling starts at sigma {model.sigma_grid[0]:.3g}: diffusers starts from pure noise, which takes {PURE}"
        )
    if function is not dpmpp_2m and common["timestep_spacing"] == "trailing" and len(model.sigmas) % model.steps:
        raise ValueError(f"steps={model.steps} does not divide the schedule's {len(model.sigmas)}: set other steps")
    return make(package, model, common, **options)


def in_sigma(package: Any, model: Diffusion, common: dict[str, Any], kind: str) -> Any:
    """`heun` or `euler`, of latents. Raises ValueError for a grid of ours that diffusers does not have."""
    grid, ours = opened(model.grid)[0], model.sigma_grid / model.sigma_data
    asked = {"use_karras_sigmas": grid is grids.karras, "use_exponential_sigmas": grid is grids.log_snr}
    made = getattr(package, kind)(**common, **asked, timestep_spacing="trailing")
    made.register_to_config(sigma_min=ours[-2].item(), sigma_max=ours[0].item())  # its own are 1% off, of 32-bit betas
    start = made.init_noise_sigma  # as the pipeline has it, before it sets the steps
    made.set_timesteps(model.steps)
    theirs = made.sigmas.unique().flip(0)
    if len(ours) != len(theirs) or not torch.allclose(ours, theirs, rtol=0.02) or not torch.isclose(ours[0], start):
        raise ValueError(f"spacing={grid.__name__}: diffusers has no such grid: take karras, log_snr or trailing")
    return made


def ddim(package: Any, model: Diffusion, common: dict[str, Any], eta: float = 0.0) -> Any:
    return package.DDIMScheduler(**common, clip_sample=limited(model))


def ddpm(package: Any, model: Diffusion, common: dict[str, Any], large: bool = False) -> Any:
    if large and model.sigma_grid[-2] != model.sigmas[0]:
        raise ValueError(
            "sampler.large=true: diffusers then ends in noise, but with spacing=leading: take that, or false"
        )
    variance = "fixed_large" if large else "fixed_small"
    return package.DDPMScheduler(**common, clip_sample=limited(model), variance_type=variance)


def dpm_solver(package: Any, model: Diffusion, common: dict[str, Any]) -> Any:
    """Clipping is its dynamic threshold with a largest value of 1."""
    if common["timestep_spacing"] != "trailing":
        raise ValueError(f"spacing={common['timestep_spacing']}: with dpmpp_2m, diffusers walks trailing ones as we do")
    limit = {"thresholding": limited(model), "sample_max_value": 1.0}
    walk = {"algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint", "lower_order_final": False}
    return package.DPMSolverMultistepScheduler(**common, **limit, **walk, final_sigmas_type="zero")


def betas(sigmas: Tensor) -> list[float]:
    """(T,) of sigmas (T,): alpha_bar = 1 / (1 + sigma^2)."""
    alpha_bar = 1 / (1 + sigmas.double().cpu().square())
    return [1 - float(alpha_bar[0]), *(1 - alpha_bar[1:] / alpha_bar[:-1]).tolist()]


def limited(model: Diffusion) -> bool:
    """Whether x0_hat is clipped to [-1, 1]. Raises ValueError for another limit."""
    if model.limit is None or not model.bounded:
        return False
    return known({guidance.clip: True}, opened(model.limit)[0], "model.limit")


def known(table: dict[Any, Any], function: Callable[..., Any], what: str) -> Any:
    """What the table has for a function of ours. Raises ValueError where it has nothing."""
    if function not in table:
        names = ", ".join(name.__name__ for name in table)
        raise ValueError(f"{what}={function.__name__} has no equal in diffusers, which {names} have")
    return table[function]


def opened(function: Callable[..., Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """A function, and what partials of it set."""
    options: dict[str, Any] = {}
    while isinstance(function, partial):
        function, options = function.func, {**function.keywords, **options}
    return function, options


if __name__ == "__main__":
    main()
