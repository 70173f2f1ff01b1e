"""Networks and noise schedules of diffusers in the place of ours, from local folders that its `save_pretrained` filled.

Only safetensors are opened, nothing is fetched, and only the classes named here are made. conf/diffusers has what puts
whole pipelines in their places: model=ddpm +diffusers=pipeline diffusers.path=FOLDER.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genzoo.nets.conditions import Classes, Condition, given, widths

TARGETS = {"epsilon": "noise", "v_prediction": "v", "sample": "x0"}  # by a scheduler's prediction_type
UNETS = ("UNet2DModel", "UNet2DConditionModel")
AUTOENCODERS = ("AutoencoderKL", "VQModel")


class DiffusersUNet(nn.Module):
    """(x, t, y) -> what a UNet2DModel or UNet2DConditionModel predicts; the times t (n,) are its own timesteps.

    These are places in the table of `sigmas(scheduler folder)`, which is the noise schedule to give a model with it.
    path: the folder of the network, such as PIPELINE/unet.
    condition: what y says. Its tokens are cross-attended to, its maps stacked on x, and class ids of
    genzoo.nets.conditions.Classes are the network's own class labels, its null the id behind the classes.
    image_shape: (C, H, W) of the images that it is to be given, where that is to be checked.
    Raises ImportError without diffusers, FileNotFoundError where there is no such network, ValueError for one that
    wants another condition or other images.
    """

    def __init__(self, path: str, condition: Condition | None = None, image_shape: Sequence[int] | None = None) -> None:
        super().__init__()
        self.unet, self.condition = pretrained(path, UNETS), condition
        asks = self.unet.config
        if image_shape:
            maps = widths(condition, image_shape[1:])[2]
            refuse_shape(path, asks.in_channels - maps, len(asks.block_out_channels), image_shape)
        self.labels = asks.get("num_class_embeds") or 0
        known = condition.classes + 1 if isinstance(condition, Classes) else 0
        tokens = 0 if condition is None else condition.tokens
        if asks.get("class_embed_type") is not None or known != self.labels:
            raise ValueError(f"{path} knows {self.labels} class labels, the condition gives {known} with its null")
        if (asks.get("cross_attention_dim") or 0) != tokens and not (self.free and tokens == 0):
            wants = asks.get("cross_attention_dim") or "no"
            raise ValueError(f"{path} attends to tokens of {wants} numbers, the condition gives {tokens or 'none'}")

    @property
    def free(self) -> bool:
        """Whether it attends to no tokens."""
        return type(self.unet).__name__ == "UNet2DModel"

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if self.labels:
            y = self.condition.null(len(x)) if y is None else y
            return self.unet(x, t, class_labels=y).sample
        _, tokens, maps = given(self.condition, y, len(x), x.shape[-2:])
        x = x if maps is None else torch.cat([x, maps], dim=1)
        return self.unet(x, t).sample if self.free else self.unet(x, t, encoder_hidden_states=tokens).sample


class DiffusersAutoencoder(nn.Module):
    """An AutoencoderKL or VQModel as first stage of genzoo.models.latent.Latent; its latents are scaled as diffusers'
    pipelines scale them.

    path: the folder of the network, such as PIPELINE/vae. image_shape: (C, H, W), by default as its config says.
    Raises ImportError without diffusers, FileNotFoundError where there is no such network, ValueError for images that
    it does not take.
    """

    def __init__(self, path: str, image_shape: Sequence[int] | None = None) -> None:
        super().__init__()
        self.net = pretrained(path, AUTOENCODERS)
        asks = self.net.config
        self.image_shape = tuple(image_shape or (asks.in_channels, asks.sample_size, asks.sample_size))
        self.latent_shape = latent_shape(path, self.image_shape)
        self.family = type(self.net).__name__
        self.scale, self.shift = asks.get("scaling_factor") or 1.0, asks.get("shift_factor") or 0.0

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """z (n, *latent_shape): the posterior's mean, or the nearest codes, scaled."""
        found = self.net.encode(x)
        z = found.latent_dist.mode() if self.family == "AutoencoderKL" else self.net.quantize(found.latents)[0]
        return (z - self.shift) * self.scale

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """x (n, *image_shape) in [-1, 1] of scaled latents; of codes, the nearest ones are decoded."""
        return self.net.decode(z / self.scale + self.shift).sample.clamp(-1, 1)


