"""The kernel distance (KID): the squared maximum mean discrepancy under a polynomial kernel, without bias."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from genzoo.metrics.arrays import alike, blocks
from genzoo.metrics.intervals import Replicates

Kernel = Callable[[Tensor, Tensor], Tensor]  # (a, d), (b, d) -> (a, b)


def polynomial(x: Tensor, y: Tensor, degree: int, gamma: float, coef0: float) -> Tensor:
    """(x.y gamma + coef0)^degree of all pairs, (a, d) and (b, d) -> (a, b)."""
    return (x @ y.T).mul_(gamma).add_(coef0).pow_(degree)


def kernel_distance(
    x: Tensor | ArrayLike, y: Tensor | ArrayLike, degree: int = 3, gamma: float | None = None, coef0: float = 1.0
) -> float:
    """The U-statistic of MMD^2 over all of x (n, d) and y (m, d); it may be negative. gamma None is 1/d.

    Binkowski et al. (2018), who average it over subsets of 1,000: same expectation, more noise.
    Raises ValueError for fewer than two samples, features that do not fit or are not finite.
    """
    x, y, kernel = _checked(x, y, degree, gamma, coef0)
    return _unbiased(within(x, kernel), between(x, y, kernel), within(y, kernel), len(x), len(y))


def kernel_jackknife(
    x: Tensor | ArrayLike,
    y: Tensor | ArrayLike,
    n_blocks: int = 10,
    degree: int = 3,
    gamma: float | None = None,
    coef0: float = 1.0,
) -> Replicates:
    """`kernel_distance`, and its values with each of `n_blocks` runs of consecutive rows of x left out.

    It costs as much as `kernel_distance` alone, since all come from the sums over pairs of blocks. Rows in random
    order. Raises ValueError as that does, and for blocks of fewer than two samples.
    """
    x, y, kernel = _checked(x, y, degree, gamma, coef0)
    if not 2 <= n_blocks <= len(x) // 2:
        raise ValueError(f"kernel_jackknife takes 2 to n / 2 = {len(x) // 2} blocks, got {n_blocks}.")
    parts, m = x.tensor_split(n_blocks), len(y)
    across, own_y = [between(part, y, kernel) for part in parts], within(y, kernel)
    pairs = _block_sums(parts, kernel)  # (blocks, blocks)

    def without(i: int) -> float:
        rest = pairs.sum() - 2 * pairs[i].sum() + pairs[i, i]
        return _unbiased(rest.item(), sum(across) - across[i], own_y, len(x) - len(parts[i]), m)

    value = _unbiased(pairs.sum().item(), sum(across), own_y, len(x), m)
    return Replicates(value, [without(i) for i in range(n_blocks)])


def between(x: Tensor, y: Tensor, kernel: Kernel) -> float:
    """The sum of the kernel over all pairs of a row of x and one of y."""
    return sum(kernel(a, b).sum().item() for _, a in blocks(x) for _, b in blocks(y))


def within(x: Tensor, kernel: Kernel) -> float:
    """The sum of the kernel over all ordered pairs of two different rows of x."""
    total = 0.0
    for place, block in blocks(x):
        own = kernel(block, block)
        total += (own.sum() - own.trace()).item() + 2 * between(block, x[place.stop :], kernel)
    return total


def _block_sums(parts: Sequence[Tensor], kernel: Kernel) -> Tensor:
    """(blocks, blocks) sums over ordered pairs of rows, one of each block; a row is no pair with itself."""
    sums = torch.diag(torch.tensor([within(part, kernel) for part in parts], dtype=torch.float64))
    for i, j in combinations(range(len(parts)), 2):
        sums[i, j] = sums[j, i] = between(parts[i], parts[j], kernel)
    return sums


def _unbiased(own_x: float, across: float, own_y: float, n: int, m: int) -> float:
    return own_x / (n * (n - 1)) - 2 * across / (n * m) + own_y / (m * (m - 1))


def _checked(
    x: Tensor | ArrayLike, y: Tensor | ArrayLike, degree: int, gamma: float | None, coef0: float
) -> tuple[Tensor, Tensor, Kernel]:
    x, y = alike(x, y)
    if min(len(x), len(y)) < 2:
        raise ValueError(f"A kernel distance needs two samples or more of each, got {len(x)} and {len(y)}.")
    gamma = 1 / x.shape[1] if gamma is None else gamma
    return x, y, partial(polynomial, degree=degree, gamma=gamma, coef0=coef0)
