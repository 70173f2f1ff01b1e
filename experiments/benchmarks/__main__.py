"""python -m experiments.benchmarks [only=SUBJECT] [repeats=5] [threads=N]: ours against peers on the same work.

Subjects: scores, data, overhead, unets, sampling, flows, players, loops, gpu. Each race runs both sides in turn in one
process and prints the median ratio of their times with its least and greatest. Peers: pip install -e .[bench].
"""

import importlib
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import torch

from experiments.benchmarks.race import row

HEAD = """| Work | Peer | Ours | Peer's | Ratio | Parameters | Multiply-adds | Difference |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"""
SUBJECTS = ("scores", "data", "overhead", "unets", "sampling", "flows", "players", "loops", "gpu")
PACKAGES = (
    *("torch", "torchmetrics", "scipy", "scikit-learn", "prdc", "diffusers", "torchcfm", "smalldiffusion"),
    *("denoising-diffusion-pytorch", "normflows", "nflows", "pythae"),
)


def installed(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"


def machine() -> str:
    """Where the figures come from, in one line."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    versions = ", ".join(installed(package) for package in PACKAGES)
    cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return f"{device}, {cores}; Python {platform.python_version()}, {versions}"


def main(arguments: list[str]) -> None:
    """Raises SystemExit with the usage for an argument or a subject that it does not know."""
    options = {"only": "", "repeats": "5", "threads": "1"} | dict(a.partition("=")[::2] for a in arguments)
    if options.keys() - {"only", "repeats", "threads"} or options["only"] not in ("", *SUBJECTS):
        raise SystemExit(__doc__)
    torch.set_num_threads(int(options["threads"]))
    print(f"{machine()}\n\n{HEAD}")
    for subject in [options["only"]] if options["only"] else SUBJECTS:
        for race in importlib.import_module(f"experiments.benchmarks.{subject}").races():
            print(row(race, int(options["repeats"])), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
