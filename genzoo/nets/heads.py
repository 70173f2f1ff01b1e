"""What a decoder's output means: p(x | z) of 8-bit images, as a density on [-1, 1] of the dequantised image.

A head has `parameters_of(channels)`, the channels it asks of the decoder; `log_prob(x, out)`, (n,) nats; and
`mean(out)`, the image to show, a Gaussian's perhaps outside [-1, 1]. Discrete heads spread each level's probability
evenly over its bin, so that log_prob of every head, and of a flow, can be read in the same bits per dimension.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BIN = 1 / 127.5  # the width of one of the 256 levels in [-1, 1]


class Gaussian(nn.Module):
    """N(mu, sigma^2) with one sigma: fixed, or with None learned as the weights are (sigma-VAE, Rybkin et al. 2021)."""

    def __init__(self, sigma: float | None = None) -> None:
        super().__init__()
        if sigma is not None and sigma <= 0:
            raise ValueError(f"sigma={sigma} is no standard deviation: give a positive one, or null to learn it")
        self.log_sigma = nn.Parameter(torch.tensor(math.log(sigma or 0.3)), requires_grad=sigma is None)

    def parameters_of(self, channels: int) -> int:
        return channels

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        z = (x - out) * torch.exp(-self.log_sigma)
        return (-0.5 * z**2 - self.log_sigma - 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)

    def mean(self, out: Tensor) -> Tensor:
        return out


class DiscretisedLogistics(nn.Module):
    """A mixture of K logistics a value, integrated over the value's bin (Salimans et al. 2017, without the
    dependence between colour channels)."""

    def __init__(self, components: int = 5) -> None:
        super().__init__()
        self.components = components

    def parameters_of(self, channels: int) -> int:
        return 3 * self.components * channels

    def split(self, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(n, 3 K C, H, W) -> log weights, means and log scales, each (n, K, C, H, W)."""
        logits, mean, log_scale = out.unflatten(1, (3, self.components, -1)).unbind(1)
        spread = torch.linspace(-1, 1, self.components, device=out.device)[:, None, None, None]
        return logits.log_softmax(1), mean + spread, (log_scale - 2).clamp(min=-7)

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        log_weight, mean, log_scale = self.split(out)
        level = ((x * 127.5 + 128).floor().clamp(0, 255) / 127.5 - 1)[:, None]  # the bin's centre
        upper = (level + BIN / 2 - mean) * torch.exp(-log_scale)
        lower = (level - BIN / 2 - mean) * torch.exp(-log_scale)
        # sigmoid(u) - sigmoid(l) = sigmoid(u) sigmoid(-l) (1 - exp(l - u)), stable in both tails
        inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(lower - upper))
        log_bin = torch.where(level < -0.999, F.logsigmoid(upper), inside)
        log_bin = torch.where(level > 0.999, F.logsigmoid(-lower), log_bin)
        return (torch.logsumexp(log_weight + log_bin, 1) - math.log(BIN)).flatten(1).sum(1)

    def mean(self, out: Tensor) -> Tensor:
        log_weight, mean, _ = self.split(out)
        return (log_weight.exp() * mean.clamp(-1, 1)).sum(1).clamp(-1, 1)


class Bernoulli(nn.Module):
    """Black or white for binary images: x > 0 with probability sigmoid(out), spread over 128 levels each."""

    def parameters_of(self, channels: int) -> int:
        return channels

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        sign = torch.where(x > 0, 1.0, -1.0)
        return (F.logsigmoid(sign * out) - math.log(128 * BIN)).flatten(1).sum(1)

    def mean(self, out: Tensor) -> Tensor:
        return 2 * torch.sigmoid(out) - 1
