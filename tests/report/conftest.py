"""Run folders as genzoo.run leaves them, small and with numbers that a test chooses."""

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sklearn.datasets import load_digits

PROTOCOL = {
    "dataset": "digits",
    "dataset_sha256": "ab" * 32,
    "image_shape": [1, 8, 8],
    "reference": "train",
    "n_real": 1000,
    "n_fake": 400,
    "features": "digits",
    "features_sha256": "cd" * 32,
    "quantisation": "uint8: (x * 127.5 + 128).clip(0, 255)",
    "seed": 0,
}
CALIBRATION = {"uniform noise": 400.5, "real test": 2.31, "blurred real": 90.125}
COST = {
    "parameters": 410_123,
    "images_seen": 100_000,
    "training_seconds": 87.25,
    "images_per_second": 1024.0,
    "peak_memory_bytes": None,
    "sampling_seconds_per_image": 0.0031,
    "nfe": 50,
    "device": "cpu",
}
SIZES = [400, 200, 133, 100, 80]


def write_run(
    folder: Path,
    family: str = "vae",
    value: float | None = 38.4,
    seed: int = 0,
    protocol_id: str = "3f9a1c22d0be",
    score: str = "FD-digits",
    protocol: dict[str, Any] | None = None,
    overrides: tuple[str, ...] = (),
    config: dict[str, Any] | None = None,
    shape: tuple[int, int, int] = (1, 8, 8),
    **metrics: Any,
) -> Path:
    """One run folder; value None leaves it unfinished; metrics: sections of metrics.json instead of the usual."""
    folder.mkdir(parents=True)
    model = {"_target_": f"genzoo.models.{family}.{family.upper()}"}
    given = {"seed": seed, "study": "demo", "model": model, "budget": {"images": 1000}} | (config or {})
    (folder / "config.yaml").write_text(yaml.safe_dump(given))
    with open(folder / "curves.csv", "w", newline="") as file:
        rows = [(i, i / 10, name, 3.0 / i) for i in range(100, 1100, 100) for name in ("train/loss", f"score/{score}")]
        csv.writer(file).writerows([("images", "seconds", "name", "value"), *rows])
    pixels = np.random.default_rng(seed).integers(0, 256, (2, 64, *shape), dtype=np.uint8)
    np.savez(folder / "samples.npz", fake=pixels[0], real=pixels[1])
    if value is not None:
        usual = {
            "protocol": PROTOCOL | (protocol or {}),
            "protocol_id": protocol_id,
            "scores": {score: {"value": value, "n": 400}},
            "calibration": {name: {score: {"value": v, "n": 400}} for name, v in CALIBRATION.items()},
            "cost": COST,
            "provenance": {
                "family": family,
                "overrides": [f"model={family}", f"seed={seed}", *overrides],
                "command": f"python -m genzoo.run model={family} seed={seed}",
                "versions": {"torch": "2.13.0"},
            },
        }
        (folder / "metrics.json").write_text(json.dumps(usual | metrics))
    return folder


def again(folder: Path, value: float, nfe: float, *added: str) -> None:
    """A record as genzoo.score writes it beside the run's own, with another first score."""
    record: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    record["scores"][next(iter(record["scores"]))] |= {"value": value, "ci95": [0.9 * value, 1.1 * value]}
    record["cost"] |= {"nfe": nfe, "sampling_batch": 64}
    record["provenance"]["overrides"] += added
    record["provenance"] |= {"sampling": " ".join(added), "command": f"python -m genzoo.score {added[0]}"}
    name = re.sub(r"\W", "", "".join(added))
    (folder / f"metrics-{name}.json").write_text(json.dumps(record))
    (folder / f"samples-{name}.npz").write_bytes((folder / "samples.npz").read_bytes())


def likely(family: str, noise: float) -> list[dict[str, Any]]:
    """Every way in which a family states its likelihood."""
    ways = {
        "vae": [("lower bound", "ELBO", 4.31), ("lower bound", "IWAE, k = 64", 4.02)],
        "flow": [("exact", "change of variables", 3.12)],
        "ddpm": [("lower bound", "VLB, 100 of 1000 terms", 3.64), ("estimate", "probability-flow ODE, rtol 1e-4", 3.2)],
    }
    return [
        {"value": v + noise, "ci95": [v + noise - 0.05, v + noise + 0.05], "n": 400, "kind": kind, "method": method}
        for kind, method, v in ways.get(family, [])
    ]


def entry(value: float, half: float, **more: Any) -> dict[str, Any]:
    return {"value": value, "n": 400, "ci95": [value - half, value + half], **more}


