"""The scores of generated images: features in, printed names with values and their uncertainty out.

Each is a function (fake, reference, settings...) -> {printed name: Score} of features (n, d) of generated images;
`OnFeatures` makes a torchmetrics.Metric of it. A new score is one more function, named in conf/metrics.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from genzoo.metrics.arrays import alike, sweep
from genzoo.metrics.classes import class_shares, entropy, inception_score
from genzoo.metrics.frechet import infinity_fit
from genzoo.metrics.intervals import Replicates, errors, jackknife, replicates_error, share_interval, t_interval
from genzoo.metrics.kernel import KernelSums, kernel_distance, kernel_jackknife
from genzoo.metrics.memorisation import ENOUGH, authenticity, copying
from genzoo.metrics.prdc import Balls, prdc_jackknife
from genzoo.metrics.ranks import gather
from genzoo.metrics.reference import Reference


class Score(NamedTuple):
    """A value, the 95% interval of what it would be over other samples of the same model, and what explains it."""

    value: float
    ci95: tuple[float, float] | None = None
    details: dict[str, Any] = {}  # noqa: RUF012 (never written to)


Scores = dict[str, Score]
ScoreFunction = Callable[[Tensor, Reference], Scores]


class OnFeatures(Metric):
    """score(features, reference) over the features of all generated images, gathered from all processes."""

    full_state_update = False

    def __init__(self, score: ScoreFunction, reference: Reference) -> None:
        super().__init__(dist_sync_fn=gather)
        self.score, self.reference = score, reference
        self.add_state("features", default=[], dist_reduce_fx="cat")

    def update(self, features: Tensor) -> None:
        """features: (n, d) of some of the images."""
        self.features.append(features)

    def compute(self) -> Scores:
        """Every score of all images so far."""
        return self.score(dim_zero_cat(self.features), self.reference)


def every(functions: Iterable[ScoreFunction], fake: Tensor, reference: Reference) -> Scores:
    """The scores of all the functions, as one to be bound to them. Raises ValueError for a score that is no number."""
    return {name: number(name, score) for function in functions for name, score in function(fake, reference).items()}


def number(name: str, score: Score) -> Score:
    """The score itself; raises ValueError if its value is NaN or infinite, and leaves out an interval that is."""
    if not math.isfinite(score.value):
        raise ValueError(f"{name} is {score.value}, which says nothing: look at the samples for extreme values.")
    return score if all(map(math.isfinite, score.ci95 or ())) else score._replace(ci95=None)


def frechet(fake: Tensor, reference: Reference, parts: int = 5, blocks: int = 10) -> Scores:
    """The Fréchet distance, and that of infinitely many samples by a line in 1/n through sets of n / `parts` and more.

    The line wants three sizes, and parts of twice as many samples as features, below which the extrapolation comes out
    too low; else there is none. Both values waver alike, and have the interval of the former's block jackknife.
    """
    few = not blocks or len(fake) < 2 * blocks
    value, left_out = (reference.distance(fake), []) if few else reference.distance.jackknife(fake, blocks)
    scores = {reference.name: Score(value, around(value, left_out))}
    parts = min(parts, len(fake) // (2 * fake.shape[1]))
    if parts < 3:
        return scores
    fit = infinity_fit(reference.distance, fake, parts)
    points = {"n": fit.n, "values": fit.values, "slope": fit.slope, "r2": fit.r2}
    return scores | {
        reference.name.replace("D", "D∞", 1): Score(fit.value, around(fit.value, left_out), {"fit": points})
    }


def kernel(fake: Tensor, reference: Reference, degree: int = 3, blocks: int = 10) -> Scores:
    """The kernel distance over all samples; negative values stand as they are."""
    if not blocks or len(fake) < 2 * blocks:
        return _kernel(reference, Replicates(kernel_distance(fake, reference.real, degree=degree), []))
    return _kernel(reference, kernel_jackknife(fake, reference.real, blocks, degree=degree))


def neighbourhoods(fake: Tensor, reference: Reference, k: int = 5, blocks: int = 10) -> Scores:
    """Precision, recall, density and coverage of balls that reach to the k-th neighbour; of at least 4 k images."""
    n, m = len(reference.real), len(fake)
    if min(n, m) < 4 * k:
        return {}
    return _shares(n, m, prdc_jackknife(reference.real, fake, k, min(blocks, m)))


def pairwise(fake: Tensor, reference: Reference, degree: int = 3, k: int = 5, blocks: int = 10) -> Scores:
    """`kernel` and `neighbourhoods`, the same scores from one computation of the inner products that both are made of.

    Of fewer images than intervals or balls want, each by itself.
    """
    n, m = len(reference.real), len(fake)
    if blocks < 2 or m < 2 * blocks or min(n, m) < 4 * k:
        return kernel(fake, reference, degree, blocks) | neighbourhoods(fake, reference, k, blocks)
    real, fake = alike(reference.real, fake)
    balls = Balls(real, fake, k, n_blocks=blocks)
    sums = KernelSums(balls.pair, degree)
    sweep(balls.pair, [sums, balls])
    return _kernel(reference, sums.replicates()) | _shares(n, m, balls.replicates())


def _kernel(reference: Reference, found: Replicates) -> Scores:
    return {f"K{reference.name[1:]}": Score(found.value, around(*found))}


def _shares(n: int, m: int, found: Replicates) -> Scores:
    """Of m fakes against n reals."""
    value, error, dof = found.value, errors(found.left_out), len(found.left_out) - 1
    sizes = {"precision": m, "recall": min(n, m), "coverage": min(n, m)}
    shares = {
        name: share_interval(getattr(value, name), getattr(error, name), size, dof) for name, size in sizes.items()
    }
    intervals = shares | {"density": t_interval(value.density, error.density, dof)}
    return {name: Score(getattr(value, name), intervals[name]) for name in value._fields}


def classes(fake: Tensor, reference: Reference, blocks: int = 10) -> Scores:
    """Inception Score, and the entropy of the classes' shares beside these; nothing from features without classes."""
    if reference.classify is None:
        return {}
    logits = reference.classify(fake)
    suffix, blocks = "".join(reference.name.partition("-")[1:]), min(blocks, len(fake))
    return {
        f"IS{suffix}": jackknifed(inception_score, logits, blocks),
        "class entropy": jackknifed(class_entropy, logits, blocks, shares=class_shares(logits).tolist()),
    }


def class_entropy(logits: Tensor) -> float:
    """Nats, of the shares in which logits (n, K) choose the classes."""
    return entropy(class_shares(logits))


def memorisation(fake: Tensor, reference: Reference, cells: int = 3) -> Scores:
    """AuthPct and, of 20 images or more, the C_T statistic against the images held out.

    Neither has a null that is good by itself: read both beside the rows of real images.
    """
    scores = {"AuthPct": Score(authenticity(reference.train, fake, reference.train_radii(1)))}
    if len(fake) < ENOUGH:
        return scores
    cells = cells if len(fake) >= cells * ENOUGH else 1
    return scores | {"C_T": Score(copying(reference.train, reference.held_out, fake, cells))}


def jackknifed(statistic: Callable[[Tensor], float], x: Tensor, blocks: int, **details: Any) -> Score:
    """A statistic of the rows of x with the block jackknife's interval."""
    value = statistic(x)
    return Score(value, t_interval(value, jackknife(statistic, x, blocks), dof=blocks - 1), details)


def around(value: float, left_out: Sequence[float]) -> tuple[float, float] | None:
    """The 95% interval about a value from its values with each block left out; None without these."""
    return t_interval(value, replicates_error(left_out), dof=len(left_out) - 1) if left_out else None
