"""Edges as Canny (1986) finds them: one pixel wide, strong ones and the weak ones that continue them."""

import torch
import torch.nn.functional as F
from torch import Tensor


def canny(x: Tensor, sigma: float, low: float, high: float) -> Tensor:
    """(n, 1, H, W) bool: the edges of x (n, C, H, W) in [-1, 1], where the channel that changes most changes most.

    sigma: of the blur before, in pixels. low, high: thresholds of Sobel's gradient, of which 1 is a step from -1 to 1
    without blur; gradients from `low` on are edges where a chain of them leads to one of at least `high`.
    On a GPU it waits for the device, once for each pixel of the longest such chain.
    """
    gradient, size = steepest(sobel(blurred(x, sigma)))
    thin = size * ridges(gradient, size)
    weak, edges = (thin >= low).to(x), (thin >= high).to(x)
    while not torch.equal(grown := F.max_pool2d(edges, 3, 1, 1) * weak, edges):
        edges = grown
    return edges.bool()


def blurred(x: Tensor, sigma: float) -> Tensor:
    """x (n, C, H, W) under a Gaussian that is cut off at four sigma and weighs nothing outside the image."""
    reach = int(4 * sigma + 0.5)
    places = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (places / sigma).square())
    for shape, padding in (((1, 1, -1, 1), (reach, 0)), ((1, 1, 1, -1), (0, reach))):
        weights = kernel.view(shape)
        seen = F.conv2d(torch.ones_like(x[:1, :1]), weights, padding=padding)
        x = F.conv2d(x.flatten(0, 1)[:, None], weights, padding=padding).view_as(x) / seen
    return x


def sobel(x: Tensor) -> Tensor:
    """(n, C, 2, H, W): the gradient of x (n, C, H, W) across and down, 1 for a step from -1 to 1 along an axis."""
    across = x.new_tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]) / 8
    kernels = torch.stack([across, across.T])[:, None]  # (2, 1, 3, 3)
    padded = F.pad(x.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, kernels).unflatten(0, x.shape[:2])


def steepest(gradients: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient (n, 2, H, W) of the channel that changes most at each pixel, of (n, C, 2, H, W), and its size
    (n, 1, H, W)."""
    size, channel = gradients.norm(dim=2).max(dim=1, keepdim=True)
    places = channel[:, :, None].expand(-1, -1, 2, -1, -1)
    return gradients.gather(1, places)[:, 0], size


def ridges(gradient: Tensor, size: Tensor) -> Tensor:
    """(n, 1, H, W): whether no gradient a step ahead or behind along gradient (n, 2, H, W) is larger than size
    (n, 1, H, W); a step leads between two neighbours, whose sizes are interpolated."""
    around = F.unfold(F.pad(size, (1, 1, 1, 1)), 3).view(len(size), 9, *size.shape[2:])
    signs, steep = gradient.sign(), gradient.abs()
    larger, smaller = steep.amax(1, keepdim=True), steep.amin(1, keepdim=True)
    share = torch.where(larger > 0, smaller / larger, 0)  # of the neighbour on the diagonal
    ahead = torch.where(steep == larger, signs, 0)  # the neighbour along the larger part; on a tie the diagonal one
    kept = torch.ones_like(size, dtype=torch.bool)
    for side in (1, -1):
        beside, diagonal = (around.gather(1, place(side * step)) for step in (ahead, signs))
        kept &= torch.lerp(beside, diagonal, share) <= size
    return kept


def place(step: Tensor) -> Tensor:
    """(n, 1, H, W): of a step (n, 2, H, W) across and down by -1, 0 or 1, where it leads among nine neighbours."""
    across, down = step.long().unbind(1)
    return (3 * (down + 1) + across + 1)[:, None]
