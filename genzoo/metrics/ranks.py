"""What the processes of one training share out and gather again, in the order of their ranks; one alone does it all."""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def world() -> int:
    """The number of processes that work together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def share(n: int) -> range:
    """This process's contiguous part of 0, ..., n - 1. Raises ValueError where one would be empty."""
    size, rank = world(), dist.get_rank() if world() > 1 else 0
    if n < size:
        raise ValueError(f"{n} images cannot be shared by {size} processes: raise metrics.n or lower trainer.devices.")
    return range(n * rank // size, n * (rank + 1) // size)


def gather(part: Tensor, group: Any = None) -> list[Tensor]:
    """Every process's `part`, of any length, on this one's device: for torchmetrics, whose own gathering wants tensors
    where the process group communicates."""
    if world() == 1:
        return [part]
    parts: list[Tensor] = [part] * world()
    dist.all_gather_object(parts, part.cpu(), group)
    return [other.to(part.device) for other in parts]


def gathered(part: Tensor) -> Tensor:
    """The parts (n_r, ...) of all processes as one tensor (n, ...)."""
    return torch.cat(gather(part))


def agreed(value: T) -> T:
    """Rank 0's value, for all: what each reads from a disk may differ."""
    values = [value]
    if world() > 1:
        dist.broadcast_object_list(values, src=0)
    return values[0]
