"""Run folders as genzoo.run leaves them, small and with numbers that a test chooses."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

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
) -> Path:
    """One run folder; value None leaves it unfinished."""
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
        metrics = {
            "protocol": PROTOCOL | (protocol or {}),
            "protocol_id": protocol_id,
            "scores": {score: {"value": value, "n": 400}},
            "calibration": {name: {score: {"value": v, "n": 400}} for name, v in CALIBRATION.items()},
            "cost": {
                "parameters": 410_123,
                "images_seen": 100_000,
                "training_seconds": 87.25,
                "images_per_second": 1024.0,
                "peak_memory_bytes": None,
                "sampling_seconds_per_image": 0.0031,
                "nfe": 50,
                "device": "cpu",
            },
            "provenance": {
                "family": family,
                "overrides": [f"model={family}", f"seed={seed}", *overrides],
                "command": f"python -m genzoo.run model={family} seed={seed}",
                "versions": {"torch": "2.13.0"},
            },
        }
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


@pytest.fixture
def make_run() -> Callable[..., Path]:
    return write_run
