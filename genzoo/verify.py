"""python -m genzoo.verify: the metrics against closed forms and recorded values, on the versions installed here."""

import sys
from collections.abc import Iterator, Sequence
from math import prod
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from genzoo.command import ending
from genzoo.data.digits import digits
from genzoo.generator import bits_per_dim, to_uint8
from genzoo.metrics.classes import inception_score
from genzoo.metrics.draw import draw
from genzoo.metrics.features import classifier, extract
from genzoo.metrics.frechet import distance_of, frechet_distance, moments
from genzoo.metrics.intervals import replicates_error
from genzoo.metrics.kernel import kernel_jackknife
from genzoo.metrics.prdc import prdc
from genzoo.metrics.ring import panel

SHA256 = {  # of the shipped extractors' files, in every protocol that used them
    "digits": "bc3f219a63b966da10a53366fe4fee1706621138c6ab5120efb9eeb17ae14c3a",
    "fashion_mnist": "642d6a3efd7816c550b576981993202bb4033bfe2e4a7e27ce1eb0188886c54f",
}
FD_DIGITS = 0.1115550403  # of the 400 test digits from the 1,297 training digits, when the extractor was shipped


class Check(NamedTuple):
    """`got` is right within `tolerance` of `expected`, or below it where there is no tolerance."""

    name: str
    expected: float
    got: float
    tolerance: float | None

    @property
    def holds(self) -> bool:  # NaN does not
        if self.tolerance is None:
            return self.got < self.expected
        return abs(self.got - self.expected) <= self.tolerance

    def __str__(self) -> str:
        bound = "below" if self.tolerance is None else f"{self.tolerance:.2g}"
        verdict = "" if self.holds else "  FAILED"
        return f"{self.name:<56} {self.expected:>14.10g} {self.got:>14.10g} {bound:>10}{verdict}"


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def frechet_checks() -> Iterator[Check]:
    """Gaussians of known distance, and torchmetrics' own computation."""
    one, zero, eye = torch.ones(8), torch.zeros(8), torch.eye(8)
    yield Check("FD of N(0, I) and N(1, 4 I), d = 8", 8 + 8, frechet_distance(zero, eye, one, 4 * eye), 1e-10)
    x, y = normal(300, 16, seed=0), 1.3 * normal(200, 16, seed=1) + 0.2
    fid = FrechetInceptionDistance(feature=Itself()).set_dtype(torch.float64)
    fid.update(x, real=True)
    fid.update(y, real=False)
    fid.orig_dtype = torch.float64
    expected = fid.compute().item()
    yield Check("FD of 300 and 200 samples, torchmetrics'", expected, distance_of(moments(x), y), 1e-6 * expected)
    yield Check("FD with fewer samples than features", *by_covariance(normal(40, 64, seed=2)), 1e-6)


class Itself(nn.Module):
    """Features that are the images."""

    num_features = 16

    def forward(self, x: Tensor) -> Tensor:
        return x


def by_covariance(x: Tensor) -> tuple[float, float]:
    """The distance of N(0, I) from x (n, d), from its covariance and from its Gram matrix."""
    d = x.shape[1]
    whole, rest = moments(x), moments(normal(4000, d, seed=3))
    return frechet_distance(rest.mean, rest.cov, whole.mean, whole.cov), distance_of(rest, x)


def kernel_check() -> Check:
    """E k over pairs of N(m, I) has a closed form: (x.y / d + 1)^3 needs only the moments of x.y."""
    value, left_out = kernel_jackknife(normal(4000, 8, seed=4) + 0.5, normal(4000, 8, seed=5))
    return Check("KD of N(0.5, I) from N(0, I), d = 8", 1.1171875, value, 4 * replicates_error(left_out))


def coverage_check(n: int = 300, m: int = 200, k: int = 5, repeats: int = 30) -> Check:
    """Of one distribution, 1 less the chance that the k nearest of a real point are all real: all orders are alike."""
    expected = 1 - prod((n - i) / (n + m - i) for i in range(1, k + 1))
    found = [prdc(normal(n, 4, seed=10 + i), normal(m, 4, seed=100 + i), k).coverage for i in range(repeats)]
    return Check(f"coverage of one distribution, n = {n}, m = {m}, k = {k}", expected, fmean(found), 0.01)


def ring_checks() -> Iterator[Check]:
    """What each fault of a generator must do to the scores on the ring of eight modes."""
    rows = {name: {key: score.value for key, score in row.items()} for name, row in panel().items()}
    for score in ("recall", "coverage"):
        yield Check(f"ring, 4 of 8 modes dropped: {score}", 0.5, rows["drops 4 of 8 modes"][score], 0.05)
    yield Check("ring, perfect: C_T", 0, rows["perfect"]["C_T"], 3)
    yield Check("ring, blurred 4 times: precision", 0.5, rows["blurs 4 times"]["precision"], None)
    yield Check("ring, copies: C_T", -20, rows["copies"]["C_T"], None)
    yield Check("ring, copies: AuthPct", 0, rows["copies"]["AuthPct"], 0)
    yield Check("ring, collapsed within modes: recall", 0.4, rows["collapses within modes"]["recall"], None)
    yield Check("ring, perfect: Inception Score of 8 classes", 8, rows["perfect"]["IS-points"], 0.02)


def extractor_checks() -> Iterator[Check]:
    """The files as they were shipped, and a distance that was measured with one of them."""
    for name, sha256 in SHA256.items():
        found = classifier(name).sha256
        yield Check(f"sha256 of the extractor {name}, first digits", int(sha256[:8], 16), int(found[:8], 16), 0)
    data, extractor = digits(), classifier("digits")
    train, test = (extract(images.x, extractor) for images in (data.train, data.test))
    yield Check("FD-digits of the test digits", FD_DIGITS, distance_of(moments(train), test), 1e-6)


def convention_checks() -> Iterator[Check]:
    """Levels, bits, classes, and noise that follows the index of an image."""
    levels = torch.arange(256)
    kept = (to_uint8(levels / 127.5 - 1) == levels).sum().item()
    yield Check("levels that survive float and uint8", 256, kept, 0)
    density = torch.full((1,), -64 * torch.tensor(256 / 127.5).log())
    yield Check("bits/dim of the uniform density", 8, bits_per_dim(density, 64).item(), 1e-5)
    yield Check("Inception Score of 10 sure classes", 10, inception_score(1e3 * torch.eye(10)), 1e-9)
    whole, single = (draw(lambda n: torch.randn(n, 1, 4, 4), 32, batch, seed=0) for batch in (32, 1))
    yield Check("pixels that the batch size changes", 0, (whole != single).sum().item(), 0)


def checks() -> Iterator[Check]:
    yield from frechet_checks()
    yield kernel_check()
    yield coverage_check()
    yield from ring_checks()
    yield from convention_checks()
    yield from extractor_checks()


def main(arguments: Sequence[str] = ()) -> int:
    """Print every check with what was expected and found; 1 if one fails, else 0."""
    if arguments:
        raise ValueError(f"{arguments[0]}: genzoo.verify takes no arguments, leave it out")
    torch.set_num_threads(1)  # two busy threads on two busy cores wait for each other
    print(f"{'check':<56} {'expected':>14} {'got':>14} {'tolerance':>10}")
    failed = 0
    for check in checks():
        print(check, flush=True)
        failed += not check.holds
    print(f"{failed} failed" if failed else "all hold")
    return int(failed > 0)


if __name__ == "__main__":
    with ending():
        sys.exit(main(sys.argv[1:]))
