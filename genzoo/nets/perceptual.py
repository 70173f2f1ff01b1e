"""Perceptual losses: images are alike when the activations of a classifier are (Johnson et al. 2016)."""

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class Perceptual:
    """loss(x_hat, x) -> (): mean squared distance of a classifier's activations, of unit length at each place, added up
    over its blocks: LPIPS (Zhang et al. 2018, equation 1) with all of its weights 1.

    net: `prepare(images in 0..255)` and `body`, whose members' outputs are compared: genzoo's own classifiers. Scores
    in the features of the same classifier flatter a model that was trained by it.
    No nn.Module, so that these weights are none of the model's.
    """

    def __init__(self, net: nn.Module, weight: float = 1.0) -> None:
        if not (hasattr(net, "prepare") and hasattr(net, "body")):
            raise ValueError(
                f"{type(net).__name__} shows no activations: give perceptual.net one of genzoo's own classifiers"
            )
        self.net, self.weight = net.float().eval().requires_grad_(False), weight

    def __call__(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """x_hat and x (n, C, H, W) in [-1, 1]; gradients reach x_hat."""
        self.net.to(x.device)
        pairs = zip(self.activations(x_hat), self.activations(x.detach()), strict=True)
        return self.weight * sum((a - b).square().sum(1).mean() for a, b in pairs)

    def activations(self, x: Tensor) -> list[Tensor]:
        """Of each convolutional block, (n, c, h, w) of unit length along c."""
        h, found = self.net.prepare((x + 1) * 127.5), []
        for block in self.net.body:
            h = block(h)
            if h.dim() == 4:
                found.append(F.normalize(h, dim=1, eps=1e-6))
        return found


def lpips(net: str = "vgg", weight: float = 1.0) -> Callable[[Tensor, Tensor], Tensor]:
    """LPIPS with its learned weights, of "vgg", "alex" or "squeeze", from the package of that name.

    Raises ImportError if it, or the torchvision that it needs, is not there.
    """
    try:
        from lpips import LPIPS
    except (ImportError, RuntimeError) as error:  # a torchvision of another torch raises the latter
        raise ImportError("LPIPS needs its package and torchvision: pip install genzoo[lpips]") from error
    module = LPIPS(net=net, verbose=False).eval().requires_grad_(False)

    def loss(x_hat: Tensor, x: Tensor) -> Tensor:
        """Of images (n, 1 or 3, H, W) in [-1, 1]."""
        return weight * module.to(x.device)(coloured(x_hat), coloured(x.detach())).mean()

    return loss


def coloured(x: Tensor) -> Tensor:
    """Grey images (n, 1, H, W) with three equal channels; others as they are."""
    shape: Sequence[int] = (len(x), 3, *x.shape[2:])
    return x.expand(shape) if x.shape[1] == 1 else x