def latent_shape(path: str, image_shape: Sequence[int]) -> tuple[int, ...]:
    """(c, h, w) of the latents of images (C, H, W) in an autoencoder of diffusers, from its folder.

    Raises FileNotFoundError where there is none, ValueError for images that it does not take.
    """
    asks = config_of(path, AUTOENCODERS)
    levels = len(asks["block_out_channels"])
    refuse_shape(path, asks["in_channels"], levels, image_shape)
    return (asks["latent_channels"], *(side // 2 ** (levels - 1) for side in image_shape[1:]))


def refuse_shape(path: str, channels: int, levels: int, image_shape: Sequence[int]) -> None:
    """Raises ValueError for images (C, H, W) that a network of so many channels and resolutions does not take."""
    there, *sides = image_shape
    factor = 2 ** (levels - 1)
    if there != channels or any(side % factor for side in sides):
        wanted = f"{channels} channels and sides that are multiples of {factor}"
        raise ValueError(f"{path} takes images of {wanted}, and not of shape {there, *sides}")


def target(path: str) -> str:
    """What the network beside a scheduler of diffusers predicts, by its name in genzoo.diffusion.targets.

    Raises ValueError for what has none there.
    """
    said = read(path, "scheduler_config.json").get("prediction_type", "epsilon")
    if said not in TARGETS:
        raise ValueError(
            f"{path} has prediction_type={said}: no model.target is that; take one of {', '.join(TARGETS)}"
        )
    return TARGETS[said]


def sigmas(path: str) -> Tensor:
    """(T,) the rising noise levels of a scheduler of diffusers, from its folder, such as PIPELINE/scheduler.

    Raises ValueError for one whose last step is noise alone, or that has no betas.
    """
    config = read(path, "scheduler_config.json")
    scheduler = diffusers().DDPMScheduler.from_config({k: v for k, v in config.items() if not k.startswith("_")})
    if "beta_schedule" not in config and config.get("trained_betas") is None:
        raise ValueError(f"{path} has no betas, so it is no variance-preserving schedule: give another model.sigmas")
    alpha_bar = scheduler.alphas_cumprod.double()
    table = torch.sqrt((1 - alpha_bar) / alpha_bar)
    if not table.isfinite().all():
        raise ValueError(f"{path} ends in noise alone (rescale_betas_zero_snr): it has no finite sigma there")
    return table


def pretrained(path: str, classes: Sequence[str]) -> nn.Module:
    """A network of one of these classes of diffusers, in evaluation mode."""
    name = config_of(path, classes)["_class_name"]
    try:
        return getattr(diffusers(), name).from_pretrained(path, local_files_only=True, use_safetensors=True).eval()
    except OSError as error:
        raise FileNotFoundError(
            f"{path} has no diffusion_pytorch_model.safetensors: save the network by diffusers' "
            "save_pretrained(FOLDER, safe_serialization=True)"
        ) from error


def config_of(path: str, classes: Sequence[str]) -> dict[str, Any]:
    """What the folder of a network of one of these classes says of it."""
    config = read(path, "config.json")
    if config.get("_class_name") not in classes:
        raise ValueError(f"{path} holds a {config.get('_class_name')}: give the folder of a {' or '.join(classes)}")
    return config


def read(path: str, file: str) -> dict[str, Any]:
    """What a folder of diffusers says of itself."""
    try:
        config = json.loads((Path(path) / file).read_bytes())
    except OSError as error:
        raise FileNotFoundError(f"{path} has no {file}: give a folder that save_pretrained filled") from error
    except ValueError as error:
        raise ValueError(f"{Path(path) / file} is no JSON ({error}): fetch it again") from error
    return config if isinstance(config, dict) else {}


def diffusers() -> Any:
    """The package."""
    try:
        import diffusers
    except ImportError as error:
        raise ImportError(f"this needs diffusers ({error}): pip install 'genzoo[diffusers]'") from error
    return diffusers
