"""What must hold for every size, batch and number of steps: hypothesis looks for the ones where it does not."""

from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from hydra.utils import instantiate
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from genzoo.command import conf_folder
from genzoo.data.batches import epoch_batches, ordered_batches
from genzoo.data.pixels import to_pixels
from genzoo.diffusion import grids, schedules
from genzoo.nets import conv, dcgan, dit, mlp, unet
from genzoo.nets.conditions import Classes

few = settings(derandomize=True, max_examples=12, deadline=None)
some = settings(derandomize=True, max_examples=25, deadline=None)

sides = st.integers(1, 40)
shapes = st.tuples(st.integers(1, 4), sides, sides)  # (C, H, W)
widths = st.sampled_from([1, 2, 3, 4, 6, 8])
batches = st.integers(1, 3)
SCHEDULES = [schedules.linear, schedules.cosine, schedules.sigmoid, schedules.karras, schedules.log_linear]
SCHEDULES += [schedules.flow]
SPACINGS = sorted(path.stem for path in Path(conf_folder(), "spacing").glob("*.yaml"))
SAMPLERS = sorted(path.stem for path in Path(conf_folder(), "sampler").glob("*.yaml"))


@cache
def configured(group: str, name: str) -> object:
    """What conf/GROUP/NAME.yaml makes."""
    content = yaml.safe_load(Path(conf_folder(), group, f"{name}.yaml").read_text())
    return instantiate(content.get(group, content))


# --- Data.


@some
@given(n=st.integers(1, 200), batch_size=st.integers(1, 70), world=st.integers(1, 4), epoch=st.integers(0, 3))
def test_an_epoch_has_no_image_twice_and_drops_less_than_a_batch(n: int, batch_size: int, world: int, epoch: int):
    assume(world <= n)
    ranks = [epoch_batches(n, batch_size, seed=0, epoch=epoch, rank=rank, world=world) for rank in range(world)]
    seen = torch.cat([index for rank in ranks for index in rank])
    assert len(seen.unique()) == len(seen) and 0 <= seen.min() and seen.max() < n
    assert len({len(rank) for rank in ranks}) == 1  # or a process would wait for the others
    share = n // world
    assert {len(index) for rank in ranks for index in rank} == {min(batch_size, share)}
    assert n - len(seen) < world * (1 + min(batch_size, share))
    if batch_size == 1 and world == 1:
        assert torch.equal(seen.sort().values, torch.arange(n))


@some
@given(n=st.integers(0, 200), batch_size=st.integers(1, 70), world=st.integers(1, 4))
def test_an_evaluation_sees_every_image_once(n: int, batch_size: int, world: int):
    found = [index for rank in range(world) for index in ordered_batches(n, batch_size, rank, world)]
    assert torch.equal(torch.cat(found).sort().values, torch.arange(n))
    assert all(len(index) <= batch_size for index in found)


