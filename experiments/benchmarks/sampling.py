"""Sampling by DPM-Solver++(2M): our loop beside diffusers' scheduler, with one network and with each its own."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import nn

from experiments.benchmarks import sides, unets
from experiments.benchmarks.race import Absent, Race
from genzoo.generator import Generator
from genzoo.gpu import tune

SCHEDULER = "diffusers' DPMSolverMultistepScheduler"


def races(
    width: int = 32, side: int = 32, n: int = 64, steps: int = 20, device: str = "cpu"
) -> Iterator[Race | Absent]:
    work = f"sampling {n} x 1x{side}x{side}, DPM-Solver++ {steps} calls"
    if missing := sides.absent(work, SCHEDULER, "diffusers"):
        yield missing
        return
    ours = unets.ours_of(width, side, "sampler=dpmpp_2m", "spacing=trailing", f"steps={steps}", "model.limit=null")
    nn.init.normal_(ours.net.out[-1].weight, std=0.02)  # it starts at zero, and would predict nothing
    plain = ours.net.forward
    tune(ours.to(device), after=0, halve=True)
    net, predict = unets.diffusers(width, side)
    a = ours.eval(), partial(by_model, ours, n)
    yield sides.race(work, f"{SCHEDULER}, same UNet", a, (ours, partial(by_scheduler, plain, n, ours)))
    b = net.to(device).eval(), partial(by_scheduler, predict, n, ours)
    yield sides.race(work, f"{SCHEDULER}, diffusers' UNet2DModel", a, b, comparable=False)


def by_model(model: Generator, n: int) -> float:
    """The standard deviation of what it samples."""
    torch.manual_seed(0)
    return model.sample(n).std().item()


@torch.no_grad()
def by_scheduler(predict: unets.Predict, n: int, ours: Generator) -> float:
    """As `by_model`, from the same noise on the same grid."""
    from diffusers import DPMSolverMultistepScheduler

    torch.manual_seed(0)
    scheduler = DPMSolverMultistepScheduler(
        1000, 1e-4, 0.02, "linear", solver_type="midpoint", timestep_spacing="trailing", final_sigmas_type="zero"
    )
    scheduler.set_timesteps(ours.steps)
    sigma = ours.sigma_grid[0]
    x = torch.randn(n, *ours.image_shape, device=ours.device) * sigma * (1 + sigma**2).rsqrt()
    for t in scheduler.timesteps:
        x = scheduler.step(predict(x, t.to(x.device).expand(n)), t, x).prev_sample
    return x.clamp(-1, 1).std().item()
