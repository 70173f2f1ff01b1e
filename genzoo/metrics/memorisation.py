"""Are samples copies of training images: how near they lie to these, beside how near real images lie."""

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from genzoo.metrics.arrays import alike
from genzoo.metrics.neighbours import nearest
from genzoo.metrics.prdc import radii

ENOUGH = 20  # generated samples in a cell, below which it has no say: the paper's tau of 20 / m


def authenticity(
    train: Tensor | ArrayLike, fake: Tensor | ArrayLike, train_nn: Tensor | ArrayLike | None = None
) -> float:
    """AuthPct: the percentage of fake (m, d) that are authentic among train (n, d).

    A sample is authentic if its nearest training image is nearer to another training image than to the sample.
    train_nn: `radii(train, 1)`, to compute it once. Without any copying it is not 50%: compare with real images
    that no model saw. Alaa et al. (2022), authenticity. Raises ValueError for features or train_nn that do not fit.
    """
    train, fake = alike(train, fake)
    train_nn = radii(train, 1) if train_nn is None else torch.as_tensor(train_nn).to(train.device, torch.float64)
    if train_nn.shape != (len(train),):
        raise ValueError(f"train_nn are {tuple(train_nn.shape)} for {len(train)} rows: give radii(train, 1).")
    if not train_nn.isfinite().all():
        raise ValueError("train_nn hold NaN or infinity: give radii(train, 1).")
    found = nearest(fake, train)
    authentic = found.distances[:, 0] > train_nn[found.indices[:, 0]]
    return 100 * authentic.sum().item() / len(fake)


def copying(
    train: Tensor | ArrayLike, test: Tensor | ArrayLike, fake: Tensor | ArrayLike, cells: int = 3, seed: int = 0
) -> float:
    """C_T: in standard deviations, how much farther than test images samples lie from their nearest training image.

    Far below 0: copies, or modes that shrank; above 0: samples farther off than real images; 0 has variance 1 or less.
    The `mann_whitney_z` of the distances within each of the k-means `cells` of train, averaged with the weights of
    test's shares over the cells that have `ENOUGH` samples. Meehan, Chaudhuri & Dasgupta (2020), section 4.
    Raises ValueError for features that do not fit, or if no cell has enough samples and a test image.
    """
    train, test = alike(train, test)
    train, fake = alike(train, fake)
    centres = _centres(train, cells, seed)
    train_cell, test_cell, fake_cell = (nearest(x, centres).indices[:, 0] for x in (train, test, fake))
    total = weight = 0.0
    for cell in range(cells):
        here, ours, theirs = train[train_cell == cell], fake[fake_cell == cell], test[test_cell == cell]
        if len(ours) >= ENOUGH and len(theirs) > 0:
            z = mann_whitney_z(nearest(ours, here).distances[:, 0], nearest(theirs, here).distances[:, 0])
            total, weight = total + len(theirs) * z, weight + len(theirs)
    if weight == 0:
        raise ValueError(f"C_T needs a cell with {ENOUGH} samples and a test image: draw more samples.")
    return total / weight


def _centres(x: Tensor, cells: int, seed: int) -> Tensor:
    """(cells, d) of k-means."""
    from sklearn.cluster import KMeans  # a second to import

    means = KMeans(cells, n_init=1, random_state=seed).fit(x.cpu().numpy()).cluster_centers_
    return torch.as_tensor(means, device=x.device)


def mann_whitney_z(a: Tensor, b: Tensor) -> float:
    """How many standard deviations the U of a (n,) over b (m,), pairs with a > b, is above its null's mean n m / 2.

    Ties count half (mid-ranks), and the null's variance allows for them; 0 if all values are equal.
    """
    n, m = len(a), len(b)
    _, group, counts = torch.cat([a, b]).unique(return_inverse=True, return_counts=True)
    counts = counts.double()
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[group]  # (n + m,)
    u = ranks[:n].sum() - n * (n + 1) / 2
    ties = (counts**3 - counts).sum() / ((n + m) * (n + m - 1))
    variance = n * m / 12 * (n + m + 1 - ties)
    return ((u - n * m / 2) / variance.sqrt()).item() if variance > 0 else 0.0
