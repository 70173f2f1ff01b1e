"""Scores of logits against torchmetrics, scipy and their bounds."""

import math

import pytest
import torch
from scipy import stats
from torch import nn
from torchmetrics.image.inception import InceptionScore

from genzoo.metrics.classes import class_shares, entropy, inception_score


class Identity(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.double()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_torchmetrics() -> None:
    logits = torch.randn(500, 7).double() * 3
    theirs = InceptionScore(feature=Identity(), splits=1)
    theirs.update(logits)
    assert inception_score(logits) == pytest.approx(theirs.compute()[0].item(), rel=1e-6)


def test_bounds() -> None:
    assert inception_score(torch.eye(10).repeat(3, 1) * 1e3) == pytest.approx(10, rel=1e-12)
    assert inception_score(torch.randn(1, 10).repeat(50, 1)) == pytest.approx(1, rel=1e-12)


def test_mutual_information_of_two_classes() -> None:
    # Half the samples are of class 1 with p, half with 1 - p: log 2 - H(p).
    p = torch.tensor([0.9, 0.1], dtype=torch.float64)
    expected = 2 * math.exp(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert inception_score(torch.stack([p.log(), p.flip(0).log() + 5])) == pytest.approx(expected, rel=1e-12)


def test_shares() -> None:
    logits = torch.tensor([[0.0, 3, 1], [2, 0, 1], [0, 1, 0], [5, 9, 0]])
    assert class_shares(logits).tolist() == [0.25, 0.75, 0]


def test_entropy() -> None:
    shares = torch.tensor([0.5, 0.2, 0.3, 0.0], dtype=torch.float64)
    assert entropy(shares) == pytest.approx(stats.entropy(shares.numpy()), rel=1e-12)
    assert entropy([0.25] * 4) == pytest.approx(math.log(4), rel=1e-12)


def test_refuses_non_finite_logits() -> None:
    with pytest.raises(ValueError, match="NaN"):
        inception_score(torch.tensor([[0.0, torch.nan]]))
