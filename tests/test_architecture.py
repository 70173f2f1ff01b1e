"""Who may know whom: each room imports only the rooms named for it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import genzoo

ROOT = Path(genzoo.__file__).parent
ALLOWED = {  # what a room may import of genzoo besides itself
    "nets": set(),
    "diffusion": set(),
    "data": {"fetch", "files"},
    "report": {"files"},
    "metrics": {"generator", "fetch", "files"},
    "told": {"generator", "nets"},
    "models": {"generator", "nets", "diffusion", "told"},
    "budget": {"generator", "metrics"},
    "callbacks": {"budget", "files", "generator", "pictures", "loggers"},
    "checkpoints": {"budget", "files", "generator", "signals"},
    "finite": {"generator"},
    "fetch": {"files"},
    "files": set(),
    "generator": set(),
}


def imports(file: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function, with the names it takes from it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py")) or [ROOT / f"{room}.py"]


@pytest.mark.parametrize("room", ALLOWED)
def test_rooms(room: str) -> None:
    for file in files(room):
        known = {name.split(".")[1] for name in imports(file) if name.startswith("genzoo.")}
        if file.name == "train_features.py":  # a command, which needs images to train on
            known -= {"data"}
        if file.name == "learned_variance.py":  # a variety of diffusion.py
            known -= {"models"}
        # a family may not import another: models is no room of its own to itself
        assert known - ({room} - {"models"}) <= ALLOWED[room], file


def test_nflows_stays_in_one_file() -> None:
    users = {f.name for f in ROOT.rglob("*.py") if any(n.split(".")[0] == "nflows" for n in imports(f))}
    assert users == {"invertible.py"}


@pytest.mark.parametrize("module", ["genzoo", "genzoo.report", "genzoo.report.page", "genzoo.report.__main__"])
def test_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT.parent)