def standard(fd: float, noise: float, shares: np.ndarray, ways: list[dict[str, Any]]) -> dict[str, Any]:
    """The scores of metrics=standard around a distance `fd`; noise moves them all a little."""
    line = [0.93 * fd + 36 / n for n in SIZES]
    fit = {"n": SIZES, "values": [v + noise / 30 for v in line], "slope": 36.0, "r2": 0.98 - abs(noise)}
    good = np.exp(-fd / 5)
    scores = {
        "FD-digits": entry(fd, 0.08),
        "FD∞-digits": entry(0.93 * fd, 0.1, fit=fit),
        "KD-digits": entry(0.02 * fd - 0.004, 0.003),
        "precision": entry(0.9 * good + noise / 5, 0.03),
        "recall": entry(0.85 * good - noise / 5, 0.03),
        "density": entry(1.05 * good + noise / 5, 0.05),
        "coverage": entry(0.93 * good - noise / 5, 0.02),
        "IS-digits": entry(9.4 * good**0.3, 0.06),
        "class entropy": entry(float(-(shares * np.log(shares + 1e-12)).sum()), 0.01, shares=shares.tolist()),
        "AuthPct": entry(61.2 + 20 * noise, 2.4),
        "C_T": entry(1.2 + 9 * noise, 1.9),
    }
    bits = {"bits/dim": {key: ways[0][key] for key in ("value", "ci95", "n", "kind", "method")}} if ways else {}
    return scores | bits


def calibrated() -> dict[str, Any]:
    even = np.full(10, 0.1)
    rows = {"real test": 0.112, "real train": 0.031, "blurred real": 8.99, "uniform noise": 24.7}
    return {name: standard(fd, 0.0, even, []) for name, fd in rows.items()}


def write_study(folder: Path, seeds: int = 3) -> Path:
    """Four families on the digits with every score of metrics=standard, and neighbours of their samples."""
    random = np.random.default_rng(0)
    digits = (load_digits().images * (255 / 16)).astype(np.uint8)[:, None]  # (1797, 1, 8, 8)
    families = {"vae": (0.77, 18, 47), "gan": (1.52, 25, 109), "ddpm": (1.58, 25, 120), "flow": (2.07, 35, 101)}
    for family, (fd, blur, seconds) in families.items():
        for seed in range(seeds):
            noise = float(random.normal(0, 0.05))
            shares = random.dirichlet(np.full(10, 400.0)) * ([1] * 9 + [0.05 if family == "gan" else 1])
            ways = likely(family, noise)
            home = folder / f"model={family}" / f"seed={seed}"
            write_run(
                home,
                family,
                seed=seed,
                config={
                    "folder": f"outputs/study/model={family}/seed={seed}",
                    "callbacks": {"judge": {"path": f"outputs/study/model={family}/seed={seed}/samples.png"}},
                    "data": {"name": "digits", "seed": seed},
                },
                scores=standard(fd * (1 + noise), noise, shares / shares.sum(), ways),
                likelihoods=ways,
                calibration=calibrated(),
                cost=COST
                | {
                    "training_seconds": seconds * (1 + noise),
                    "training_multiply_adds_per_image": 3.1e6 * seconds,
                    "sampling_multiply_adds_per_image": 1.2e6 * (50 if family == "ddpm" else 1),
                    "latency_seconds": 2.1e-3 * (50 if family == "ddpm" else 1),
                    "sampling_batch": 256,
                    "nfe": 50 if family == "ddpm" else 1,
                    "peak_memory_bytes": 544366592,
                },
            )
            save_samples(home, digits, blur, random)
    return folder


def save_samples(home: Path, digits: np.ndarray, blur: float, random: np.random.Generator) -> None:
    """Noisy digits as samples, and of each the nearest digit of the others in pixels."""
    picked = random.permutation(len(digits))
    fake = (digits[picked[:64]] + random.normal(0, blur, (64, 1, 8, 8))).clip(0, 255).astype(np.uint8)
    train = digits[picked[64:]].astype(float)
    squares = ((fake[:, None].astype(float) - train[None]) ** 2).sum(axis=(2, 3, 4))  # (64, train)
    nearest = train[squares.argmin(axis=1)].astype(np.uint8)
    real = digits[picked[64:128]]
    np.savez(home / "samples.npz", fake=fake, real=real, nearest=nearest, distance=squares.min(axis=1) ** 0.5)


@pytest.fixture
def make_run() -> Callable[..., Path]:
    return write_run


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 12 finished runs: 4 families, 3 seeds each; tests only read it."""
    return write_study(tmp_path_factory.mktemp("runs") / "study")
