"""Latent models: unit variance, any family inside, images encoded once, and a wrapper that changes nothing."""

from functools import partial
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor, nn

import genzoo
from genzoo import export, runs
from genzoo.generator import HasDenoiser, HasLikelihood, TakesClasses
from genzoo.models.latent import Latent
from genzoo.run import finish, make_trainer
from genzoo.sample import guide

FAMILIES = ["ddpm", "edm", "flow_matching", "flow", "gan", "vae"]
FEW = ["trainer=cpu", "metrics=none", "width=8", "steps=3", "budget.checks=1", "callbacks.judge.n=4"]


class Halves(nn.Module):
    """A first stage known in closed form: the latent is 3 times the mean of each 2x2 block, plus 5."""

    image_shape, latent_shape, family = (1, 8, 8), (1, 4, 4), "halving"

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 2)
        self.calls = 0

    def encode(self, x: Tensor) -> Tensor:
        self.calls += len(x)
        return 3 * nn.functional.avg_pool2d(x, 2) + 5

    def decode(self, z: Tensor) -> Tensor:
        return nn.functional.interpolate((z - 5) / 3, scale_factor=2)


def latent(settings, family: str = "ddpm", *overrides: str) -> Latent:
    inner = settings(f"model={family}", "data.image_shape=[1,4,4]", "width=8", "steps=3", *overrides)
    return Latent((1, 8, 8), Halves(), runs.build(inner))


def fitted(model: Latent, settings, folder: Path, *overrides: str) -> tuple[Latent, object]:
    chosen = settings(f"folder={folder}", *FEW, "budget.images=320", *overrides)
    data = instantiate(chosen["data"], _convert_="all")
    make_trainer(chosen, folder, model).fit(model, data)
    return model, data


def levels(data, *splits: str) -> Tensor:
    """(N, C, H, W) in [-1, 1]."""
    return torch.cat([data.split(name).x for name in splits]) / 127.5 - 1


def test_latents_have_unit_variance_and_are_computed_once(settings, tmp_path: Path) -> None:
    model, data = fitted(latent(settings), settings, tmp_path)
    x = data.splits.train.x.float() / 127.5 - 1
    z = 3 * nn.functional.avg_pool2d(x, 2) + 5
    used = len(x) // 64 * 64  # an epoch drops a batch that is not full
    assert model.mean.item() == pytest.approx(z.mean().item(), abs=0.02)
    found = model.latents(x)
    assert found.mean().item() == pytest.approx(0, abs=0.02) and found.std().item() == pytest.approx(1, abs=0.02)
    torch.testing.assert_close(model.images(found), nn.functional.interpolate(nn.functional.avg_pool2d(x, 2), None, 2))
    batch, _ = next(iter(data.epoch()))
    assert batch.shape == (64, 1, 4, 4)
    held_out = len(data.splits.val.x)
    assert model.first_stage.calls == used + len(x) + held_out + len(x)  # scaled, kept, validated, and those above


def test_mirrored_images_are_encoded_too(settings, tmp_path: Path) -> None:
    _, data = fitted(latent(settings), settings, tmp_path, "data.flip=true")
    kept, n = data._encoded.x, len(data.splits.train.x)
    assert len(kept) == 2 * n
    torch.testing.assert_close(kept[n:], kept[:n].flip(-1))  # of this first stage


@pytest.mark.parametrize("family", FAMILIES)
def test_any_family_learns_latents_and_leaves_the_first_stage_alone(family: str, settings, tmp_path: Path) -> None:
    model = latent(settings, family, *(["model.steps=1"] if family == "flow" else []))
    before = model.first_stage.unused.weight.clone()
    start = [p.clone() for p in model.generator.parameters()]
    fitted(model, settings, tmp_path)
    assert torch.equal(model.first_stage.unused.weight, before)
    assert any(not torch.equal(a, b) for a, b in zip(start, model.generator.parameters()))
    model.eval()
    assert model.sample(3).shape == (3, 1, 8, 8)
    assert not isinstance(model, HasLikelihood) and not isinstance(model, HasDenoiser)
    assert isinstance(model, TakesClasses) == isinstance(model.generator, TakesClasses)
    assert "latents of 1x4x4" in model.sampling and model.family.startswith("latent ")


@pytest.mark.parametrize("family", ["ddpm", "flow", "gan"])
def test_samples_of_latents_are_not_held_to_the_range_of_images(family: str, settings) -> None:
    """Outputs far outside [-1, 1] stay there: nothing clips or squashes them."""
    model = latent(settings, family).eval()
    with torch.no_grad():
        for p in model.generator.parameters():
            p.add_(0.3 * torch.randn_like(p))
    assert model.generator.sample(64).abs().max() > 1.2


def test_the_wrapper_is_its_generator_on_latents(settings) -> None:
    model = latent(settings)
    x = torch.rand(5, 1, 8, 8) * 2 - 1
    torch.manual_seed(1)
    ours = model.loss(x)["loss"]
    torch.manual_seed(1)
    assert torch.equal(ours, model.generator.loss(model.latents(x))["loss"])


