"""Editing against Gaussian data, whose conditionals are closed forms, and operators against their own matrices."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from genzoo.diffusion.dpm_solver_pp import dpmpp_2m
from genzoo.diffusion.editing import (
    consistent,
    fill,
    in_range,
    luma,
    outside,
    pooling,
    repaint,
    resampled,
    restore,
    sdedit,
)
from genzoo.diffusion.samplers import ddim, ddpm
from genzoo.metrics.draw import draw

SIGMAS = torch.cat([torch.logspace(1.3, -1.7, 50, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
MASK = torch.tensor([[[False, False], [True, True]]])
MEAN = torch.tensor([0.1, -0.2, 0.3, 0.0], dtype=torch.float64)
ROOT = torch.tensor([[6, 0, 0, 0], [4, 3, 0, 0], [1, -3, 3, 0], [-3, 2, 2, 2]], dtype=torch.float64) / 10
COVARIANCE = ROOT @ ROOT.T
IMAGE = torch.tensor([[[0.5, 0.4], [0.0, 0.0]]], dtype=torch.float64)


def correlated(x: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | x] of data N(MEAN, COVARIANCE) on 1x2x2 images."""
    gain = torch.linalg.solve(COVARIANCE + sigma**2 * torch.eye(4), COVARIANCE)
    return (MEAN + (x.flatten(1) - MEAN) @ gain).view(x.shape)


def conditional() -> tuple[Tensor, Tensor]:
    """Mean and covariance of the lower two pixels given IMAGE's upper two."""
    a, b, c = COVARIANCE[:2, :2], COVARIANCE[2:, :2], COVARIANCE[2:, 2:]
    gain = b @ torch.linalg.inv(a)
    return MEAN[2:] + gain @ (IMAGE.flatten()[:2] - MEAN[:2]), c - gain @ b.T


def errors(x: Tensor) -> tuple[float, float]:
    """Largest of mean and of covariance of the lower two pixels."""
    mean, covariance = conditional()
    lower = x.flatten(1)[:, 2:]
    return (lower.mean(0) - mean).abs().max().item(), (lower.T.cov() - covariance).abs().max().item()


def standard(x: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | x] of data N(0, I)."""
    return x / (1 + sigma**2)


def exact(denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """Ancestral sampling of data N(0, I) whatever the steps, with the whole variance of x_next given x."""
    for now, after in pairwise(sigmas):
        shrink, x0 = (after / now) ** 2, denoise(x, now)
        variance = (1 - shrink) ** 2 * now**2 / (1 + now**2) + after**2 * (1 - shrink)
        x = x0 + shrink * (x - x0) + variance.sqrt() * torch.randn_like(x)
    return x


def noise(n: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return SIGMAS[0].to(dtype) * torch.randn(n, *shape, dtype=dtype)


# --- Filling in.


@pytest.mark.parametrize("method", [repaint, fill])
def test_filling_in_draws_from_the_conditional(method) -> None:
    """5,000 draws have standard errors of 0.004 and 0.002; what is left is the grid's and the resampling's error:
    as measured, 0.02 of a mean that is 0.27 away from the prior's, and 0.012 of variances of 0.09."""
    mean, covariance = errors(method(correlated, noise(5_000, 1, 2, 2), SIGMAS, ddpm, IMAGE, MASK, 20, 5))
    assert mean < 0.03 and covariance < 0.02


@pytest.mark.parametrize("method", [repaint, fill])
def test_without_resampling_it_is_further_off(method) -> None:
    mean, covariance = errors(method(correlated, noise(5_000, 1, 2, 2), SIGMAS, ddpm, IMAGE, MASK, 1))
    assert mean > 0.1 and covariance > 0.025


