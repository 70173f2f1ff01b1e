"""What a CUDA device gives unasked: bf16 where a family bears it, channels last, compiled networks, CUDA graphs."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn

from genzoo.generator import Generator
from genzoo.metrics.draw import set_aside
from genzoo.metrics.memory import is_out_of_memory

log = logging.getLogger("genzoo")
Forward = Callable[..., Tensor]


def precision(asked: str, accelerator: str, model: Generator) -> str:
    """`asked` unless it is "auto": then bf16-mixed on a GPU that has bf16, for families that bear it, else 32-true."""
    if asked != "auto":
        return asked
    has_bf16 = accelerator != "cpu" and torch.cuda.is_available() and torch.cuda.is_bf16_supported(False)
    return "bf16-mixed" if has_bf16 and not model.full_precision else "32-true"


class Tuned(Callback):
    """On a GPU, compiles the networks that a family names in `compiled`, and lays them out as its convolutions want."""

    def on_fit_start(self, trainer: Trainer, model: Generator) -> None:
        if model.device.type == "cuda":  # compiling gains a CPU nothing
            tune(model)


def tune(model: Generator) -> None:
    """Replace the forward of each network in `model.compiled`; parameters and their names stay as they are."""
    for name in model.compiled:
        net = getattr(model, name)
        net.to(memory_format=torch.channels_last)
        if "forward" not in vars(net):
            net.forward = compiled(net)


def compiled(net: nn.Module, compiler: Callable[..., Forward] = torch.compile) -> Forward:
    """net.forward, compiled; where gradients are off as CUDA graphs, which replay a network's kernels in one call.

    If compiling fails, now or for a later shape, it says so once and goes on uncompiled.
    """
    plain = net.forward
    learning, sampling = compiler(plain), compiler(plain, mode="reduce-overhead")
    failed: list[str] = []

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        if failed:
            return plain(*args, **kwargs)
        try:
            with set_aside():
                if torch.is_grad_enabled():
                    return learning(*args, **kwargs)
                return sampling(*args, **kwargs).clone()  # a graph's next replay writes over its output
        except Exception as error:
            if is_out_of_memory(error):
                raise
            failed.append(str(error))
            log.warning("%s runs uncompiled: %s", type(net).__name__, str(error).strip().partition("\n")[0])
            return plain(*args, **kwargs)

    return forward
