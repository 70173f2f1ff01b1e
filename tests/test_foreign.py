"""+diffusers=pipeline and +diffusers=latent: what is composed draws what diffusers draws."""

from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from genzoo import runs
from genzoo.command import sentence
from genzoo.models.latent import Latent
from genzoo.nets.foreign import sigmas

from .test_interop import foreign_stage, foreign_unet, ours, theirs

diffusers = pytest.importorskip("diffusers")


def scheduler(predicts: str) -> object:
    options = {"clip_sample": False, "timestep_spacing": "trailing", "beta_schedule": "scaled_linear"}
    return diffusers.DDIMScheduler(prediction_type=predicts, **options)


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction", "sample"])
def test_a_pipeline_in_one_line(predicts: str, settings, tmp_path: Path) -> None:
    pipeline = diffusers.DDIMPipeline(foreign_unet(), scheduler(predicts))
    pipeline.save_pretrained(tmp_path / "theirs")
    named = ["+diffusers=pipeline", f"diffusers.path='{tmp_path}/theirs'", "data.image_shape=[3,8,8]"]
    config = settings("model=ddpm", *named, "steps=10", "model.limit=null")
    model = runs.build(config).eval()
    torch.testing.assert_close(model.sigmas.double(), sigmas(f"{tmp_path}/theirs/scheduler"))
    torch.testing.assert_close(ours(model), theirs(pipeline, num_inference_steps=10), atol=1e-4, rtol=0)
    assert model.loss(torch.rand(2, 3, 8, 8))["loss"].isfinite()


@pytest.mark.parametrize("name", ["AutoencoderKL", "VQModel"])
def test_a_latent_pipeline_in_one_line(name: str, settings, tmp_path: Path) -> None:
    pipeline = diffusers.LDMPipeline(foreign_stage(name), foreign_unet(), scheduler("epsilon"))
    pipeline.save_pretrained(tmp_path / "theirs")
    named = ["+diffusers=latent", f"diffusers.path='{tmp_path}/theirs'", "data.image_shape=[3,16,16]"]
    named.append(f"diffusers.first_stage.path='{tmp_path}/theirs/vqvae'")
    config = settings("model=latent", *named, "steps=10")
    assert config["model"]["generator"]["image_shape"] == [3, 8, 8]
    model = runs.build(config).eval()
    assert isinstance(model, Latent)
    torch.testing.assert_close(ours(model), theirs(pipeline, num_inference_steps=10), atol=1e-4, rtol=0)


def test_latents_keep_their_scale(settings, tmp_path: Path) -> None:
    """Latents scaled as diffusers scales them are not scaled again: the UNet beside them knows them so."""
    pipeline = diffusers.LDMPipeline(foreign_stage("AutoencoderKL"), foreign_unet(), scheduler("epsilon"))
    pipeline.save_pretrained(tmp_path / "theirs")
    named = ["+diffusers=latent", f"diffusers.path='{tmp_path}/theirs'", "data=digits", "data.image_shape=[3,16,16]"]
    named.append(f"diffusers.first_stage.path='{tmp_path}/theirs/vqvae'")
    model = runs.build(settings("model=latent", *named))

    data = Mock()
    model._trainer = Mock(datamodule=data, precision="32-true")
    model.generator.on_fit_start = lambda: None
    model.on_fit_start()
    assert not model.mean.any() and (model.std == 1).all() and model.encoded
    data.encode_training.assert_called_once_with(model.latents)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model=ddpm", "data.image_shape=[1,8,8]"], "takes images of 3 channels and sides that are multiples of 2"),
        (["model=ddpm", "data.image_shape=[3,7,8]"], "takes images of 3 channels and sides that are multiples of 2"),
        (["model=vae"], "VAE takes no net"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(overrides: list[str], said: str, settings, tmp_path: Path) -> None:
    diffusers.DDIMPipeline(foreign_unet(), scheduler("epsilon")).save_pretrained(tmp_path)
    with pytest.raises((ValueError, HydraException), match=said):
        runs.build(settings(*overrides, "+diffusers=pipeline", f"diffusers.path='{tmp_path}'"))


def test_a_prediction_that_we_have_not_is_refused(settings, tmp_path: Path) -> None:
    diffusers.DDIMPipeline(foreign_unet(), scheduler("other")).save_pretrained(tmp_path)
    with pytest.raises(OmegaConfBaseException) as raised:
        settings("+diffusers=pipeline", f"diffusers.path='{tmp_path}'")
    assert sentence(raised.value).startswith(f"{tmp_path}/scheduler has prediction_type=other: no model.target is that")
