"""python -m experiments.benchmarks.processes [repeats=5]: what a second process adds to a training on the CPU.

A DDPM of the 8x8 digits, 64 to a process and step, one thread each: images a second of two processes over twice those
of one. Work on other cores counts against it.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

OVERRIDES = (
    *("model=ddpm", "data=digits", "width=32", "metrics=none", "trainer.accelerator=cpu"),
    *("budget.checks=1", "callbacks.judge.n=1", "steps=2"),
)


def images_per_second(processes: int, images: int, *overrides: str) -> float:
    """As a run of its own counts them, its validation left out."""
    several = ["trainer=ddp", f"trainer.devices={processes}"] if processes > 1 else []
    with tempfile.TemporaryDirectory() as folder:
        chosen = [*OVERRIDES, *several, f"budget.images={images}", *overrides, f"folder={folder}/run"]
        command = [sys.executable, "-m", "genzoo.run", *chosen, f"hydra.run.dir={folder}/run"]
        done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        return json.loads(Path(folder, "run", "metrics.json").read_text())["cost"]["images_per_second"]


def main(repeats: int = 5, images: int = 12_800, *overrides: str) -> None:
    print("| Images/s, 1 process | 2 processes | Efficiency |\n| ---: | ---: | ---: |")
    found = []
    for _ in range(repeats):
        one, two = images_per_second(1, images, *overrides), images_per_second(2, 2 * images, *overrides)
        found.append(two / one / 2)
        print(f"| {one:.0f} | {two:.0f} | {found[-1]:.2f} |", flush=True)
    print(f"median {median(found):.2f} ({min(found):.2f} to {max(found):.2f})")


if __name__ == "__main__":
    main(**{key: int(value) for key, _, value in (argument.partition("=") for argument in sys.argv[1:])})
