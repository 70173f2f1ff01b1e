"""On a CUDA device, where there is one: no step waits for it, and its defaults change numbers by rounding alone."""

import warnings

import pytest
import torch

from genzoo import gpu, runs
from genzoo.metrics.draw import draw
from tests.test_gpu import FAMILIES, SAMPLERS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

ASKING = {"flow", "autoencoder_vq", "code_prior"}  # ActNorm looks whether it has started; codes are looked for
WAITING = {"adaptive"}


@pytest.fixture
def strict():
    """torch raises where the host would wait for the device."""
    torch.cuda.synchronize()
    yield lambda: torch.cuda.set_sync_debug_mode("error")
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in ASKING])
def test_a_training_step_does_not_wait_for_the_device(family: str, settings, strict) -> None:
    model = runs.build(settings(f"model={family}", "width=8")).cuda()
    if not model.automatic_optimization:
        pytest.skip("its step is two optimisers' business")
    x = torch.rand(4, 1, 8, 8, device="cuda") * 2 - 1
    optimizer = model.configure_optimizers()
    for step in range(3):
        if step == 2:
            strict()  # the first steps set libraries up
        with torch.autocast("cuda", torch.bfloat16, enabled=not model.full_precision):
            loss = model.loss(x, None)["loss"]
        optimizer.zero_grad()
        loss.backward()
        model.clip_gradients_of(optimizer)
        optimizer.step()


@pytest.mark.parametrize("family", ["ddpm", "vae"])
def test_a_compiled_training_learns_what_a_plain_one_learns(family: str, settings) -> None:
    """In float32, with CUDA graphs: the losses of some steps and the weights after them."""

    def trained(graphs: bool) -> tuple[list[float], torch.Tensor]:
        torch.manual_seed(0)
        model = runs.build(settings(f"model={family}", "width=8", "+model.optimizer.eps=1e-3")).cuda()
        optimizer, x, losses = model.configure_optimizers(), torch.rand(8, 1, 8, 8, device="cuda") * 2 - 1, []
        if graphs:
            gpu.tune(model, after=0, graphs=True)
        torch.manual_seed(1)
        for _ in range(6):
            loss = model.loss(x, None)["loss"]
            optimizer.zero_grad()
            loss.backward()
            model.clip_gradients_of(optimizer)
            optimizer.step()
            losses.append(loss.item())
        return losses, torch.cat([p.detach().flatten() for p in model.parameters()])

    (plain, weights), (fast, others) = trained(False), trained(True)
    assert fast == pytest.approx(plain, rel=1e-2) and (weights - others).abs().max() < 1e-3
    assert plain[-1] != plain[0]


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in WAITING])
def test_a_sampler_does_not_wait_for_the_device(name: str, settings, strict, monkeypatch) -> None:
    family = "ddpm_learned_variance" if name == "ddpm_learned" else "ddpm"
    model = runs.build(settings(f"model={family}", f"sampler={name}", "width=8", "steps=3")).cuda().eval()
    model.sample(2)
    monkeypatch.setattr(type(model), "sigma_grid", model.sigma_grid)  # fetched to the host, once a call
    strict()
    model.sample(2)


@pytest.mark.parametrize("family", ["ddpm", "edm", "vae", "gan", "flow"])
def test_samples_of_the_device_are_those_of_the_processor(family: str, settings) -> None:
    """Image i follows from (seed, i) wherever it is drawn; but for rounding, compiled or not."""
    model = runs.build(settings(f"model={family}", "width=8", "steps=3")).eval()
    before = draw(model.sample, 5, batch_size=3).int()
    model.cuda()
    plain = draw(model.sample, 5, batch_size=3).int()
    gpu.tune(model, after=0, halve=not model.full_precision)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = draw(model.sample, 5, batch_size=3).int()
    assert (plain - before).abs().max() <= 2 and (compiled - plain).abs().max() <= 4
