"""What a GPU gives unasked, as far as a CPU can tell: nothing waits for the device, and compiling changes no number."""

import logging
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from genzoo import gpu, runs
from genzoo.gpu import compiled, precision
from genzoo.metrics.cost import multiply_adds
from genzoo.metrics.draw import draw

CONF = Path(__file__).parents[1] / "conf"
FAMILIES = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
SAMPLERS = sorted(path.stem for path in (CONF / "sampler").glob("*.yaml"))
OTHERWISE = {"flow"}  # ActNorm looks whether it has started
WAITING = {"adaptive"}  # whose next step depends on the error of the last


def graph(forward, **options):
    """torch.compile without its code generator, which refuses what would break the graph."""
    return torch.compile(forward, backend="eager", fullgraph=True)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in OTHERWISE])
def test_a_training_step_never_asks_the_device_for_a_number(family: str, settings, monkeypatch) -> None:
    """On torch's meta device a tensor has no value: what would synchronise a GPU raises."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which that device does not know
    model = runs.build(settings(f"model={family}", "width=8")).to("meta")
    if not model.automatic_optimization:
        pytest.skip("its step is two optimisers' business")
    model.loss(torch.empty(4, 1, 8, 8, device="meta"), None)["loss"].backward()


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in WAITING])
def test_a_sampler_never_asks_the_device_for_a_number(name: str, settings) -> None:
    sampler = instantiate(settings(f"sampler={name}")["sampler"])

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return x / (1 + sigma**2)

    denoise.moments = lambda x, sigma, sigma_next: (denoise(x, sigma), sigma_next**2)
    x = torch.empty(2, 1, 4, 4, device="meta")
    assert sampler(denoise, x, torch.tensor([10.0, 5.0, 2.0, 1.0, 0.5, 0.0])).shape == x.shape


@pytest.mark.parametrize("family", ["ddpm", "vae", "gan"])
def test_its_compiled_networks_are_one_graph_with_the_same_numbers(family: str, settings, monkeypatch) -> None:
    model = runs.build(settings(f"model={family}", "width=8", "steps=3")).eval()
    before, cost = draw(model.sample, 5, batch_size=3), multiply_adds(lambda: model.sample(2))
    keys = model.state_dict().keys()
    calls = []
    monkeypatch.setattr(gpu.torch, "compile", lambda f, **_: lambda *a: (calls.append(1), graph(f)(*a))[1])
    for name in model.compiled:
        net = getattr(model, name)
        net.forward = compiled(net, gpu.torch.compile, after=0)
    assert torch.equal(draw(model.sample, 5, batch_size=3), before) and calls
    assert multiply_adds(lambda: model.sample(2)) == cost
    assert model.state_dict().keys() == keys


def test_draws_under_per_image_run_compiled() -> None:
    """A dispatch mode would make torch fall back to the uncompiled network without a word."""
    ran = []

    def backend(module, example):
        return lambda *inputs: (ran.append(1), module(*inputs))[1]

    net = nn.Linear(2, 2)
    net.forward = compiled(net, lambda forward, **_: torch.compile(forward, backend=backend), after=0)
    draw(lambda n: net(torch.randn(n, 2)).view(n, 1, 1, 2), 4, batch_size=2)
    assert len(ran) == 2


def test_a_network_that_cannot_be_compiled_runs_as_it_is_and_says_so_once(caplog) -> None:
    def broken(*_, **__):
        raise RuntimeError("no compiler here\nat length")

    net, x = nn.Linear(2, 2), torch.randn(3, 2)
    before = net(x)
    net.forward = compiled(net, lambda forward, **_: broken, after=0)
    with caplog.at_level(logging.WARNING, "genzoo"):
        assert torch.equal(net(x), before) and torch.equal(net(x), before)
    assert [record.message for record in caplog.records] == ["Linear runs uncompiled: no compiler here"]


def test_a_shape_is_compiled_for_once_it_has_come_often() -> None:
    net, ran = nn.Linear(2, 2), []
    net.forward = compiled(net, lambda forward, **_: lambda x: (ran.append(len(x)), forward(x))[1], after=2)
    for n in (3, 4, 3, 3, 4, 4, 5):
        assert net(torch.randn(n, 2)).shape == (n, 2)
    with torch.no_grad():
        net(torch.randn(3, 2))  # other kernels than those that learn
    assert ran == [3, 4]


def test_no_memory_is_not_taken_for_a_failed_compilation() -> None:
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    net = nn.Linear(2, 2)
    net.forward = compiled(net, lambda forward, **_: full, after=0)
    with pytest.raises(torch.OutOfMemoryError):
        net(torch.randn(3, 2))


@pytest.mark.parametrize(
    ("asked", "accelerator", "family", "found"),
    [("auto", "auto", "vae", "bf16-mixed"), ("auto", "cpu", "vae", "32-true"), ("auto", "auto", "flow", "32-true"),
     ("64-true", "auto", "vae", "64-true")],
)  # fmt: skip
def test_precision_follows_the_device_and_the_family(
    asked: str, accelerator: str, family: str, found: str, settings, monkeypatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda emulated: not emulated)
    assert precision(asked, accelerator, runs.build(settings(f"model={family}", "width=8"))) == found
