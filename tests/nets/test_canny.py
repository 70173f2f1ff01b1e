"""Canny's edges: scikit-image's, of steps and of photographs, and of whichever channel changes most."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.datasets import load_sample_image

from genzoo.nets.canny import blurred, canny, sobel, steepest
from genzoo.nets.maps import Edges

skimage = pytest.importorskip("skimage.feature")


def theirs(image: np.ndarray, sigma: float, low: float, high: float) -> np.ndarray:
    """Edges of an image (H, W) in [-1, 1]; their gradient of a step from 0 to 1 is 4."""
    return skimage.canny((image + 1) / 2, sigma, 4 * low, 4 * high)


def ours(image: np.ndarray, *how: float) -> np.ndarray:
    return canny(torch.from_numpy(image)[None, None], *how)[0, 0].numpy()


@pytest.mark.parametrize("name", ["china.jpg", "flower.jpg"])
@pytest.mark.parametrize("how", [(1.0, 0.1, 0.2), (2.0, 0.02, 0.06), (0.7, 0.05, 0.3)], ids=str)
def test_edges_of_photographs_are_scikit_images(name: str, how: tuple[float, float, float]) -> None:
    image = load_sample_image(name)[100:260, 150:400].mean(2) / 127.5 - 1
    found, expected = ours(image, *how), theirs(image, *how)
    assert expected.mean() > 0.003
    # they leave out the outermost pixels, from which chains of weak edges may go on
    inside = (slice(1, -1),) * 2
    assert (found == expected)[inside].mean() > 0.999
    # chains end at any pixel: what is an edge by itself is the same everywhere
    alone = (how[0], how[2], how[2])
    assert np.array_equal(ours(image, *alone)[inside], theirs(image, *alone)[inside])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(12, 30), st.integers(12, 30), st.floats(0.6, 2))
def test_edges_of_noise_are_scikit_images(seed: int, height: int, width: int, sigma: float) -> None:
    image = np.random.default_rng(seed).uniform(-1, 1, (height, width))
    inside = (slice(1, -1),) * 2
    assert np.array_equal(ours(image, sigma, 0.1, 0.1)[inside], theirs(image, sigma, 0.1, 0.1)[inside])


def test_blur_is_scipys_and_leaves_a_plain_image_alone() -> None:
    x = torch.rand(2, 3, 20, 30, dtype=torch.float64)
    expected = torch.from_numpy(ndimage.gaussian_filter(x.numpy(), (0, 0, 1.5, 1.5)))
    torch.testing.assert_close(blurred(x, 1.5)[..., 6:-6, 6:-6], expected[..., 6:-6, 6:-6])
    torch.testing.assert_close(blurred(torch.full((1, 1, 8, 8), 0.3), 1.5), torch.full((1, 1, 8, 8), 0.3))


def test_gradients_are_sobels_and_the_steepest_channels() -> None:
    x = torch.rand(3, 2, 9, 7, dtype=torch.float64) * 2 - 1
    channels = x.flatten(0, 1).numpy()  # scipy smooths along every other axis: each by itself
    each = [[ndimage.sobel(channel, axis, mode="nearest") / 8 for axis in (1, 0)] for channel in channels]
    expected = torch.from_numpy(np.array(each)).view(3, 2, 2, 9, 7)
    torch.testing.assert_close(sobel(x), expected)
    gradient, size = steepest(sobel(x))
    torch.testing.assert_close(size, expected.norm(dim=2).amax(1, keepdim=True))
    torch.testing.assert_close(gradient.norm(dim=1, keepdim=True), size)


def test_a_weak_edge_is_kept_where_it_goes_on_from_a_strong_one() -> None:
    x = torch.full((2, 1, 40, 24), -0.5)
    x[0, 0, :, 13:] = torch.linspace(0.9, -0.1, 40)[:, None]  # a step that fades from strong to weak
    x[1, 0, :, 13:] = -0.1  # one that is weak all along
    x[..., 12] = (x[..., 11] + x[..., 13]) / 2
    faded, weak = canny(x, 1.0, 0.05, 0.3)[:, 0, :, 12].float()
    assert (faded == 1).all() and (weak == 0).all()
    alone = canny(x, 1.0, 0.3, 0.3)[0, 0, :, 12]
    assert alone[:5].all() and not alone[-10:].any()


def test_the_channel_that_changes_most_has_the_edges() -> None:
    x = torch.zeros(1, 3, 16, 16)
    x[:, 1, :, 9:], x[:, 1, :, 8] = 0.8, 0.5
    x[:, 0] = -x[:, 1] / 2
    x[:, 2] = -x[:, 1] / 2  # grey is the same everywhere
    assert torch.equal(canny(x, 1.0, 0.1, 0.2), canny(x[:, 1:2], 1.0, 0.1, 0.2))
    assert canny(x, 1.0, 0.1, 0.2).any()


def test_the_condition_is_the_same_at_any_precision() -> None:
    condition, x = Edges((3, 16, 16)), torch.rand(2, 3, 16, 16) * 2 - 1
    y = condition.of(x, None)
    assert set(y[:, 0].unique().tolist()) == {-1.0, 1.0} and (y[:, 1] == 1).all()
    assert torch.equal((y[:, :1] > 0), canny(x, 1.0, 0.1, 0.2))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(condition.of(x, None), y)


@pytest.mark.parametrize("wrong", [{"sigma": 0.0}, {"low": 0.3}, {"low": 0.0}])
def test_thresholds_that_are_none_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="give sigma > 0 and 0 < low <= high"):
        Edges((1, 8, 8), **wrong)
