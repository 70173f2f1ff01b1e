"""LoRA (Hu et al. 2022): frozen weights W, each with a trained term of low rank: W + alpha / r B A.

The term goes into the weight itself and not beside the layer, since some networks use a layer's weight without calling
the layer (genzoo.nets.conv.enlarged); peft's layers would be passed by there.
"""

import re
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, register_parametrization, remove_parametrizations

Model = TypeVar("Model", bound=nn.Module)
MARK = r"parametrizations\.(\w+)\."  # torch's: behind it the weight is `original`, what is done to it `0`
QKV = tuple(f"{part}_proj_weight" for part in ("in", "q", "k", "v"))  # of nn.MultiheadAttention: all in one, or each


class LowRank(nn.Module):
    """W -> W + alpha / r B A; A is drawn from a Gaussian and B is zero, so that nothing changes at first (section 4.1).

    A kernel (out, in, h, w) is the matrix (out, in h w): a convolution to r channels, then one of 1x1. Weights that a
    network keeps in one, such as those of queries, keys and values, are one matrix.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        self.scale = alpha / rank
        self.A = nn.Parameter(torch.randn(rank, columns).to(weight) / columns**0.5)
        self.B = nn.Parameter(weight.new_zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.B @ self.A).view(weight.shape)


def adapt(model: Model, rank: int, alpha: float | None = None, modules: str = ".", embeddings: bool = False) -> Model:
    """The model itself, frozen but for new terms of low rank: rank * (out + in h w) numbers a layer.

    alpha: scale of the terms times the rank; None takes the rank, a scale of 1.
    modules: pattern (re.search) of the names of the linear layers, convolutions and nn.MultiheadAttention that get one;
        the default is all.
    embeddings: train the embeddings of classes, words and codes, too, whole: a new word means nothing yet.
    Raises ValueError for a pattern that cannot be read or matches no layer.
    """
    layers = {name: module for name, module in model.named_modules() if weights_of(module)}
    try:
        chosen = [layer for name, layer in layers.items() if re.search(modules, name)]
    except re.error as error:
        raise ValueError(f"lora.modules={modules} is no pattern ({error}): write one as attention|cross") from error
    if not chosen:
        raise ValueError(f"lora.modules={modules} is in no layer's name: there are {', '.join(list(layers)[:10])}, ...")
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding) and m.weight.requires_grad]
    weights = [(layer, name) for layer in chosen for name in weights_of(layer)]
    model.requires_grad_(False)
    for layer, name in weights:
        register_parametrization(layer, name, LowRank(getattr(layer, name), rank, alpha or rank))
    for table in tables if embeddings else []:
        table.requires_grad_(True)
    return model


def weights_of(layer: nn.Module) -> list[str]:
    """The names of the matrices that a layer trains itself, none for other modules."""
    if isinstance(layer, nn.MultiheadAttention):
        names = QKV
    else:
        names = ("weight",) if isinstance(layer, nn.Linear | nn.Conv2d) else ()
    return [name for name in names if (weight := getattr(layer, name)) is not None and weight.requires_grad]


def merge(model: Model) -> Model:
    """The model itself with the weights of `adapt` computed once and for all: the same layers, the same outputs."""
    for module in list(model.modules()):
        found = list(module.parametrizations.items()) if is_parametrized(module) else []
        for name in [name for name, steps in found if isinstance(steps[0], LowRank)]:
            remove_parametrizations(module, name)
    return model.requires_grad_(True)


def base(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model under the names that it has without `adapt`: parameters and buffers themselves."""
    state = model.state_dict(keep_vars=True)
    terms = re.compile(rf"{MARK}0\.[AB]$")
    return {re.sub(rf"{MARK}original$", r"\1", name): t for name, t in state.items() if not terms.search(name)}
