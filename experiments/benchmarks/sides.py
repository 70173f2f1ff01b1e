"""What the races of models share: ours as a run trains it, a bare loop, and what both cost."""

import importlib
from collections.abc import Callable, Iterable

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from experiments.benchmarks.race import Absent, Cost, Race
from genzoo import runs
from genzoo.command import conf_folder, plain
from genzoo.generator import Generator
from genzoo.metrics.cost import multiply_adds

Work = Callable[[], float]


def model_of(*overrides: str) -> Generator:
    """The model that `python -m genzoo.run` would train with these overrides."""
    with initialize_config_dir(config_dir=conf_folder(), version_base="1.3"):
        return runs.build(plain(compose("config", overrides=["folder=unused", *overrides])))


def images(n: int, side: int) -> Tensor:
    """(n, 1, side, side) levels of 8-bit images in [-1, 1]."""
    levels = torch.randint(256, (n, 1, side, side), generator=torch.Generator().manual_seed(0))
    return levels / 127.5 - 1


def training(model: Generator, batches: Iterable[Tensor]) -> Work:
    """One step for each batch, as Lightning asks it of the model; the last loss."""
    model.train()
    if not model.automatic_optimization:
        optimizers = model.configure_optimizers()
        model.optimizers = lambda: optimizers
        model.manual_backward = Tensor.backward
        return lambda: [model.training_step((x, None), 0)["loss"] for x in batches][-1].item()
    optimizer = model.configure_optimizers()

    def step(x: Tensor) -> Tensor:
        loss = model.training_step((x, None), 0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        model.configure_gradient_clipping(optimizer)
        optimizer.step()
        return loss

    return lambda: [step(x).detach() for x in batches][-1].item()


def bare(net: nn.Module, loss_of: Callable[[Tensor], Tensor], ours: Generator, batches: Iterable[Tensor]) -> Work:
    """The loop that one writes by hand, with our optimiser and clipping; the last loss."""
    net.train()
    optimizer = ours.optimizer(net.parameters())

    def step(x: Tensor) -> Tensor:
        loss = loss_of(x)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), ours.clip)
        optimizer.step()
        return loss

    return lambda: [step(x).detach() for x in batches][-1].item()


def race(work: str, peer: str, ours: tuple[nn.Module, Work], theirs: tuple[nn.Module, Work], **options: bool) -> Race:
    """With the cost of both sides, the counting of which warms them up, too."""
    costs = [Cost(parameters(net), multiply_adds(side)) for net, side in (ours, theirs)]
    return Race(work, peer, ours[1], theirs[1], tuple(costs), **options)


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def absent(work: str, peer: str, module: str) -> Absent | None:
    """The row of a peer that cannot be imported; None of one that can."""
    try:
        importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # torchvision beside another build of torch raises the latter
        return Absent(work, peer, f"not raced: {str(error).splitlines()[0]}")
    return None
