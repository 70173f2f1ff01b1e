"""Scores of a classifier's logits: how sure it is of each sample, and which classes the samples fall in."""

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from genzoo.metrics.arrays import as_features, blocks


def inception_score(logits: Tensor | ArrayLike) -> float:
    """exp of the mean KL(p(y|x) || p(y)) over all samples at once, logits (n, K): from 1 to K.

    Salimans et al. (2016), who average over ten splits; with more samples it needs no splits, and depends less on n.
    Raises ValueError for another shape or logits that are not finite.
    """
    logits = as_features(logits)
    log_p = torch.cat([block.log_softmax(1) for _, block in blocks(logits)])  # (n, K)
    log_marginal = log_p.logsumexp(0) - torch.tensor(float(len(log_p)), dtype=torch.float64).log()  # (K,)
    return (log_p.exp() * (log_p - log_marginal)).sum(1).mean().exp().item()


def class_shares(logits: Tensor | ArrayLike) -> Tensor:
    """The share (K,) of samples whose highest logit is that class, float64, logits (n, K)."""
    logits = as_features(logits)
    return logits.argmax(1).bincount(minlength=logits.shape[1]).double() / len(logits)


def entropy(shares: Tensor | ArrayLike) -> float:
    """-sum p log p in nats of shares (K,), which sum to 1: log K at most; a share of 0 adds 0."""
    shares = torch.as_tensor(shares, dtype=torch.float64)
    return torch.special.entr(shares).sum().item()