@few
@given(mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16"]), shape=shapes, w=sides, h=sides)
def test_any_image_gets_any_shape(mode: str, shape: tuple[int, int, int], w: int, h: int):
    image = Image.new(mode, (w, h))
    if shape[0] in (1, 3):
        assert to_pixels(image, shape).shape == shape
    else:
        with pytest.raises(ValueError, match="1 \\(grey\\) or 3 \\(RGB\\)"):
            to_pixels(image, shape)


# --- Nets.


def gives(net: nn.Module, shape: tuple[int, ...], *inputs: Tensor) -> None:
    """Check that a net maps its inputs to finite values of this shape."""
    out = net(*inputs)
    assert out.shape == shape
    assert out.isfinite().all()


@few
@given(
    shape=shapes,
    width=widths,
    blocks=st.integers(1, 2),
    classes=st.sampled_from([0, 3]),
    times=st.integers(1, 2),
    outputs=st.integers(1, 2),
    n=batches,
    net=st.sampled_from([unet.UNet, mlp.Denoiser, dit.DiT]),
)
def test_denoisers_keep_the_shape(shape, width, blocks, classes, times, outputs, n, net):
    assume((n, width, *shape[1:]) != (1, 1, 1, 1))  # a single value has no deviation to be normalised by
    condition = Classes(classes, 5) if classes else None
    made = net(shape, width=width, blocks=blocks, condition=condition, times=times, outputs=outputs)
    t = torch.rand(n) if times == 1 else torch.rand(n, times)
    y = torch.zeros(n, dtype=torch.long) if classes else None
    gives(made, (n, outputs * shape[0], *shape[1:]), torch.randn(n, *shape), t, y)


ROOMS = st.sampled_from([conv, dcgan, mlp])


@some
@given(shape=shapes, width=widths, features=st.integers(1, 5), n=batches, room=ROOMS)
def test_encoders_and_decoders_have_their_shapes(shape, width, features, n, room):
    assume((n, width, *shape[1:]) != (1, 1, 1, 1))
    encoder, decoder = room.Encoder(shape, features, width), room.Decoder(shape, features, 2, width)
    gives(encoder.eval(), (n, features), torch.randn(n, *shape))
    gives(decoder.eval(), (n, 2, *shape[1:]), torch.randn(n, features))


@few
@given(shape=shapes, width=widths, out=st.integers(1, 6), n=batches, room=st.sampled_from([conv, mlp]))
def test_couplings_start_as_nothing(shape, width, out, n, room):
    found = room.Coupling(shape[0], out, width)(torch.randn(n, *shape))
    assert found.shape == (n, out, *shape[1:])
    assert not found.any()


@few
@given(height=sides, width=sides)
def test_resolutions_halve_until_small(height: int, width: int):
    sizes = conv.resolutions(height, width)
    assert sizes[0] == (height, width)
    assert min(sizes[-1]) <= 4
    assert all(new == tuple((side + 1) // 2 for side in old) for old, new in pairwise(sizes))


@pytest.mark.parametrize("net", [unet.UNet, conv.Encoder, conv.Decoder, dcgan.Encoder, dcgan.Decoder])
def test_images_without_pixels_are_refused_in_words(net: type):
    more = {} if net is unet.UNet else {"out_features": 2}
    if net in (conv.Decoder, dcgan.Decoder):
        more = {"in_features": 2, "out_channels": 1}
    with pytest.raises(ValueError, match=r"0x8 pixels .* at least 1"):
        net((1, 0, 8), width=4, **more)


# --- Schedules, grids, samplers.


@some
@given(schedule=st.sampled_from(SCHEDULES), steps=st.integers(2, 2000))
def test_schedules_rise(schedule, steps: int):
    for sigmas in (schedule(steps), schedule(steps).float()):  # as a model keeps them
        assert sigmas.shape == (steps,)
        assert sigmas.isfinite().all()
        assert sigmas[0] > 0
        assert (sigmas.diff() > 0).all()
    middle = schedule(steps)[steps // 2 :][:1]
    assert schedules.time_of(schedule(steps), middle).round() == steps // 2


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("spacing", SPACINGS)
@few
@given(total=st.integers(2, 1200), share=st.floats(0, 1))
def test_grids_fall_to_zero(schedule, spacing: str, total: int, share: float):
    sigmas = schedule(total).float()
    steps = 1 + round(share * (total - 1))
    grid = configured("spacing", spacing)(sigmas, steps)
    assert grid.shape == (steps + 1,)
    assert grid.isfinite().all()
    assert grid[-1] == 0
    assert (grid.diff() < 0).all()
    assert grid[0] <= sigmas[-1] * 1.0001


@pytest.mark.parametrize("grid", [grids.trailing, grids.leading, grids.linspace, grids.uniform, grids.log_snr])
@pytest.mark.parametrize("steps", [0, -1])
def test_grids_refuse_no_steps(grid, steps: int):
    with pytest.raises(ValueError, match=f"steps={steps}"):
        grid(schedules.linear(10), steps)


def gaussian_denoiser(scale: float = 0.5):
    """E[x0 | x] of x0 ~ N(0, scale^2), with the moments that a learned variance would give."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return x * scale**2 / (scale**2 + sigma**2)

    def moments(x: Tensor, sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, Tensor]:
        return denoise(x, sigma), (sigma_next**2 * (1 - (sigma_next / sigma) ** 2)).expand_as(x)

    denoise.moments = moments
    return denoise


@pytest.mark.parametrize("sampler", SAMPLERS)
@few
@given(
    schedule=st.sampled_from(SCHEDULES),
    spacing=st.sampled_from(SPACINGS),
    total=st.integers(2, 100),
    steps=st.integers(1, 12),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5)),
    n=batches,
)
def test_samplers_stay_finite(sampler: str, schedule, spacing: str, total: int, steps: int, shape, n: int):
    sigmas = schedule(total).float()
    grid = configured("spacing", spacing)(sigmas, min(steps, total))
    torch.manual_seed(0)
    x = configured("sampler", sampler)(gaussian_denoiser(), grid[0] * torch.randn(n, *shape), grid)
    assert x.shape == (n, *shape)
    assert x.isfinite().all()
    assert x.abs().max() < 5 * max(1, grid[0])
