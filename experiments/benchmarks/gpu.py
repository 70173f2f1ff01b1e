"""On a CUDA device: the DDPM of CIFAR-10 as a run trains and samples it, beside the card's own rate and diffusers."""

from collections.abc import Callable, Iterator
from itertools import repeat

import torch
from torch import Tensor, nn

from experiments.benchmarks import sampling, sides, unets
from experiments.benchmarks.loops import NET
from experiments.benchmarks.race import Absent, Cost, Race
from experiments.benchmarks.unets import noise_loss
from genzoo.generator import Generator
from genzoo.gpu import tune
from genzoo.metrics.cost import multiply_adds, synchronise
from genzoo.metrics.draw import draw

RATE = "its multiply-adds as bf16 products of matrices: the ratio is the utilisation"
EXAMPLE = "diffusers' training example: UNet2DModel, bf16, AdamW, not compiled"


def races(
    width: int = 128,
    side: int = 32,
    batches: tuple[int, ...] = (128, 256, 512),
    steps: int = 50,
    n: int = 10_000,
    calls: int = 10,
    device: str = "cuda",
) -> Iterator[Race | Absent]:
    """width 128 is Ho et al.'s network of 35.7 M parameters; each timed side takes `steps` steps after a warm-up."""
    if device == "cuda" and not torch.cuda.is_available():
        yield Absent("DDPM of CIFAR-10 on a GPU", RATE, "not raced: no CUDA device")
        return
    where = torch.device(device)
    for batch in batches:
        yield from trained(width, side, batch, steps, calls, where)
    yield from sampled(ours_of(width, side, calls).to(where).eval(), n, where)
    for race in unets.races(width, side, batches[0], steps // 5, device):
        yield adapted(race, torch.bfloat16, where)
    for race in sampling.races(width, side, 64, 20, device):
        yield adapted(race, torch.float16, where)


def trained(width: int, side: int, batch: int, steps: int, calls: int, where: torch.device) -> Iterator[Race | Absent]:
    x = torch.rand(batch, 3, side, side, device=where) * 2 - 1
    ours = ours_of(width, side, calls).to(where)
    cost = Cost(sides.parameters(ours), steps * multiply_adds(lambda: ours.loss(x)["loss"].backward()))
    tune(ours, after=0, graphs=True)
    work = f"{steps} training steps, {batch} x 3x{side}x{side}"
    mine = warm(autocast(sides.training(ours, list(repeat(x, steps))), torch.bfloat16, where), where)
    yield Race(work, RATE, mine, products(cost.multiply_adds, where), (cost, cost), comparable=False)
    if missing := sides.absent(work, EXAMPLE, "diffusers"):
        yield missing
    else:
        yield Race(work, EXAMPLE, mine, warm(example(width, side, x, steps), where), comparable=False)


def ours_of(width: int, side: int, calls: int) -> Generator:
    shape, sampler = f"data.image_shape=[3,{side},{side}]", ("sampler=dpmpp_2m", f"steps={calls}")
    model = sides.model_of("model=ddpm", shape, f"width={width}", *NET, *sampler)
    nn.init.normal_(model.net.out[-1].weight, std=0.02)  # it starts at zero, and would predict nothing
    return model


def sampled(model: Generator, n: int, where: torch.device) -> Iterator[Race]:
    """As a run draws them for its scores, compiled, as CUDA graphs and in float16; beside the network as it is."""
    net, plain, sample = model.net, model.net.forward, model.sample
    tune(model, after=0, halve=True)
    fast, faster = net.forward, model.sample

    def by(forward: Callable[..., Tensor], sample: Callable[[int], Tensor]) -> sides.Work:
        def work() -> float:
            net.forward = forward
            return draw(sample, n, batch_size=min(n, 1000)).float().std().item()

        return warm(work, where)

    peer = "the same, neither compiled nor in float16"
    yield Race(f"sampling {n:,} images, {model.steps} calls", peer, by(fast, faster), by(plain, sample))


def adapted(race: Race | Absent, dtype: torch.dtype, where: torch.device) -> Race | Absent:
    """Both sides with products in 16 bits."""
    if isinstance(race, Absent):
        return race
    mine, theirs = (warm(autocast(side, dtype, where), where) for side in (race.ours, race.theirs))
    return race._replace(ours=mine, theirs=theirs)


def autocast(work: sides.Work, dtype: torch.dtype, where: torch.device) -> sides.Work:
    def under() -> float:
        with torch.autocast(where.type, dtype, enabled=where.type != "cpu" or dtype == torch.bfloat16):
            return work()

    return under


def warm(work: sides.Work, where: torch.device) -> sides.Work:
    """The work, done once before it is timed, from an idle device to an idle device."""
    work()

    def timed() -> float:
        synchronise(where)
        found = work()
        synchronise(where)
        return found

    return timed


def products(multiply_adds: float, where: torch.device, size: int = 8192) -> sides.Work:
    """As many multiply-adds in bf16 products of square matrices."""
    size = size if where.type == "cuda" else 64
    a, b = torch.randn(2, size, size, device=where).bfloat16()
    times = max(1, round(multiply_adds / size**3))

    def work() -> float:
        for _ in range(times):
            c = a @ b
        return c[0, 0].item()

    return warm(work, where)


def example(width: int, side: int, x: Tensor, steps: int) -> sides.Work:
    """The loop of diffusers' unconditional example with mixed_precision=bf16 on google/ddpm-cifar10-32's network."""
    from diffusers import UNet2DModel

    attends = [side >> i == 16 for i in range(4)]
    net = UNet2DModel(
        sample_size=side,
        layers_per_block=2,
        block_out_channels=(width, *[2 * width] * 3),
        down_block_types=tuple("AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends),
        up_block_types=tuple("AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)),
        dropout=0.1,
    ).to(x.device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=1e-6)
    loss_of = noise_loss(lambda x, t: net(x, t).sample, x.device)

    def work() -> float:
        for _ in range(steps):
            with torch.autocast(x.device.type, torch.bfloat16):
                loss = loss_of(x)
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()

    return work
