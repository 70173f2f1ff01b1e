"""Which noise goes with which image of a batch."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def optimal_transport(x: Tensor, noise: Tensor) -> Tensor:
    """The noise (n, C, H, W) in the order that brings it nearest to x in squared distance: straighter paths (Pooladian
    et al. 2023; Tong et al. 2024, algorithm 3)."""
    cost = torch.cdist(x.flatten(1), noise.flatten(1)).square()
    _, order = linear_sum_assignment(cost.cpu().numpy())
    return noise[torch.from_numpy(order).to(x.device)]
