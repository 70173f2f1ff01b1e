"""Pictures beside the samples: ends that are known, the same whenever they are drawn."""

import numpy as np
import pytest
import torch
from scipy.spatial import geometric_slerp

from genzoo import runs
from genzoo.generator import Generator, to_uint8
from genzoo.metrics.draw import per_image
from genzoo.showcase import showcase, slerp

REALS = torch.randint(256, (20, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


class Identity(Generator):
    """Its code of an image is the image."""

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z


def test_an_identity_reconstructs_and_fades() -> None:
    found = showcase(Identity((1, 8, 8), torch.optim.SGD), REALS)
    assert set(found) == {"reconstruction", "interpolation"}
    assert np.array_equal(found["reconstruction"], REALS[:16].numpy())
    ways = found["interpolation"]
    assert ways.shape == (8, 8, 1, 8, 8)
    assert np.array_equal(ways[:, 0], REALS[:8].numpy()) and np.array_equal(ways[:, -1], REALS[8:16].numpy())


def test_slerp_is_scipys() -> None:
    z0, z1 = torch.randn(2, 5, 4, dtype=torch.float64)
    units = [z / z.norm(dim=1, keepdim=True) for z in (z0, z1)]
    for w in (0.0, 0.3, 1.0):
        expected = [geometric_slerp(a, b, w) for a, b in zip(*[u.numpy() for u in units], strict=True)]
        np.testing.assert_allclose(slerp(*units, w), expected, rtol=0, atol=1e-9)
    long = torch.randn(2, 50, 3000)
    assert (slerp(*long, 0.5).norm(dim=1) / 3000**0.5 - 1).abs().max() < 0.06  # the straight line's middle has 0.71
    torch.testing.assert_close(slerp(z0, 2 * z0, 0.5), 1.5 * z0)


def test_a_flow_gives_its_images_back(settings) -> None:
    model = runs.build(settings("model=flow", "width=8")).eval()
    found = showcase(model, REALS)
    assert np.abs(found["reconstruction"].astype(int) - REALS[:16].numpy()).max() <= 1


def test_the_way_from_noise_ends_at_the_sample(settings) -> None:
    model = runs.build(settings("model=ddpm", "width=8", "steps=9", "model.inversion=2")).eval()
    before = torch.get_rng_state()
    found = showcase(model, REALS, seed=3)["trajectory"]
    assert torch.equal(torch.get_rng_state(), before)
    assert found.shape == (8, 8, 1, 8, 8)
    with per_image(3, 0, 8):
        sample = to_uint8(model.sample(8)).numpy()
    assert np.array_equal(found[:, -1], sample)
    assert np.array_equal(showcase(model, REALS, seed=3)["trajectory"], found)


def test_each_class_has_a_row(settings) -> None:
    model = runs.build(settings("model=ddpm", "width=8", "steps=2", "condition=classes", "model.inversion=2")).eval()
    rows = showcase(model, REALS)["classes"]
    assert rows.shape == (10, 8, 1, 8, 8)
    with per_image(0, 0, 8):
        assert np.array_equal(rows[7], to_uint8(model.sample(8, torch.full((8,), 7))).numpy())


@pytest.mark.parametrize("condition", ["layout", "superres"])
def test_what_was_asked_has_a_row_each(settings, condition) -> None:
    model = runs.build(
        settings("model=ddpm", "width=8", "steps=2", f"condition={condition}", "model.inversion=2")
    ).eval()
    for p in model.parameters():  # networks start with zeros at their ends, which nothing gets through
        p.data += 0.1 * torch.randn_like(p)
    layout = torch.tensor([[[k, 0.1, 0.1, 0.5, 0.5], *[[-1, 0, 0, 0, 0]] * 3] for k in range(8)])
    rows = showcase(model, REALS[:8], layout)["asked"]
    assert rows.shape == (8, 8, 1, 8, 8) and np.array_equal(rows[:, 0], REALS[:8].numpy())
    n, y = 7, layout
    if condition == "superres":  # the map comes before the samples
        means = REALS[:8].float().view(8, 1, 4, 2, 4, 2).mean((3, 5)).repeat_interleave(2, 2).repeat_interleave(2, 3)
        assert np.abs(rows[:, 1] - means.numpy()).max() <= 1
        n, y = 6, model.condition.of(REALS[:8] / 127.5 - 1, None)
    with per_image(0, 0, n):
        assert np.array_equal(rows[5, -n:], to_uint8(model.sample(n, y[5].expand(n, *y[5].shape))).numpy())
    assert not np.array_equal(rows[5, -n:], rows[4, -n:])


def test_a_condition_that_the_images_do_not_have_is_not_shown(settings) -> None:
    model = runs.build(settings("model=ddpm", "width=8", "steps=2", "condition=layout", "model.inversion=2")).eval()
    assert "asked" not in showcase(model, REALS[:8])
    assert "asked" not in showcase(model, REALS[:8], torch.arange(8))


def test_a_family_that_only_samples_has_none(settings) -> None:
    assert showcase(runs.build(settings("model=gan", "width=8")), REALS) == {}


def test_points_and_few_images() -> None:
    points = torch.rand(16, 2, 1, 1) * 2 - 1
    found = showcase(Identity((2, 1, 1), torch.optim.SGD), points)
    assert np.array_equal(found["reconstruction"], to_uint8(points).numpy())
    assert showcase(Identity((1, 8, 8), torch.optim.SGD), REALS[:5]) == {}
