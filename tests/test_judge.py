"""A judge outside genzoo: a support vector machine that knows real digits looks at every family's samples.

`python tests/test_judge.py outputs/demo/*/seed=0` prints its verdict on finished runs of the digits.
"""

import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from genzoo import load
from genzoo.metrics.draw import draw
from genzoo.run import finish

DEMO = {"vae": 0.60, "gan": 0.60, "ddpm": 0.60, "flow": 0.35}  # of the share of real digits that convince the judge
LONG = {"vae": 0.85, "gan": 0.85, "ddpm": 0.85, "flow": 0.60}  # after five times the budget


@cache
def judge() -> tuple[SVC, float]:
    """A classifier of 1,400 real digits, and the share of the others that it is over 80% sure of."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    svc = SVC(C=10, probability=True, random_state=0).fit(x[:1400], y[:1400])
    return svc, confident(svc, x[1400:])[0]


def confident(svc: SVC, x: np.ndarray) -> tuple[float, float]:
    """The share of x (n, 64), in 0..16, with a class over 80% likely, and the share of the rarest class."""
    likely = svc.predict_proba(x)
    return (likely.max(1) > 0.8).mean(), np.bincount(likely.argmax(1), minlength=10).min() / len(x)


def verdict(fake: np.ndarray) -> tuple[float, float]:
    svc, real = judge()
    share, rarest = confident(svc, fake.reshape(len(fake), 64) / 255 * 16)
    return share / real, rarest


def judged(run_dir: Path) -> tuple[float, float]:
    """The verdict on 1,000 samples of a finished run."""
    fake = draw(load(run_dir).sample, 1000, 250, seed=0)
    return verdict(fake.numpy())


def test_the_judge_knows_digits_from_noise():
    _, real = judge()
    assert 0.8 < real < 0.97
    noise = np.random.default_rng(0).integers(0, 256, (400, 1, 8, 8))
    assert verdict(noise)[0] < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 5])
@pytest.mark.parametrize("family", DEMO)
def test_samples_convince_the_judge(family, times, settings, tmp_path):
    budget = times * settings()["budget"]["images"]
    finish(settings(f"model={family}", f"budget.images={budget}"), tmp_path, [])
    convinced, rarest = judged(tmp_path)
    print(f"{family} x{times}: {convinced:.3f} of the real rate, rarest class {rarest:.3f}")
    assert convinced >= (DEMO if times == 1 else LONG)[family]
    assert rarest >= 0.03


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        convinced, rarest = judged(Path(folder))
        print(f"{folder}: {convinced:.3f} of the real rate, rarest class {rarest:.3f}")
