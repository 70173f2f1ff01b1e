"""Weights that no longer change: a frozen module, and the sha256 that says which one it is."""

import hashlib
from pathlib import Path

import torch
from torch import nn


def frozen(module: nn.Module) -> nn.Module:
    """The same module in eval mode and without gradients."""
    return module.eval().requires_grad_(False)


def file_sha256(path: str | Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_sha256(module: nn.Module) -> str:
    """The sha256 over name, dtype, shape and bytes of each parameter and buffer, in hex; their order is no part."""
    digest = hashlib.sha256()
    state = dict(module.named_parameters()) | dict(module.named_buffers())
    for name, value in sorted(state.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
