"""The Fréchet distance between two Gaussians, a pure function in float64."""

import torch
from torch import Tensor


def frechet_distance(mu1: Tensor, cov1: Tensor, mu2: Tensor, cov2: Tensor) -> float:
    """|mu1 - mu2|^2 + tr(cov1 + cov2 - 2 (cov1 cov2)^(1/2)) of means (d,) and symmetric covariances (d, d).

    With R = cov1^(1/2), cov1 cov2 and the symmetric R cov2 R have the same eigenvalues, so no root of a
    general matrix is needed. Takes tensors or arrays. Dowson and Landau (1982); Heusel et al. (2017).
    Raises ValueError for NaN, infinity or shapes that do not fit.
    """
    mu1, cov1, mu2, cov2 = (torch.as_tensor(a, dtype=torch.float64) for a in (mu1, cov1, mu2, cov2))
    shapes = [tuple(a.shape) for a in (mu1, cov1, mu2, cov2)]
    d = mu1.numel()
    if shapes != [(d,), (d, d), (d,), (d, d)]:
        raise ValueError(f"frechet_distance takes means (d,) and covariances (d, d), got shapes {shapes}.")
    if not all(a.isfinite().all() for a in (mu1, cov1, mu2, cov2)):
        raise ValueError("frechet_distance got NaN or infinite statistics: look for non-finite features.")
    values, vectors = torch.linalg.eigh(cov1)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T  # (d, d), R
    cross = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    return ((mu1 - mu2).square().sum() + cov1.trace() + cov2.trace() - 2 * cross).item()
