"""Grids against diffusers' lists of steps and against what their names say."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

import genzoo
from genzoo.diffusion import grids
from genzoo.diffusion.grids import karras, leading, linspace, log_snr, quadratic, trailing, uniform

WHOLE = [trailing, leading, linspace]
ANY = [uniform, quadratic, log_snr, karras]
CONF = Path(genzoo.__file__).parents[1] / "conf" / "spacing"


def table(steps: int = 1000) -> torch.Tensor:
    return torch.logspace(-2, 2, steps, dtype=torch.float64) ** 1.1


@given(st.data(), st.integers(1, 1000), st.sampled_from(WHOLE + ANY))
def test_a_grid_falls_within_the_table_to_zero(data: st.DataObject, total: int, grid) -> None:
    steps = data.draw(st.integers(1, total))
    sigmas = table(total)
    falling = grid(sigmas, steps)
    assert falling.shape == (steps + 1,) and falling.dtype == sigmas.dtype
    assert falling[-1] == 0
    assert (falling.diff() < 0).all()
    assert falling[0] <= sigmas[-1] * (1 + 1e-12) and falling[-2] >= sigmas[0] * (1 - 1e-12)


@pytest.mark.parametrize("grid", WHOLE)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 30, 50, 64, 112, 250, 999, 1000])
def test_whole_steps_are_diffusers(grid, steps: int) -> None:
    scheduler = DDPMScheduler(1000, timestep_spacing=grid.__name__)
    scheduler.set_timesteps(steps)
    np.testing.assert_array_equal(grid(torch.arange(1, 1001.0), steps)[:-1], scheduler.timesteps + 1)


@pytest.mark.parametrize("grid", WHOLE)
def test_all_steps_are_the_table(grid) -> None:
    assert torch.equal(grid(table(), 1000)[:-1], table().flip(0))


@pytest.mark.parametrize("grid", [trailing, *ANY])
@pytest.mark.parametrize("steps", [1, 6])
def test_ends_are_the_tables(grid, steps: int) -> None:
    falling = grid(table(), steps)
    assert falling[0].item() == pytest.approx(table()[-1].item(), rel=1e-12)
    if steps > 1 and grid is not trailing:
        assert falling[-2].item() == pytest.approx(table()[0].item(), rel=1e-12)


@pytest.mark.parametrize("steps", [2, 9, 2000])
def test_uniform_and_quadratic_are_so_in_t(steps: int) -> None:
    """In a table whose log is t, between whole t, too."""
    sigmas = torch.exp(torch.arange(101, dtype=torch.float64) / 10)
    t = 10 * uniform(sigmas, steps)[:-1].log()
    np.testing.assert_allclose(t.diff(), -100 / (steps - 1), rtol=1e-8)
    t = 10 * quadratic(sigmas, steps)[:-1].log().clamp(min=0)
    np.testing.assert_allclose(t.sqrt().diff()[:-1], -10 / (steps - 1), rtol=1e-6)


def test_log_snr_is_so() -> None:
    np.testing.assert_allclose(log_snr(table(), 30)[:-1].log().diff(), math.log(1e-4) * 1.1 / 29, rtol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 18])
@pytest.mark.parametrize("rho", [3.0, 7.0])
def test_karras_is_diffusers(steps: int, rho: float) -> None:
    scheduler = EDMEulerScheduler(sigma_min=0.002, sigma_max=80, rho=rho, sigma_schedule="karras")
    scheduler.set_timesteps(steps)
    np.testing.assert_allclose(karras(table(), steps, rho, 0.002, 80.0), scheduler.sigmas, rtol=1e-6)
    ends = torch.tensor([0.002, 80.0])
    np.testing.assert_allclose(karras(ends, steps, rho), scheduler.sigmas, rtol=2e-5)


@pytest.mark.parametrize("steps", [-1, 0, 11])
@pytest.mark.parametrize("grid", WHOLE)
def test_steps_that_the_table_does_not_have(grid, steps: int) -> None:
    with pytest.raises(ValueError, match=rf"steps={steps} is not between 1 and the 10 steps"):
        grid(torch.arange(1.0, 11), steps)


@pytest.mark.parametrize("steps", [-1, 0])
@pytest.mark.parametrize("grid", ANY)
def test_no_steps(grid, steps: int) -> None:
    with pytest.raises(ValueError, match=rf"steps={steps} of the sampler is below 1"):
        grid(torch.arange(1.0, 11), steps)


def test_each_grid_has_its_file() -> None:
    assert {file.stem for file in CONF.glob("*.yaml")} == {grid.__name__ for grid in WHOLE + ANY}
    for file in CONF.glob("*.yaml"):
        settings = OmegaConf.load(file)
        grid = instantiate(settings["spacing"])
        assert grid.func is getattr(grids, file.stem)
        assert grid(table(), 5).shape == (6,)
