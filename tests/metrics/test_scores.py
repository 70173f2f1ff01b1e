"""Scores that share one computation are those that each computes by itself."""

from pathlib import Path

import pytest
import torch

from genzoo.metrics.reference import Reference
from genzoo.metrics.scores import kernel, neighbourhoods, pairwise


@pytest.mark.parametrize(("n", "m", "blocks"), [(90, 70, 7), (15, 60, 5), (60, 12, 10)])
def test_pairwise(n: int, m: int, blocks: int, tmp_path: Path) -> None:
    real, fake = torch.randn(n, 20), torch.randn(m, 20) * 1.1 + 0.2
    reference = Reference(real, real, real, "FD-test", cache_dir=tmp_path)
    expected = kernel(fake, reference, 3, blocks) | neighbourhoods(fake, reference, 5, blocks)
    found = pairwise(fake, reference, 3, 5, blocks)
    assert found.keys() == expected.keys()
    for name, score in expected.items():
        assert found[name].value == pytest.approx(score.value, rel=1e-9)
        assert found[name].ci95 == (score.ci95 and pytest.approx(score.ci95, rel=1e-9))