@pytest.mark.parametrize("sampler", [ddim, ddpm])
def test_known_pixels_come_back_bit_for_bit(sampler) -> None:
    image = torch.randint(256, (3, 5, 4)) / 127.5 - 1
    mask = torch.rand(1, 5, 4) < 0.5
    x = repaint(lambda x, _: torch.sin(9 * x), noise(6, 3, 5, 4, dtype=torch.float), SIGMAS, sampler, image, mask, 3, 7)
    assert torch.equal(x.masked_fill(mask, 0), image.masked_fill(mask, 0).expand_as(x))
    assert (x - image)[..., mask[0]].abs().min() > 0


def test_repaint_is_its_algorithm_1() -> None:
    """Line by line, with jumps of one step, in the order in which ours draws: reverse, known pixels, back."""
    grid, x = SIGMAS[::10], noise(5, 1, 2, 2)
    torch.manual_seed(1)
    ours = repaint(correlated, x, grid, ddpm, IMAGE, MASK, resamples=4, length=1)
    torch.manual_seed(1)
    for now, after in pairwise(grid):
        for u in range(4):
            shrink = (after / now) ** 2
            x0 = correlated(x, now)
            unknown = x0
            if after > 0:
                unknown = x0 + shrink * (x - x0) + after * torch.sqrt(1 - shrink) * torch.randn_like(x)
            known = IMAGE + after * torch.randn_like(x)
            x = torch.where(MASK, unknown, known)
            if u < 3:
                x = x + torch.sqrt(now**2 - after**2) * torch.randn_like(x)
    np.testing.assert_allclose(ours, x, rtol=0, atol=1e-12)


# --- Resampling.


def test_resampling_keeps_the_distribution() -> None:
    """Noising back and sampling again leaves N(0, 1) what it is: with all steps exact, within four standard errors."""
    n = 20_000
    x = (1 + SIGMAS[0] ** 2).sqrt() * torch.randn(n, 1, 1, 1, dtype=torch.float64)
    x = resampled(standard, x, SIGMAS[::5], exact, resamples=3, length=4)
    assert x.mean().abs() < 4 / n**0.5
    assert x.var().item() == pytest.approx(1, abs=4 * (2 / n) ** 0.5)


@pytest.mark.parametrize(("resamples", "length", "calls"), [(1, 5, 50), (10, 5, 500), (3, 7, 150), (2, 999, 100)])
def test_it_takes_resamples_times_the_calls(resamples: int, length: int, calls: int) -> None:
    seen = []
    resampled(lambda x, sigma: seen.append(sigma) or x, noise(1, 1, 1, 1), SIGMAS, ddim, resamples, length)
    assert len(seen) == calls and min(seen) > 0


def test_once_is_the_sampler_itself() -> None:
    """A multistep one, which in stretches would have to start anew."""
    x = noise(3, 1, 2, 2)
    assert torch.equal(resampled(correlated, x, SIGMAS, dpmpp_2m, 1), dpmpp_2m(correlated, x, SIGMAS))
    assert not torch.equal(resampled(correlated, x, SIGMAS, dpmpp_2m, 2), dpmpp_2m(correlated, x, SIGMAS))


