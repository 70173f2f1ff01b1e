"""Scores of reconstructions against hand formulas, scikit-learn's images and known codes."""

import math

import pytest
import torch
from scipy import ndimage, stats
from torch import Tensor, nn
from torchmetrics.functional.image import peak_signal_noise_ratio

from genzoo.metrics.features import classifier, pixels
from genzoo.metrics.frechet import frechet_distance
from genzoo.metrics.reconstruction import perplexity, psnr, reconstructed, reconstruction, similarity


class Coarse(nn.Module):
    """Reconstructs a number of levels, which are the codes of its places."""

    def __init__(self, levels: int, codebook_size: int) -> None:
        super().__init__()
        self.levels, self.codebook_size = levels, codebook_size
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def codes(self, x: Tensor) -> Tensor:
        return ((x[:, 0] + 1) / 2 * (self.levels - 1)).round().long()

    def reconstruct(self, x: Tensor) -> Tensor:
        return self.codes(x)[:, None] / (self.levels - 1) * 2 - 1


def images(n: int = 60, size: int = 16) -> Tensor:
    x = ndimage.gaussian_filter(torch.rand(n, 1, size, size).numpy(), (0, 0, 1.5, 1.5))
    return torch.from_numpy((x - x.min()) / (x.max() - x.min()) * 255).to(torch.uint8)


def test_psnr_is_torchmetrics() -> None:
    real = images()
    again = (real.int() + torch.randint(-9, 10, real.shape)).clamp(0, 255).to(torch.uint8)
    errors = (again.double() - real.double()).square().mean((1, 2, 3))
    score = psnr(again, real)
    theirs = peak_signal_noise_ratio(again.double(), real.double(), data_range=255.0)  # rounded to 32 bits
    assert score.value == pytest.approx(theirs.item(), rel=1e-6)
    low, high = stats.t.interval(0.95, len(real) - 1, errors.mean().item(), stats.sem(errors.numpy()))
    assert score.ci95 == pytest.approx(tuple(10 * math.log10(255**2 / e) for e in (high, low)), rel=1e-6)


def test_psnr_of_equal_images_is_finite() -> None:
    real = images(4)
    nearly = real.clone()
    nearly[0, 0, 0, 0] ^= 1
    assert psnr(real, real).value == pytest.approx(psnr(nearly, real).value, rel=1e-9)


def test_similarity_by_scipy() -> None:
    """Wang et al. 2004, equation 13: local moments under a Gaussian of sigma 1.5, 11 pixels wide."""
    real, again = images(5), images(5)

    def ssim(a: Tensor, b: Tensor) -> float:
        def mean(x):
            return ndimage.gaussian_filter(x, 1.5, radius=5, mode="mirror")

        x, y = a[0].double().numpy(), b[0].double().numpy()
        mx, my = mean(x), mean(y)
        vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        return ((2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean()

    expected = [ssim(a, b) for a, b in zip(again, real)]
    assert similarity(again, real)["SSIM"].value == pytest.approx(sum(expected) / 5, abs=1e-6)
    assert similarity(real, real)["SSIM"].value == pytest.approx(1, abs=1e-12)


def test_points_have_no_structure() -> None:
    points = torch.randint(256, (9, 2, 1, 1), dtype=torch.uint8)
    assert similarity(points, points) == {}


def test_uniform_use_gives_the_number_of_codes() -> None:
    codes = torch.arange(32).repeat(20, 1).view(20, 8, 4)
    score = perplexity(codes, 32)
    assert score.value == pytest.approx(32)
    assert score.ci95 == pytest.approx((32, 32))
    assert score.details == {"used": 32, "codebook_size": 32}
    assert perplexity(codes.clamp(max=3), 32).details["used"] == 4
    assert perplexity(torch.zeros(20, 8, 4, dtype=torch.int64), 32).value == pytest.approx(1)


def test_perplexity_is_scipys() -> None:
    codes = torch.randint(7, (30, 4, 4)) ** 2 % 7
    assert perplexity(codes, 50).value == pytest.approx(
        math.exp(stats.entropy(torch.bincount(codes.flatten()).numpy())), rel=1e-9
    )


def test_the_distance_is_from_the_same_images() -> None:
    real, model = images(80, 8), Coarse(4, codebook_size=4)
    scores = reconstruction(model, real, pixels((1, 8, 8)))
    again = reconstructed(model, real)
    a, b = (x.flatten(1).double() / 127.5 - 1 for x in (again.images, real))
    expected = frechet_distance(a.mean(0), a.T.cov(), b.mean(0), b.T.cov())
    assert scores["rFD-pixels"].value == pytest.approx(expected, rel=1e-5)
    low, high = scores["rFD-pixels"].ci95
    assert 0 < low < expected < high


def test_better_reconstructions_score_better() -> None:
    real = images(200, 8)
    coarse, fine, exact = (reconstruction(Coarse(levels, 256), real, classifier("digits")) for levels in (3, 16, 256))
    names = {"PSNR", "SSIM", "rFD-digits", "codebook perplexity"}
    assert coarse.keys() == fine.keys() == exact.keys() == names
    for name in ("PSNR", "SSIM", "codebook perplexity"):
        assert coarse[name].value < fine[name].value < exact[name].value
    assert coarse["rFD-digits"].value > fine["rFD-digits"].value > exact["rFD-digits"].value
    assert exact["rFD-digits"].value == pytest.approx(0, abs=1e-4)


def test_batches_and_their_order_change_nothing() -> None:
    real, model = images(23), Coarse(5, 5)
    whole, parts = reconstructed(model, real), reconstructed(model, real, batch_size=4)
    assert torch.equal(whole.images, parts.images) and torch.equal(whole.codes, parts.codes)
    assert whole.codes.shape == (23, 16, 16)


def test_continuous_latents_have_no_perplexity() -> None:
    scores = reconstruction(Coarse(5, codebook_size=0), images(), pixels((1, 16, 16)))
    assert scores.keys() == {"PSNR", "SSIM", "rFD-pixels"}


def test_a_model_that_reconstructs_nothing_has_no_such_scores() -> None:
    assert reconstruction(nn.Identity(), images(), pixels((1, 16, 16))) == {}


def test_reconstructions_that_are_no_numbers_are_refused() -> None:
    model = Coarse(5, 0)
    model.reconstruct = lambda x: x * math.nan
    with pytest.raises(ValueError, match="hold NaN or infinity"):
        reconstructed(model, images())
