"""Between diffusers and us: nets equal to 1e-5 and pipelines to 1e-4 in both directions, and what is refused."""

import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genzoo import export, interop, runs
from genzoo.diffusion import grids, samplers, schedules, targets
from genzoo.diffusion.dpm_solver_pp import dpmpp_2m
from genzoo.diffusion.guidance import classifier_free, dynamic_threshold
from genzoo.generator import Generator
from genzoo.models.autoencoder import Autoencoder
from genzoo.models.diffusion import Diffusion
from genzoo.models.latent import Latent
from genzoo.models.learned_variance import LearnedVariance
from genzoo.nets import autoencoder as nets
from genzoo.nets.conditions import Classes, Layout
from genzoo.nets.conv import conv3x3
from genzoo.nets.dit import DiT
from genzoo.nets.foreign import DiffusersAutoencoder, DiffusersUNet, sigmas
from genzoo.nets.quantise import VectorQuantiser
from genzoo.nets.translate_autoencoder import autoencoder
from genzoo.nets.translate_unet import unet2d
from genzoo.nets.unet import UNet

diffusers = pytest.importorskip("diffusers")
SHAPE = (3, 8, 8)
PLAIN = {"clip_sample": False, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
RECORD = {"protocol_id": "", "scores": {}, "provenance": {"family": "f", "sampling": "", "overrides": []}}


def stirred(net: nn.Module, groups: int = 0) -> nn.Module:
    """The net with nothing left at 0 or 1, and this number of groups in every normalisation."""
    for module in net.modules():
        if isinstance(module, nn.GroupNorm) and groups:
            module.num_groups = groups
    for parameter in net.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return net.eval()


def unet(shape: tuple[int, ...] = SHAPE, **options: object) -> UNet:
    return stirred(UNet(shape, **({"width": 16, "blocks": 1, "attention": (4,)} | options)), groups=4)


def diffusion(net: nn.Module | None = None, shape: tuple[int, ...] = SHAPE, **options: object) -> Diffusion:
    usual = {"sigmas": schedules.linear(), "sampler": samplers.ddim, "grid": grids.trailing, "steps": 10}
    return Diffusion(shape, None, unet(shape) if net is None else net, **(usual | options)).eval()


def stage(bottleneck: nn.Module, factor: int = 2, shape: tuple[int, ...] = (3, 16, 16)) -> Autoencoder:
    nets_of = {"image_shape": shape, "factor": factor, "width": 8}
    made = Autoencoder(shape, None, partial(nets.Encoder, **nets_of), partial(nets.Decoder, **nets_of), bottleneck)
    return stirred(made)


def gaussian() -> nets.Gaussian:
    return nets.Gaussian(3, 1e-4)


def latent(bottleneck: nn.Module, std: list[float], **options: object) -> Latent:
    first = stage(bottleneck)
    model = Latent((3, 16, 16), first, diffusion(**({"target": targets.v} | options)))
    model.mean.copy_(torch.tensor([0.3, -0.2, 0.1])[:, None, None])
    model.std.copy_(torch.tensor(std)[:, None, None])
    return model.eval()


@torch.no_grad()
def ours(model: Generator, y: Tensor | None = None, n: int = 3) -> Tensor:
    """What model.sample draws when it starts, as diffusers does, from x_T = noise and not from the noise in x_T, which
    is 2e-5 less; in sigma they are one."""
    inner = model.generator if isinstance(model, Latent) else model
    sigma = inner.sigma_grid
    torch.manual_seed(1)
    start = sigma[0] if inner.sampler in (samplers.heun, samplers.euler) else torch.sqrt(1 + sigma[0] ** 2)
    x = inner.sampler(inner.denoiser(y), inner.noise(n) * start, sigma)
    x = model.images(x) if isinstance(model, Latent) else x
    return x.clamp(-1, 1) / 2 + 0.5


def theirs(pipeline: Callable[..., object], **options: object) -> Tensor:
    pipeline.set_progress_bar_config(disable=True)
    torch.manual_seed(1)
    return torch.from_numpy(pipeline(batch_size=3, output_type="np", **options).images).permute(0, 3, 1, 2)


def reloaded(model: Generator, folder: Path, y: int | None = None) -> object:
    """The pipeline that diffusers makes of what is written."""
    interop.write(folder, model, y)
    return diffusers.DiffusionPipeline.from_pretrained(folder)


def check_pipeline(pipeline: Callable[..., object], model: Generator, y: int | None = None) -> None:
    found = theirs(pipeline, **interop.call(model))
    expected = ours(model, None if y is None else torch.full((3,), y))
    assert expected.std() > 0.05
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


# --- Ours as theirs.


@torch.no_grad()
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1, 16, 16), {"blocks": 2}),
        ((3, 8, 16), {"multipliers": (1,), "attention": (8, 4)}),
        ((2, 16, 16), {"multipliers": (1, 2, 3), "attention": (), "dropout": 0.1}),
        ((3, 8, 8), {"outputs": 2}),  # its first
    ],
)
def test_a_unet_is_a_unet2dmodel(shape: tuple[int, ...], options: dict[str, object]) -> None:
    net = unet(shape, **options)
    x, t = torch.randn(3, *shape), torch.tensor([0.0, 37.5, 999.0])
    expected = net(x, t)[:, : shape[0]]
    torch.testing.assert_close(unet2d(net, shape)(x, t).sample, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_unet_of_128_channels_is_one_as_it_is() -> None:
    net = stirred(UNet((1, 4, 4), width=128, blocks=1, attention=(4,)))
    x, t = torch.randn(2, 1, 4, 4), torch.tensor([3.0, 500.0])
    torch.testing.assert_close(unet2d(net, (1, 4, 4))(x, t).sample, net(x, t), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_classes_become_labels_or_part_of_the_net() -> None:
    net = unet(condition=Classes(4, 5))
    x, t = torch.randn(3, *SHAPE), torch.tensor([0.0, 37.5, 999.0])
    labels = torch.tensor([0, 3, 4])  # 4 is the null
    all_of_them = unet2d(net, SHAPE)
    torch.testing.assert_close(all_of_them(x, t, labels).sample, net(x, t, labels), atol=1e-5, rtol=0)
    for y in (2, 4):
        expected = net(x, t, None if y == 4 else torch.full((3,), y))
        torch.testing.assert_close(unet2d(net, SHAPE, y)(x, t).sample, expected, atol=1e-5, rtol=0)


class Halve(nn.Conv2d):
    """Every second pixel, seen to the right and down: what diffusers' encoders halve by."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


def halved_by(encoder: nn.Sequential, conv: Callable[[int, int, int], nn.Module]) -> None:
    for i, layer in enumerate(encoder):
        if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
            encoder[i] = conv(layer.in_channels, layer.out_channels, 2)


@torch.no_grad()
@pytest.mark.parametrize("factor", [1, 2, 4, 8])
@pytest.mark.parametrize("width", [8, 12])
def test_an_autoencoder_is_an_autoencoderkl(factor: int, width: int) -> None:
    shape, bottleneck = (1, 16, 24), nets.Gaussian(2, 1e-4)
    encoder, decoder = nets.Encoder(shape, 4, factor, width, 2), nets.Decoder(shape, 2, factor, width, 2)
    halved_by(encoder, lambda c_in, c_out, stride: Halve(c_in, c_out, 3, stride))
    stirred(encoder), stirred(decoder)
    mean, std = torch.tensor([0.4, -1.0]), torch.tensor([0.5, 3.0])
    made = autoencoder(encoder, decoder, bottleneck, shape, mean, std)
    x, z = torch.randn(2, *shape), torch.randn(2, 2, 16 // factor, 24 // factor)
    scale, shift = std[:, None, None], mean[:, None, None]
    torch.testing.assert_close(made.decode(z).sample, decoder(z * scale + shift), atol=1e-5, rtol=1e-5)
    mu, log_var = bottleneck.posterior(encoder(x))
    found = made.encode(x).latent_dist
    torch.testing.assert_close(found.mean, (mu - shift) / scale, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.std, (log_var / 2).exp() / scale, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_an_encoder_that_looks_to_all_sides_gives_nan_and_not_another_latent() -> None:
    model = stage(gaussian())
    halved_by(model.encoder, conv3x3)
    made = interop.first_stage(model)
    assert made.encode(torch.randn(1, 3, 16, 16)).latent_dist.mean.isnan().all()
    z = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(made.decode(z).sample.clamp(-1, 1), model.decode(z), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"limit": None, "target": targets.v},
        {"grid": grids.leading, "steps": 7},
        {"target": targets.v, "sigmas": schedules.cosine()},
        {"target": targets.x0, "limit": None, "sigmas": schedules.cosine(100)},
        {"sampler": partial(samplers.ddim, eta=0.5)},
        {"sampler": samplers.ddpm},
        {"sampler": partial(samplers.ddpm, large=True), "grid": grids.leading},
        {"sampler": dpmpp_2m, "steps": 7},
        {"sampler": dpmpp_2m, "limit": None, "steps": 20, "target": targets.v},
        {"target": partial(targets.edm, sigma_data=1.0), "sigmas": schedules.log_linear(), "limit": None},
        {"target": partial(targets.edm, sigma_data=1.0), "sigmas": schedules.log_linear(), "sampler": dpmpp_2m},
    ],
    ids=lambda options: " ".join(options),
)
def test_a_pipeline_of_pixels_draws_our_samples(options: dict[str, object]) -> None:
    model = diffusion(**options)
    check_pipeline(interop.pipeline(model), model)


def test_a_pipeline_of_another_shape_draws_our_samples(tmp_path: Path) -> None:
    model = diffusion(unet((1, 8, 16)), (1, 8, 16))
    check_pipeline(reloaded(model, tmp_path), model)


def test_a_pipeline_of_one_class_draws_our_samples_of_it(tmp_path: Path) -> None:
    model = diffusion(unet(condition=Classes(4, 5)))
    check_pipeline(reloaded(model, tmp_path, 2), model, 2)


def test_all_classes_are_kept_where_none_is_chosen(tmp_path: Path) -> None:
    net, labels = unet(condition=Classes(4, 5)), torch.tensor([0, 3, 4])
    pipeline = reloaded(diffusion(net), tmp_path)
    x, t = torch.randn(3, *SHAPE), torch.tensor(7.0)
    with torch.no_grad():
        found = pipeline.unet(x, t, class_labels=labels).sample
        torch.testing.assert_close(found, net(x, t.expand(3), labels), atol=1e-5, rtol=0)
    assert "export with y=CLASS" in (tmp_path / "README.md").read_text()


def test_a_learned_variance_is_left_out() -> None:
    net, sigma = unet(outputs=2), schedules.linear()
    model = LearnedVariance(SHAPE, None, net, sigma, samplers.ddim, grids.trailing, 10).eval()
    check_pipeline(interop.pipeline(model), model)


@pytest.mark.parametrize(
    ("bottleneck", "std"),
    [(nets.Gaussian(3, 1e-4), [0.5, 2.0, 1.3]), (VectorQuantiser(3, 16), [0.7, 0.7, 0.7])],
    ids=["KL", "VQ"],
)
@pytest.mark.parametrize("sampler", [samplers.ddim, dpmpp_2m])
def test_a_pipeline_of_latents_draws_our_samples(bottleneck, std, sampler, tmp_path: Path) -> None:
    model = latent(bottleneck, std)
    model.sampler = sampler
    check_pipeline(reloaded(model, tmp_path), model)


EDM = {"sampler": samplers.heun, "grid": grids.karras, "sigmas": schedules.log_linear(), "target": targets.edm}


@pytest.mark.parametrize(
    "options",
    [
        EDM,
        EDM | {"sampler": samplers.euler, "steps": 18, "target": partial(targets.edm, sigma_data=1.3)},
        EDM | {"grid": grids.log_snr, "sigmas": schedules.log_linear(sigma_max=10.0)},
        EDM | {"grid": grids.trailing, "target": targets.noise, "sigmas": schedules.linear()},
        EDM | {"grid": partial(grids.karras, sigma_min=0.03), "target": targets.x0, "sigmas": schedules.linear()},
        EDM | {"sampler": samplers.ddim, "grid": grids.trailing},
        EDM | {"sampler": samplers.euler, "target": targets.v, "grid": grids.trailing, "steps": 7},
    ],
    ids=range(7),
)
def test_a_pipeline_of_latents_walks_edm_in_sigma(options: dict[str, object], tmp_path: Path) -> None:
    model = latent(gaussian(), [0.5, 2.0, 1.3], **options)
    check_pipeline(reloaded(model, tmp_path), model)


def test_latent_edm_is_exported_as_it_is_configured(settings, tmp_path: Path) -> None:
    small = ["width=128", "blocks=1", "data.image_shape=[1,8,8]", "steps=4"]
    model = runs.build(settings("model=latent", "model@model.generator=edm", *small)).eval()
    for parameter in model.parameters():  # a little: the 32-bit times of diffusers are felt by what is steep in t
        parameter.data += 0.01 * torch.randn_like(parameter)
    check_pipeline(reloaded(model, tmp_path), model)


# --- Theirs as ours.


def saved(net: object, folder: Path) -> str:
    net.save_pretrained(folder, safe_serialization=True)
    return str(folder)


def foreign_unet(**options: object) -> nn.Module:
    usual = {
        "sample_size": 8, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }  # fmt: skip
    return stirred(diffusers.UNet2DModel(**(usual | options)))


def foreign_stage(name: str) -> nn.Module:
    usual = {
        "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 16), "norm_num_groups": 4, "sample_size": 16, "latent_channels": 3,
        "scaling_factor": 0.4,
    }  # fmt: skip
    return stirred(getattr(diffusers, name)(**usual))


@pytest.mark.parametrize(
    "schedule",
    [
        {},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2"},
    ],
    ids=lambda options: " ".join(map(str, options.values())),
)
def test_our_sampler_runs_a_pipeline_of_theirs(schedule: dict[str, object], tmp_path: Path) -> None:
    pipeline = diffusers.DDIMPipeline(foreign_unet(), diffusers.DDIMScheduler(**schedule, **PLAIN))
    folder = saved(pipeline, tmp_path)
    model = diffusion(
        DiffusersUNet(f"{folder}/unet"), sigmas=sigmas(f"{folder}/scheduler"), limit=None, target=targets.v
    )
    torch.testing.assert_close(ours(model), theirs(pipeline, num_inference_steps=10), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["AutoencoderKL", "VQModel"])
def test_our_latent_model_runs_a_latent_pipeline_of_theirs(name: str, tmp_path: Path) -> None:
    scheduler = diffusers.DDIMScheduler(**PLAIN)
    pipeline = diffusers.LDMPipeline(foreign_stage(name), foreign_unet(), scheduler)
    folder = saved(pipeline, tmp_path)
    denoiser = diffusion(DiffusersUNet(f"{folder}/unet"), sigmas=sigmas(f"{folder}/scheduler"), target=targets.v)
    model = Latent((3, 16, 16), DiffusersAutoencoder(f"{folder}/vqvae"), denoiser).eval()
    assert model.sampling.endswith(f"in latents of 3x8x8 ({name})")
    torch.testing.assert_close(ours(model), theirs(pipeline, num_inference_steps=10), atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["AutoencoderKL", "VQModel"])
def test_a_foreign_first_stage_encodes_and_decodes_scaled(name: str, tmp_path: Path) -> None:
    net = foreign_stage(name)
    if name == "AutoencoderKL":
        net.register_to_config(shift_factor=0.3)
    loaded, x = DiffusersAutoencoder(saved(net, tmp_path), image_shape=(3, 16, 8)), torch.randn(2, 3, 16, 8)
    assert (loaded.image_shape, loaded.latent_shape) == ((3, 16, 8), (3, 8, 4))
    z = loaded.encode(x)
    encoded = net.encode(x)
    if name == "AutoencoderKL":
        torch.testing.assert_close(z, (encoded.latent_dist.mean - 0.3) * 0.4)
        decoded = net.decode(encoded.latent_dist.mean).sample
    else:
        torch.testing.assert_close(z, net.quantize(encoded.latents)[0] * 0.4)
        decoded = net.decode(encoded.latents).sample
    torch.testing.assert_close(loaded.decode(z), decoded.clamp(-1, 1), atol=1e-5, rtol=0)


@torch.no_grad()
def test_foreign_nets_hear_tokens_and_labels(tmp_path: Path) -> None:
    x, t = torch.randn(2, *SHAPE), torch.tensor([5.0, 700.0])
    options = {
        "sample_size": 8, "in_channels": 3, "out_channels": 3, "block_out_channels": (16, 32), "layers_per_block": 1,
        "norm_num_groups": 4, "cross_attention_dim": 12, "attention_head_dim": 8,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }  # fmt: skip
    told = stirred(diffusers.UNet2DConditionModel(**options))
    boxes = Layout(3, 2, 12)
    y = torch.tensor([[[1, 0, 0, 0.5, 0.5], [-1, 0, 0, 0, 0]], [[2, 0.5, 0, 1, 1], [0, 0, 0, 1, 1]]])
    loaded = DiffusersUNet(saved(told, tmp_path / "told"), boxes).eval()
    torch.testing.assert_close(loaded(x, t, y), told(x, t, boxes(y).tokens).sample)
    assert not torch.allclose(loaded(x, t, y), loaded(x, t))
    labelled, labels = foreign_unet(num_class_embeds=5), torch.tensor([0, 3])
    loaded = DiffusersUNet(saved(labelled, tmp_path / "labelled"), Classes(4, 1)).eval()
    torch.testing.assert_close(loaded(x, t, labels), labelled(x, t, labels).sample)
    torch.testing.assert_close(loaded(x, t), labelled(x, t, torch.tensor([4, 4])).sample)


def test_there_and_back(tmp_path: Path) -> None:
    model = diffusion()
    reloaded(model, tmp_path / "there")
    back = diffusion(
        DiffusersUNet(str(tmp_path / "there" / "unet")), sigmas=sigmas(str(tmp_path / "there" / "scheduler"))
    )
    torch.testing.assert_close(ours(back), ours(model), atol=1e-4, rtol=0)
    torch.testing.assert_close(back.sigmas, model.sigmas, atol=0, rtol=2e-3)  # diffusers' alpha_bar is in 32 bits
    check_pipeline(reloaded(back, tmp_path / "again"), back)


# --- Refused.


def uneven(net: UNet) -> UNet:
    net.out[0].num_groups = 2
    return net


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: diffusion(uneven(unet())), "number of groups"),
        (lambda: diffusion(unet((1, 28, 28)), (1, 28, 28)), "odd sizes"),
        (lambda: diffusion(DiT(SHAPE, width=16, blocks=1)), "DiT has no equal"),
        (lambda: diffusion(unet(condition=Layout(3, 2, 12))), "cannot be told Layout"),
        (lambda: diffusion(unet((3, 16, 16), attention=(16, 4)), (3, 16, 16)), "attention head"),
        (lambda: diffusion(sampler=samplers.heun), "sampler=heun: in pixels"),
        (lambda: diffusion(sampler=partial(samplers.ddpm, large=True)), "ends in noise"),
        (lambda: diffusion(grid=grids.karras), "spacing=karras"),
        (lambda: diffusion(target=targets.edm), r"sigma_data=0\.5"),
        (lambda: diffusion(target=targets.velocity, sigmas=schedules.flow()), "target=velocity"),
        (lambda: latent(gaussian(), [1.0], **EDM | {"grid": grids.leading}), "spacing=leading"),
        (lambda: latent(gaussian(), [1.0], **EDM | {"grid": partial(grids.karras, rho=5.0)}), "spacing=karras"),
        (lambda: latent(gaussian(), [1.0], **EDM | {"grid": partial(grids.karras, sigma_max=9.0)}), "spacing=karras"),
        (lambda: diffusion(limit=dynamic_threshold), "limit=dynamic_threshold"),
        (lambda: diffusion(steps=30), "steps=30"),
        (lambda: diffusion(sampler=dpmpp_2m, grid=grids.leading), "spacing=leading"),
        (lambda: diffusion(sigmas=schedules.karras(sigma_max=10.0)), "pure noise"),
        (lambda: latent(VectorQuantiser(3, 16), [0.5, 0.7, 0.7]), "one number"),
        (lambda: Latent((3, 16, 16), stage(gaussian()), stage(gaussian(), 2, SHAPE)), "no diffusion"),
    ],
)
def test_what_has_no_equal_is_refused(model: Callable[[], Generator], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        interop.write(tmp_path, model())


def test_classes_are_refused_where_they_cannot_be_asked() -> None:
    with pytest.raises(ValueError, match="y=9: this model knows the classes 0 to 3"):
        interop.pipeline(diffusion(unet(condition=Classes(4, 5))), y=9)
    with pytest.raises(ValueError, match="without classes"):
        interop.pipeline(diffusion(), y=1)
    with pytest.raises(ValueError, match=r"guidance.scale=2.*do not guide"):
        guided = diffusion(unet(condition=Classes(4, 5)), guidance=partial(classifier_free, scale=2.0))
        interop.pipeline(guided, y=1)


def test_foreign_folders_are_refused_in_a_sentence(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        DiffusersUNet(str(tmp_path / "none"))
    kept = saved(foreign_unet(), tmp_path / "unet")
    with pytest.raises(ValueError, match="holds a UNet2DModel"):
        DiffusersAutoencoder(kept)
    with pytest.raises(ValueError, match="0 class labels, the condition gives 5"):
        DiffusersUNet(kept, Classes(4, 1))
    with pytest.raises(ValueError, match="attends to tokens of no numbers"):
        DiffusersUNet(kept, Layout(3, 2, 12))
    pickled = tmp_path / "pickled"
    foreign_unet().save_pretrained(pickled, safe_serialization=False)
    with pytest.raises(FileNotFoundError, match=r"diffusion_pytorch_model\.safetensors"):
        DiffusersUNet(str(pickled))
    with pytest.raises(ValueError, match="3 channels and sides that are multiples of 2"):
        DiffusersAutoencoder(saved(foreign_stage("VQModel"), tmp_path / "vq"), image_shape=(1, 7, 8))
    ends = saved(diffusers.DDIMScheduler(rescale_betas_zero_snr=True), tmp_path / "scheduler")
    with pytest.raises(ValueError, match="noise alone"):
        sigmas(ends)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match="needs diffusers"):
        DiffusersUNet(kept)


# --- The command.


def test_the_command(settings, tmp_path: Path, monkeypatch, capsys) -> None:
    config = settings("model=ddpm", "width=128", "blocks=1", "data.image_shape=[1,4,4]", "steps=5")
    model = stirred(runs.build(config))
    export.write(tmp_path / "run", model, config, RECORD)
    arguments = [f"run={tmp_path / 'run'}", f"out={tmp_path / 'out'}", "sampler=dpmpp_2m", "steps=6"]
    monkeypatch.setattr(sys, "argv", ["genzoo.interop", *arguments])
    monkeypatch.chdir(tmp_path)
    import_module("genzoo.interop").main()
    printed = capsys.readouterr().out
    assert "loaded(batch_size=16, num_inference_steps=6)" in printed and printed.strip() in (
        (tmp_path / "out" / "README.md").read_text()
    )
    model.sampler, model.steps = dpmpp_2m, 6
    found = theirs(diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out"), num_inference_steps=6)
    torch.testing.assert_close(found, ours(model), atol=1e-4, rtol=0)
