"""What a model costs: parameters, multiply-adds, seconds and bytes, measured after a warm-up and synchronised."""

import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from genzoo.generator import Generator
from genzoo.metrics.memory import is_out_of_memory
from genzoo.metrics.ranks import world

Sample = Callable[[int], Tensor]
aten = torch.ops.aten
FORMULAS = flop_registry | {  # the CPU's attention, which torch has no formula for, has the GPU's
    aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[aten._scaled_dot_product_flash_attention],
    aten._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        aten._scaled_dot_product_flash_attention_backward
    ],
}
BATCHES = (1, 4, 16, 64, 256, 1024)
ENOUGH = 0.2  # seconds of measuring


class Speed(NamedTuple):
    """latency: seconds for one image alone; seconds_per_image: in batches of `batch`, the best of those tried."""

    latency: float
    seconds_per_image: float
    batch: int


def cost(model: Generator, training_seconds: float, training_multiply_adds: float | None) -> dict[str, Any]:
    """The section `cost` of metrics.json: plain numbers, seconds and bytes; training_multiply_adds: of one image."""
    speed = sampling_speed(model.sample, model.device)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "images_seen": model.images_seen,
        "training_seconds": training_seconds,
        "images_per_second": model.images_seen / training_seconds if training_seconds else None,
        "training_multiply_adds_per_image": training_multiply_adds,
        "peak_memory_bytes": peak_memory(model.device),
        **sampling_cost(model, speed),
        "device": device_name(model.device),
    }


def sampling_cost(model: Generator, speed: Speed) -> dict[str, Any]:
    """The part of `cost` that another sampler changes."""
    nfe = model.nfe  # of the images just timed
    return {
        "sampling_multiply_adds_per_image": multiply_adds(lambda: model.sample(1)),
        "sampling_seconds_per_image": speed.seconds_per_image,
        "sampling_batch": speed.batch,
        "latency_seconds": speed.latency,
        "nfe": nfe,
    }


class Counter(TorchDispatchMode):
    """Inside, adds up the FLOPs of convolutions, products of matrices and attention by torch's formulas.

    torch's own FlopCounterMode also follows modules by hooks, which do not survive a gradient of a gradient.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0.0
        self.stances: list[Any] = []  # it enters itself again to take an operation apart

    def __enter__(self) -> Self:
        self.stances.append(torch.compiler.set_stance("force_eager"))  # the mode sees nothing of compiled networks
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.stances.pop().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        formula = FORMULAS.get(func._overloadpacket)
        if formula is None:
            with self:
                parts = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if parts is NotImplemented else parts
        out = func(*args, **kwargs)
        self.flops += formula(*args, **kwargs, out_val=out)
        return out


def multiply_adds(work: Callable[[], object]) -> float:
    """Multiply-adds of `work`, two FLOPs each; torch's random generators are left as they were."""
    with torch.random.fork_rng(), Counter() as counter:
        work()
    return counter.flops / 2


def sampling_speed(sample: Sample, device: torch.device, patience: float = 1.0) -> Speed:
    """Seconds for an image alone, and for one of the batch size that gives most images a second.

    Batches grow until one takes longer than `patience` seconds or does not fit in memory.
    """
    # a network runs compiled for the batches that it is compiled for: to compile is no part of sampling
    stance = torch.compiler.set_stance("eager_on_recompile")
    with stance, torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        latency = seconds(sample, 1, device, repeats=5)
        best = Speed(latency, latency, 1)
        for batch in BATCHES[1:]:
            try:
                whole = seconds(sample, batch, device, repeats=1)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                break
            if whole / batch < best.seconds_per_image:
                best = Speed(latency, whole / batch, batch)
            if whole > patience:
                break
    return best


def seconds(sample: Sample, n: int, device: torch.device, repeats: int) -> float:
    """Median seconds of `sample(n)`, of `repeats` calls or as many as fit in ENOUGH, after a first one;
    of one call where that takes long."""
    warm = clock(sample, n, device)
    times = [clock(sample, n, device) for _ in range(repeats if warm < 1 else 1)]
    while sum(times) < ENOUGH:
        times.append(clock(sample, n, device))
    return statistics.median(times)


def clock(sample: Sample, n: int, device: torch.device) -> float:
    """Seconds from an idle device to an idle device."""
    synchronise(device)
    start = time.perf_counter()
    sample(n)
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done all it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> int:
    """Bytes: of tensors on a GPU; on the CPU of the whole process since it started."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU with the number of threads that torch uses; how often, in several processes."""
    threads = f"{device.type}, {torch.get_num_threads()} threads"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else threads
    return f"{world()} x {name}" if world() > 1 else name
