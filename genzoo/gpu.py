"""What a CUDA device gives unasked: bf16 where a family bears it, channels last, compiled networks, CUDA graphs."""

import logging
from collections import Counter
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
# else a last convolution to few channels keeps torch from channels-last, and every gradient is copied on its way
LAYOUT = {"force_layout_optimization": True}
AFTER = 100  # calls with inputs of one shape before it is compiled for, which takes as long as many of them


def precision(asked: str, accelerator: str, model: Generator) -> str:
    """`asked` unless it is "auto": then bf16-mixed on a GPU that has bf16, for families that bear it, else 32-true."""
    if asked != "auto":
        return asked
    has_bf16 = accelerator != "cpu" and torch.cuda.is_available() and torch.cuda.is_bf16_supported(False)
    return "bf16-mixed" if has_bf16 and not model.full_precision else "32-true"


class Tuned(Callback):
    """`tune` before the first step."""

    def on_fit_start(self, trainer: Trainer, model: Generator) -> None:
        # the next replay writes over the last one's gradients, which others would still add to, send, or share
        alone = trainer.accumulate_grad_batches == trainer.world_size == 1 and model.automatic_optimization
        tune(model, graphs=alone, halve=trainer.precision.endswith("16-mixed"))


def tune(model: Generator, after: int = AFTER, graphs: bool = False, halve: bool = False) -> None:
    """On a GPU: compile the networks in `model.compiled` and lay them out as its convolutions want. Elsewhere nothing,
    since compiling gains a CPU nothing.

    graphs: steps of training are CUDA graphs, too. halve: samples are drawn with products in 16 bits. Only forward and
    `sample` are replaced; parameters and their names stay as they are.
    """
    if model.device.type != "cuda":
        return
    for name in model.compiled:
        net = model.get_submodule(name)
        net.to(memory_format=torch.channels_last)
        if "forward" not in vars(net):
            net.forward = compiled(net, after=after, graphs=graphs)
    if halve and "sample" not in vars(model):
        model.sample = halved(model.sample)


def halved(sample: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`sample` with products in float16, as Karras et al. 2022 draw theirs, and images in float32."""

    def faster(*args: Any, **kwargs: Any) -> Tensor:
        with torch.autocast("cuda", torch.float16):
            return sample(*args, **kwargs).float()

    return faster


def sampling_precision(model: Generator) -> str:
    """Of the products in `model.sample`."""
    return "float16" if "sample" in vars(model) else "float32"


def compiled(
    net: nn.Module, compiler: Callable[..., Forward] = torch.compile, after: int = AFTER, graphs: bool = False
) -> Forward:
    """net.forward, compiled; where gradients are off, or with `graphs`, as CUDA graphs, which replay a network's
    kernels in one call.

    after: calls that inputs of one shape are worth no compiling for, so that a last batch or a few pictures are not.
    If compiling fails, now or for a later shape, it says so once and goes on uncompiled.
    """
    plain = net.forward
    learning = compiler(plain, dynamic=False, options={**LAYOUT, "triton.cudagraphs": graphs})
    sampling = compiler(plain, dynamic=False, options={**LAYOUT, "triton.cudagraphs": True})
    calls: Counter[tuple] = Counter()
    failed: list[str] = []

    def forward(*args: Any, **kwargs: Any) -> Tensor:
        shape = (torch.is_grad_enabled(), *(getattr(a, "shape", a) for a in (*args, *kwargs.values())))
        calls[shape] += 1
        if failed or calls[shape] <= after:
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