@pytest.mark.parametrize("condition", ["superres", "inpaint", "edges"])
def test_maps_are_made_of_the_image_and_not_of_its_latents(condition: str, settings, tmp_path: Path) -> None:
    """In training, in validation and for what is remembered; no image is encoded before it is seen."""
    maps = [f"condition={condition}", "condition.image_shape=[1,8,8]", "model.dropout=0"]
    model, heard = latent(settings, "ddpm", *maps), []
    inner = model.generator.net.forward
    model.generator.net.forward = lambda x, t, y: heard.append((x.shape[1:], y)) or inner(x, t, y)
    _, data = fitted(model, settings, tmp_path)
    assert {x for x, _ in heard} == {(1, 4, 4)} and not model.encoded
    x, asked = levels(data, "train", "val"), torch.cat([y for _, y in heard])  # (N, 1, 8, 8), (n, 2, H, W)
    if condition == "inpaint":  # at random: known pixels are an image's
        unlike = ((x - asked[:, None, 0:1]).abs() * asked[:, None, 1:]).flatten(2).amax(2)
    else:
        unlike = torch.cdist(asked.flatten(1), model.condition.of(x, None).flatten(1))  # (n, N)
    assert unlike.amin(1).max() < 0.02
    model.after_fit([(levels(data, "train"), None)])
    assert model.generator.asks.shape == (1000, *asked.shape[1:]) and model.generator.asks.any()
    assert model.sample(3).shape == (3, 1, 8, 8)


@pytest.mark.parametrize(("family", "sigma_data"), [("edm", 0.5), ("consistency", 0.5), ("ddpm", 1.0)])
def test_latents_vary_as_the_noise_levels_of_the_generator_ask(family: str, sigma_data: float, settings) -> None:
    model = latent(settings, family)
    x = torch.rand(200, 1, 8, 8) * 2 - 1
    model.scale([(x[:90], None), (x[90:], None)])
    assert model.latents(x).std().item() == pytest.approx(sigma_data, rel=1e-3)
    assert model.latents(x).mean().item() == pytest.approx(0, abs=1e-5)


def test_all_processes_scale_by_the_images_of_all(settings, monkeypatch) -> None:
    x = torch.rand(200, 1, 8, 8) * 2 - 1
    whole, model, sums = latent(settings), latent(settings), []
    whole.scale([(torch.cat([x[:60] * 0.1, x[60:]]), None)])
    monkeypatch.setattr("genzoo.models.latent.together", lambda: True)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda own: sums.append(own.clone()))
    model.scale([(x[:60] * 0.1, None)])  # the other process
    monkeypatch.setattr("torch.distributed.all_reduce", lambda own: own.add_(sums[0]))
    model.scale([(x[60:], None)])
    torch.testing.assert_close(model.mean, whole.mean)
    torch.testing.assert_close(model.std, whole.std)


def test_the_generator_knows_how_far_the_training_is_in_validation_too(settings) -> None:
    model, x = latent(settings, "consistency"), torch.rand(4, 1, 8, 8) * 2 - 1
    model.images_seen, model.spent = 64, 0.2
    model.training_step((x, None), 0)
    assert (model.generator.images_seen, model.generator.spent) == (64, 0.2)
    model.images_seen, model.spent = 128, 0.4
    model.loss(x)
    assert (model.generator.images_seen, model.generator.spent) == (128, 0.4)


def test_another_sampler_reaches_the_generator(settings) -> None:
    model = latent(settings).eval()
    model.steps = 7
    assert model.generator.steps == 7
    model.sample(2)
    assert model.nfe == 7


def test_a_guide_shares_the_latents(settings, tmp_path: Path) -> None:
    def shared(name: str, *overrides: str) -> str:
        config = settings("width=8", "steps=3", *overrides)
        export.write(tmp_path / name, runs.build(config), config, {"provenance": {"family": "", "overrides": []}})
        return str(tmp_path / name)

    for name in ("a", "b"):
        shared(name, "model=autoencoder_kl")
    stage, other = (f"first_stage='{tmp_path / name}'" for name in ("a", "b"))
    model = runs.build(settings("model=latent", stage, "width=8", "steps=3"))
    weaker = guide(shared("weaker", "model=latent", "blocks=1", stage), model, [])
    model.guides, model.guidance = [weaker], partial(model.guidance, scale=2.0)
    assert model.generator.guides == [weaker] and weaker.image_shape == model.generator.image_shape
    assert model.eval().sample(2).shape == (2, 1, 8, 8) and model.nfe == 6  # the model's calls and the guide's
    for overrides, words in (
        (["model=latent", other], "take a run of model=latent with the same first_stage"),
        (["model=ddpm"], "take a run of model=latent with the same first_stage"),
        (["model=latent", stage, "model@model.generator=mean_flow"], "take a run of a diffusion model"),
    ):
        with pytest.raises(ValueError, match=words):
            guide(shared("refused", *overrides), model, [])
    with pytest.raises(ValueError, match="take a run of a diffusion model of 1x8x8 images"):
        guide(shared("flow", "model=mean_flow"), runs.build(settings("width=8")), [])


def test_by_the_command_with_a_trained_stage(settings, tmp_path: Path) -> None:
    """Both stages as a user trains them, and the second loaded again with the folder alone."""
    stage, folder = tmp_path / "stage", tmp_path / "latent"
    chosen = settings(f"folder='{stage}'", "model=autoencoder_kl", *FEW, "budget.images=640")
    finish(chosen, stage, ["model=autoencoder_kl"])
    names = ["model=latent", f"first_stage='{stage}'", "model@model.generator=flow_matching", "condition=classes"]
    chosen = settings(f"folder='{folder}'", *names, *FEW, "budget.images=640")
    assert chosen["model"]["generator"]["image_shape"] == [3, 4, 4]
    found = finish(chosen, folder, names)
    assert found["provenance"]["family"].startswith("latent ")
    model = genzoo.load(folder)
    assert model.classes == 10 and model.sample(2, torch.tensor([3, 4])).shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"generator\.image_shape"):
        Latent((1, 8, 8), genzoo.load(stage), runs.build(settings("model=vae", "width=8")))
    with pytest.raises(ValueError, match="no maps of latents"):
        Latent((1, 8, 8), runs.build(settings("model=vae", "width=8")), model.generator)
