"""Hostile files: what a run folder from elsewhere cannot do, by whichever command it is opened."""

import ast
import hashlib
import io
import os
import pickle
import struct
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir

import genzoo
from genzoo import runs
from genzoo.command import conf_folder, plain

PACKAGE = Path(genzoo.__file__).parent


class Payload:
    """Unpickling it creates a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple:
        return os.system, (f"touch '{self.canary}'",)


@pytest.fixture(scope="module")
def config() -> str:
    """The configuration of a VAE, as YAML."""
    with initialize_config_dir(config_dir=conf_folder(), version_base="1.3"):
        return yaml.safe_dump(plain(compose("config", overrides=["folder=unused", "model=vae", "width=8"])))


@pytest.fixture
def run_folder(config: str, tmp_path: Path) -> Path:
    """The folder of a run that has not saved yet."""
    runs.claim(tmp_path, yaml.safe_load(config))
    return tmp_path


def sealed(content: object, file: BinaryIO) -> None:
    """As genzoo seals its own checkpoints, so that the checksum is right: anybody can."""
    raw = io.BytesIO()
    torch.save(content, raw)
    ended = raw.getvalue()[:-2] + struct.pack("<H", 71)
    file.write(ended + b"sha256 " + hashlib.sha256(ended).hexdigest().encode())


@pytest.mark.parametrize("write", [pickle.dump, torch.save, sealed])
@pytest.mark.parametrize("whole", [True, False])
def test_a_checkpoint_with_a_payload_is_refused(write, whole: bool, run_folder: Path) -> None:
    canary, path = run_folder / "ran", run_folder / "checkpoints/last.ckpt"
    payload = Payload(canary)
    path.parent.mkdir()
    with open(path, "wb") as file:
        write(payload if whole else {"state_dict": {}, "images_seen": payload}, file)
    with pytest.raises(ValueError, match=r"last\.ckpt") as refusal:
        genzoo.load(run_folder)
    assert not canary.exists() and "Traceback" not in str(refusal.value)
    if write is not pickle.dump:
        torch.load(path, weights_only=False)
        assert canary.exists()  # it would have


@pytest.mark.parametrize("key", ["model", "model.head", "data.source", "callbacks.ema", "features"])
def test_a_run_folder_that_names_a_command_is_refused(key: str, run_folder: Path) -> None:
    canary = run_folder / "ran"
    *parents, last = key.split(".")
    settings = node = runs.read_settings(run_folder)
    for parent in parents:
        node = node[parent]
    node[last] = {"_target_": "os.system", "_args_": [f"touch '{canary}'"]}
    (run_folder / runs.SETTINGS).write_text(yaml.safe_dump(settings))
    with pytest.raises(ValueError, match=rf"{key}\._target_=os\.system may not be called.*allow=\[os\]"):
        genzoo.load(run_folder)
    assert not canary.exists()


@pytest.mark.parametrize("tool", ["sample", "score", "edit", "export", "interop"])
def test_no_command_calls_what_a_run_folder_names(tool: str, run_folder: Path, monkeypatch, capsys) -> None:
    canary = run_folder / "ran"
    settings = runs.read_settings(run_folder)
    settings["data"]["source"] = {"_target_": "os.system", "_args_": [f"touch '{canary}'"]}
    (run_folder / runs.SETTINGS).write_text(yaml.safe_dump(settings))
    runs.write_json(run_folder / runs.METRICS, {"scores": {}, "provenance": {}})
    more = ["image=x.png", "mask=x.png"] if tool == "edit" else []
    monkeypatch.setattr(sys, "argv", [tool, f"run={run_folder}", *more])
    monkeypatch.chdir(run_folder)
    with pytest.raises(SystemExit) as stop:
        import_module(f"genzoo.{tool}").main()
    assert stop.value.code == 2
    assert "data.source._target_=os.system may not be called" in capsys.readouterr().err
    assert not canary.exists()


def test_users_may_allow_their_own_model(run_folder: Path, monkeypatch) -> None:
    (run_folder / "mymodels.py").write_text("from genzoo.models.vae import VAE\nclass Mine(VAE):\n    pass\n")
    monkeypatch.syspath_prepend(run_folder)
    settings = runs.read_settings(run_folder)
    settings["model"]["_target_"] = "mymodels.Mine"
    (run_folder / runs.SETTINGS).write_text(yaml.safe_dump(settings))
    with pytest.raises(ValueError, match=r"model\._target_=mymodels\.Mine may not be called.*allow=\[mymodels\]"):
        genzoo.load(run_folder)
    with pytest.raises(FileNotFoundError, match="not saved yet"):  # the model itself is let through
        genzoo.load(run_folder, allow=["mymodels"])


def test_a_report_calls_nothing_that_a_run_folder_names(run_folder: Path) -> None:
    canary = run_folder / "ran"
    settings = runs.read_settings(run_folder)
    settings["model"] = {"_target_": "os.system", "command": f"touch '{canary}'", "_args_": [f"touch '{canary}'"]}
    (run_folder / runs.SETTINGS).write_text(yaml.safe_dump(settings))
    record = {"protocol": {}, "protocol_id": "x", "scores": {}, "cost": {}, "provenance": {"family": "os"}}
    runs.write_json(run_folder / runs.METRICS, record)
    subprocess.run(
        [sys.executable, "-m", "genzoo.report", str(run_folder)], check=True, cwd=PACKAGE.parent, capture_output=True
    )
    assert (run_folder / "report/index.html").is_file()
    assert not canary.exists()


@cache
def nodes() -> list[tuple[Path, ast.AST]]:
    """Every node of our code that calls or imports."""
    kinds = ast.Call | ast.Import | ast.ImportFrom
    files = {file: ast.walk(ast.parse(file.read_text())) for file in sorted(PACKAGE.rglob("*.py"))}
    return [(file, node) for file, walk in files.items() for node in walk if isinstance(node, kinds)]


def test_no_code_of_ours_unpickles_or_opens_a_shell() -> None:
    """torch.load always says weights_only=True; YAML is read by safe_load; no shell, eval, exec or archive."""
    loads = 0
    for file, call in nodes():
        if not isinstance(call, ast.Call):
            continue
        where = f"{file.name}:{call.lineno}: {ast.unparse(call)}"
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        name = ast.unparse(call.func)
        assert given.get("shell", "False") == "False" and given.get("allow_pickle", "False") == "False", where
        assert given.get("weights_only", "True") == "True" and given.get("trust_remote_code", "False") == "False", where
        assert name not in {"eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"}, where
        assert not name.endswith((".extractall", ".extract", "load_from_checkpoint", "unpack_archive")), where
        if name == "torch.load":
            loads += 1
            assert given["weights_only"] == "True", where
    assert loads > 0


def test_no_module_of_ours_imports_a_way_to_unpickle() -> None:
    barred = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "tarfile"}
    for file, node in nodes():
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        assert not barred & {name.split(".")[0] for name in names}, file


def test_only_fetch_takes_a_file_from_the_network() -> None:
    """Elsewhere a URL is only asked whether anybody answers."""
    for file, node in nodes():
        text = ast.unparse(node)
        if file.name == "fetch.py" or not isinstance(node, ast.Call):
            continue
        assert not text.startswith(("urlretrieve(", "requests.", "torch.hub.load", "torch.hub.download")), (file, text)
        assert not text.startswith("urlopen(") or "method='HEAD'" in text, (file, text)