@pytest.mark.parametrize("counts", [(0, 5), (10, 0)])
def test_no_resampling_at_all_is_refused(counts: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        resampled(standard, noise(1, 1, 1, 1), SIGMAS, ddim, *counts)


# --- Operators.

OPERATORS = {  # with the shape that they take
    "pooling 2": (pooling(2), (3, 4, 6)),
    "pooling 4": (pooling(4), (1, 4, 8)),
    "luma": (luma(), (3, 2, 3)),
    "mask": (outside(torch.tensor([[[True, False], [False, True]]])), (3, 2, 2)),
}
each_operator = pytest.mark.parametrize(("operator", "shape"), OPERATORS.values(), ids=OPERATORS)


@each_operator
def test_operator_and_pseudo_inverse_are_those_of_their_matrix(operator, shape) -> None:
    """torch.linalg.pinv of A, made of the images of the unit vectors."""
    size = int(np.prod(shape))
    a = operator.forward(torch.eye(size, dtype=torch.float64).view(size, *shape)).flatten(1).T
    y = operator.forward(torch.randn(4, *shape, dtype=torch.float64))
    np.testing.assert_allclose(operator.pinv(y).flatten(1), y.flatten(1) @ torch.linalg.pinv(a).T, rtol=0, atol=1e-12)
    np.testing.assert_allclose(a @ a.T, operator.gain * (a @ torch.linalg.pinv(a)), rtol=0, atol=1e-12)


@each_operator
def test_projection(operator, shape) -> None:
    """A A^+ y = y; what is projected measures y; and to project again changes nothing."""
    x, other = torch.randn(2, 4, *shape, dtype=torch.float64)
    y = operator.forward(other)
    np.testing.assert_allclose(operator.forward(operator.pinv(y)), y, rtol=0, atol=1e-13)
    once = operator.project(x, y)
    np.testing.assert_allclose(operator.forward(once), y, rtol=0, atol=1e-13)
    np.testing.assert_allclose(operator.project(once, y), once, rtol=0, atol=1e-13)


def test_pooling_is_torch_and_luma_is_pillow() -> None:
    x = torch.randint(256, (1, 3, 8, 6))
    np.testing.assert_allclose(pooling(2).forward(x.float()), F.adaptive_avg_pool2d(x.float(), (4, 3)), rtol=1e-6)
    grey = Image.fromarray(x[0].permute(1, 2, 0).byte().numpy()).convert("L")
    np.testing.assert_allclose(luma().forward(x.double())[0, 0], np.asarray(grey), rtol=0, atol=0.51)


# --- Inverse problems.


@each_operator
@pytest.mark.parametrize(("noise_of_y", "stands_for"), [(0.0, 1e-5), (0.1, 0.1), (2.0, 2.0)])
@pytest.mark.parametrize("sigma", SIGMAS[:-1:7])
def test_on_standard_normal_data_it_is_the_mean_given_x_and_y(operator, shape, noise_of_y, stands_for, sigma) -> None:
    """(I + I / sigma^2 + A^T A / s^2)^-1 (x / sigma^2 + A^T y / s^2), by the matrix of A."""
    eye = torch.eye(int(np.prod(shape)), dtype=torch.float64)
    a = operator.forward(eye.view(-1, *shape)).flatten(1).T
    x, y = sigma * torch.randn(4, *shape, dtype=torch.float64), operator.forward(torch.randn(1, *shape).double())
    precision = (1 + 1 / sigma**2) * eye + a.T @ a / stands_for**2
    mean = torch.linalg.solve(precision, (x.flatten(1) / sigma**2 + y.flatten() @ a / stands_for**2).T).T
    ours = consistent(standard, operator, y[0], noise_of_y)(x, sigma)
    np.testing.assert_allclose(ours.flatten(1), mean, rtol=0, atol=1e-5 if noise_of_y == 0 else 1e-10)


@each_operator
@pytest.mark.parametrize("sampler", [ddim, ddpm])
@pytest.mark.parametrize("resamples", [1, 3])
def test_measurements_are_kept_and_8_bits_hold_them(operator, shape, sampler, resamples: int) -> None:
    """In float32, of a denoiser that knows nothing of the range."""
    y = operator.forward(torch.rand(1, *shape) * 2 - 1)
    x = noise(6, *shape, dtype=torch.float)
    x = restore(lambda x, _: 3 * torch.sin(x), x, SIGMAS.float(), sampler, operator, y[0], resamples=resamples)
    assert (operator.forward(x) - y).abs().max() < 1e-6
    assert x.abs().max() < 1 + 1e-3


def test_alternating_projections_find_the_one_image_in_range() -> None:
    """A block whose mean is 1 is white."""
    x = in_range(torch.randn(4, 1, 2, 2), pooling(2), torch.ones(1, 1, 1))
    np.testing.assert_allclose(x, 1, rtol=0, atol=1e-5)


def test_a_learned_variance_stays_the_denoisers() -> None:
    """What ddpm_learned asks of a denoiser, `moments`, is corrected in its mean alone."""
    operator, y = pooling(2), torch.zeros(1, 1, 1, dtype=torch.float64)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return standard(x, sigma)

    x, now, after = noise(3, 1, 2, 2), SIGMAS[3], SIGMAS[4]
    assert not hasattr(consistent(denoise, operator, y), "moments")
    denoise.moments = lambda x, sigma, sigma_next: (denoise(x, sigma), sigma_next)
    corrected = consistent(denoise, operator, y)
    mean, variance = corrected.moments(x, now, after)
    assert torch.equal(mean, corrected(x, now)) and variance == after
    assert operator.forward(mean).abs().max() < 1e-12


# --- SDEdit.


def test_strength_one_is_sampling_but_for_the_image_at_the_noisiest_level() -> None:
    """ddim on Gaussian data is linear in x: the image's trace is its share of the start, 1 / 20 for N(0, 1) data."""
    image = torch.rand(1, 2, 2, dtype=torch.float64)
    x = noise(8, 1, 2, 2)
    edited = sdedit(standard, x, SIGMAS, ddim, image, 1.0)
    np.testing.assert_allclose(edited - ddim(standard, x, SIGMAS), ddim(standard, image[None], SIGMAS).expand_as(x))
    np.testing.assert_allclose(edited, ddim(standard, x, SIGMAS), rtol=0, atol=0.06)


def test_small_strength_gives_the_image_back() -> None:
    image = torch.rand(1, 2, 2, dtype=torch.float64)
    x = noise(1000, 1, 2, 2)
    seen = []
    edited = sdedit(lambda x, sigma: seen.append(sigma) or standard(x, sigma), x, SIGMAS, ddim, image, 0.001)
    assert seen == [SIGMAS[-2]]  # one step, from 0.02
    assert (edited - image).std().item() == pytest.approx(0.02, rel=0.1)


def test_strength_in_between_is_the_closed_form() -> None:
    """N(0, 1) data: image + sigma * noise has the posterior's mean, of mean image / (1 + sigma^2) = c image and
    variance c^2 sigma^2, and the posterior's variance c sigma^2 on top."""
    image, n, c = torch.full((1, 1, 1), 0.9, dtype=torch.float64), 20_000, (1 / (1 + SIGMAS[25] ** 2)).item()
    edited = sdedit(standard, noise(n, 1, 1, 1), SIGMAS, exact, image, 0.5)
    assert edited.mean().item() == pytest.approx(0.9 * c, abs=4 / n**0.5)
    assert edited.var().item() == pytest.approx((c**2 + c) * SIGMAS[25].item() ** 2, rel=4 * (2 / n) ** 0.5)


@pytest.mark.parametrize("strength", [0.0, 1.01, -1.0])
def test_strength_out_of_range_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match=r"not in \(0, 1\]"):
        sdedit(standard, noise(1, 1, 1, 1), SIGMAS, ddim, torch.zeros(1, 1, 1), strength)


# --- All of them.

EDITS = {
    "repaint": partial(repaint, image=IMAGE, mask=MASK),
    "fill": partial(fill, image=IMAGE, mask=MASK),
    "restore": partial(restore, operator=pooling(2), y=torch.full((1, 1, 1), 0.2)),
    "sdedit": partial(sdedit, image=IMAGE, strength=0.5),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_image_i_is_the_same_in_any_batch(edit) -> None:
    def sample(n: int) -> Tensor:
        return edit(correlated, noise(n, 1, 2, 2), SIGMAS[::5], ddpm)

    together = draw(sample, 7, seed=3)
    assert torch.equal(together, draw(sample, 7, batch_size=2, seed=3))
    assert torch.equal(together[4:], draw(sample, 3, seed=3, first=4))
    assert len(together.unique(dim=0)) == 7


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
@pytest.mark.parametrize("dtype", [torch.float, torch.double])
def test_dtype_and_input_are_left_alone(edit, dtype: torch.dtype) -> None:
    x = noise(2, 1, 2, 2, dtype=dtype)
    held = x.clone()
    assert edit(standard, x, SIGMAS[::5].to(dtype), ddpm).dtype == dtype
    assert torch.equal(x, held)
