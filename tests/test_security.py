"""Hostile files and leaking secrets: what a run folder from elsewhere can do, and what a run of one's own tells."""

import ast
import base64
import gzip
import hashlib
import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

import genzoo
from genzoo import runs
from genzoo.command import conf_folder, plain
from genzoo.provenance import provenance, redacted, refuse_secrets
from genzoo.trust import check

PACKAGE = Path(genzoo.__file__).parent
CONF = Path(conf_folder())
LINEAR = {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1}
METHOD = "hydra.utils.get_method"
TINY = [
    "width=8",
    "budget.images=256",
    "budget.checks=1",
    "metrics.n=32",
    "metrics.n_likelihood=16",
    "callbacks.judge.n=16",
    "trainer=cpu",
]

REFUSED = [
    "os.system",
    "posix.system",
    "builtins.eval",
    "builtins.exec",
    "builtins.__import__",
    "subprocess.Popen",
    "functools.partial",
    "importlib.import_module",
    "runpy.run_path",
    "pickle.loads",
    "numpy.load",
    "torch.load",
    "torch.hub.load",
    "torch.os.system",
    "torch.serialization.load",
    "torch.utils.cpp_extension.load",
    "torch.nn.modules.module.os.system",
    "torch.nn.attention._fa3._fa3_import_module",
    "torch.nn.functional.importlib.import_module",
    "torch.optim.optimizer.torch.load",
    "torch.nn.functional.handle_torch_function",  # defined in torch.overrides
    "genzoo.nets.conv.nn.Linear",  # harmless, but by a detour
    "nflows.transforms.base.torch.load",
    "genzoo.runs.os.system",
    "genzoo.nets.conv.torch.hub.load",
    "genzoo.models.vae.VAE.load_from_checkpoint",  # unpickles
    "genzoo.runs.load",
    "genzoo.runs.write_json",  # writes anywhere
    "genzoo.files.write_bytes",
    "genzoo.files.sweep_parts",
    "genzoo.data.idx.download",
    "genzoo.metrics.cache.keep",
    "genzoo.metrics.features.load_classifier",
    "genzoo.processes.launch",
    "hydra.utils.instantiate",
    "hydra.utils.call",
    "hydra.utils.get_method",  # without a path here, where it could be judged
    "genzoo",
    "genzoo.nets",
    "genzoo.nets..Encoder",
    "genzoo.nets.conv.Missing",
    "genzoo.nets.missing.Encoder",
    "",
    None,
    7,
    ["os.system"],
]
WRAPPED = [  # how deep it may hide
    lambda node: node,
    lambda node: {"net": {"layers": [LINEAR, [LINEAR, node]]}},
    lambda node: {**LINEAR, "_args_": [node]},
    lambda node: {**LINEAR, "bias": {"_convert_": "all", "inner": node}},
]


@pytest.mark.parametrize("target", REFUSED, ids=str)
def test_code_from_elsewhere_is_refused(target: object) -> None:
    for wrap in WRAPPED:
        for more in ({}, {"_partial_": True}, {"_args_": ["true"], "path": "genzoo.nets.conv.zero", "_partial_": True}):
            with pytest.raises(ValueError, match=r"_target_=.* may not be called.*only if you trust .*allow="):
                check({"model": wrap({"_target_": target, **more})})


@pytest.mark.parametrize(
    "lookup",
    [
        {"path": "os.system"},
        {"path": "genzoo.runs.os.system"},
        {"path": "torch.load"},
        {"path": "torch.float32.__class__"},
        {"path": "genzoo.nets.conv.identity", "_partial_": True},  # whose path a caller may exchange
        {"path": "genzoo.nets.conv.identity", "_args_": ["os.system"]},
        {"path": {"_target_": "genzoo.nets.conv.identity"}},
        {"_args_": ["os.system"]},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["get_method", "get_class", "get_object"])
def test_lookups_are_judged_by_what_they_find(name: str, lookup: dict) -> None:
    with pytest.raises(ValueError, match=r"model\.(path|_target_)=.* may not be called"):
        check({"model": {"_target_": f"hydra.utils.{name}", **lookup}})


@pytest.mark.parametrize(
    "node",
    [
        LINEAR,
        {"_target_": "torch.nn.functional.silu", "_partial_": True},
        {"_target_": "torch.optim.AdamW", "_partial_": True},
        {"_target_": "torch.optim.lr_scheduler.StepLR", "_partial_": True, "step_size": 1},
        {"_target_": "nflows.distributions.StandardNormal", "shape": [2]},
        {"_target_": METHOD, "path": "genzoo.nets.conv.identity"},
        {"_target_": "hydra.utils.get_object", "path": "torch.float64"},
        {"_target_": "genzoo.diffusion.schedules.cosine", "steps": 3},
    ],
    ids=lambda node: node["_target_"],
)
def test_harmless_code_is_let_through_and_hydra_finds_it(node: dict) -> None:
    check({"model": [node]})
    assert instantiate(node, _convert_="all") is not None


GROUPS = ("model", "data", "sampler", "spacing", "head", "nets", "features", "metrics", "trainer", "logger")


def every_choice() -> Iterator[tuple[str, ...]]:
    """Overrides that together name each file of conf's groups, one of each group at a time."""
    files = {group: sorted(file.stem for file in (CONF / group).glob("*.yaml")) for group in GROUPS}
    for i in range(max(map(len, files.values()))):
        yield tuple(f"{group}={names[i % len(names)]}" for group, names in files.items())


@pytest.mark.parametrize("overrides", every_choice(), ids=",".join)
def test_whatever_conf_offers_is_let_through(overrides: tuple[str, ...], settings, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    check(settings(*overrides, *(["data.path=/p"] if "data=folder" in overrides else [])))


def test_alternatives_named_in_comments_are_let_through() -> None:
    text = "".join(file.read_text() for file in CONF.glob("*/*.yaml"))
    named = set(re.findall(r"genzoo\.(?:models|nets|diffusion)\.\w+\.\w+", text))
    assert len(named) > 50
    for target in named:
        check({"_target_": target})


def test_users_own_code_has_to_be_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is not even imported before; and to allow it does not allow what it imports."""
    (tmp_path / "mynets").mkdir()
    (tmp_path / "mynets/__init__.py").write_text("")
    (tmp_path / "mynets/small.py").write_text("import os\nclass Net:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = {"model": {"net": {"_target_": "mynets.small.Net"}}}
    for allow in ((), ("mynet",), ("mynets.other",)):
        with pytest.raises(ValueError, match=r"model\.net\._target_=mynets\.small\.Net .*allow=\[mynets\]"):
            check(config, allow)
        assert "mynets.small" not in sys.modules
    for allow in (("mynets",), ["torch", "mynets.small"], "mynets"):
        check(config, allow)
    with pytest.raises(ValueError, match="may not be called"):
        check({"model": {"_target_": "mynets.small.os.system"}}, ["mynets"])


def test_nothing_is_imported_to_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = tmp_path / "ran"
    (tmp_path / "hostile.py").write_text(f"open({str(canary)!r}, 'w')\ndef model():\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="may not be called"):
        check({"model": {"_target_": "hostile.model"}})
    assert not canary.exists()


@pytest.mark.parametrize("hidden", [lambda s: s, lambda s: [{"a": s}], lambda s: {**LINEAR, "bias": f"x{s}"}])
def test_interpolations_are_refused(hidden) -> None:
    with pytest.raises(ValueError, match=r"data.*\$\{oc\.env:HF_TOKEN\} is an interpolation"):
        check({"data": hidden("${oc.env:HF_TOKEN}")})


def test_endless_configurations_are_refused() -> None:
    bomb = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi")
    )
    for text in (bomb, "&a [*a]", "&a {b: *a}"):
        with pytest.raises(ValueError, match="no run wrote it"):
            check(yaml.safe_load(text))


# --- Files that run code when they are opened.


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


@pytest.mark.parametrize("tool", ["sample", "score", "edit", "export"])
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


def test_a_secret_on_the_command_line_leaves_no_folder(tmp_path: Path, monkeypatch, capsys) -> None:
    """Hydra would name a folder after it."""
    monkeypatch.setattr(sys, "argv", ["genzoo.run", "model=vae", "+data.token=hf_secret", *TINY])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        import_module("genzoo.run").main()
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "+data.token=***: a secret" in error and "hf_secret" not in error
    assert not list(tmp_path.iterdir())


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
        assert given.get("weights_only", "True") == "True" and "trust_remote_code" not in given, where
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


# --- What a run of one's own gives away.

CANARIES = {
    "WANDB_API_KEY": "0123456789canaryofwandb0123456789abcdef0",  # 40 characters, as W&B demands
    "HF_TOKEN": "hf_canaryofhuggingfaceabcdefghijklmn",
    "AWS_SECRET_ACCESS_KEY": "canaryofaws/K7MDENG+bPxRfiCYEXAMPLEKEY",
}


def contents(path: Path) -> Iterator[bytes]:
    """The bytes of a file, and what is compressed in it."""
    raw = path.read_bytes()
    yield raw
    if raw[:2] == b"\x1f\x8b":
        yield gzip.decompress(raw)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(name) for name in archive.namelist())


def files_with(text: str, folder: Path) -> list[Path]:
    """The files below a folder that hold a text, in their names too, as it is or in base64."""
    forms = [text.encode(), base64.b64encode(text.encode()).rstrip(b"="), base64.b64encode(f"api:{text}".encode())]
    return [
        path
        for path in sorted(folder.rglob("*"))
        if text in str(path) or (path.is_file() and any(form in raw for raw in contents(path) for form in forms))
    ]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder and home where one run failed with a traceback and one was scored, with secrets in the environment."""
    folder = tmp_path_factory.mktemp("told")
    where = {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / ".cache"), "PYTHONPATH": str(PACKAGE.parent)}
    given = {"WANDB_MODE": "offline", "OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "1", **where, **CANARIES}
    sweep = ["-m", "model=vae", "metrics.reference=tests,train", "study=findable", "logger=wandb", *TINY]
    call = subprocess.run(
        [sys.executable, "-m", "genzoo.run", *sweep], cwd=folder, env=os.environ | given, capture_output=True
    )
    (folder / "screen.txt").write_bytes(call.stdout + call.stderr)
    return folder


def test_a_run_and_a_traceback_tell_no_secret(told: Path) -> None:
    assert len(list(told.rglob("metrics.json"))) == 1 and len(list(told.rglob("*.wandb"))) >= 1
    assert any("Traceback" in path.read_text() for path in told.rglob("failed.txt"))
    assert any(path.suffix == ".wandb" for path in files_with("findable", told))  # where W&B keeps text in the clear
    for name, canary in CANARIES.items():
        assert not files_with(canary, told), name


def test_the_search_finds_what_is_hidden(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("b", b"x" * 1000 + b"secret")
    (tmp_path / "c").write_bytes(gzip.compress(b"secret"))
    (tmp_path / "d").write_bytes(base64.b64encode(b"secret"))
    (tmp_path / "token=secret").mkdir()
    (tmp_path / "e").write_bytes(b"secre")
    assert [path.name for path in files_with("secret", tmp_path)] == ["a.npz", "c", "d", "token=secret"]


@pytest.mark.parametrize(
    "override",
    [
        "+data.token=CANARY",
        "++data.hf_token='CANARY, b'",
        "+data.login={user:me,password:CANARY}",
        '+data.login={user: me, "apikey": "CANARY, b"}',
        "+logger.wandb.settings.api_key=CANARY",
        "+aws.secret_access_key=a,CANARY",
        "data.repo=https://me:CANARY@example.org/x",
        "+SECRET=CANARY",
    ],
)
def test_secrets_among_overrides_are_neither_kept_nor_taken(override: str) -> None:
    record = provenance([override, "model=vae"], started=0.0)
    assert "CANARY" not in json.dumps(record) and record["overrides"][1] == "model=vae"
    with pytest.raises(ValueError, match=r"\*\*\*.*: a secret among the overrides.*environment") as refusal:
        refuse_secrets(["model=vae", override])
    assert "CANARY" not in str(refusal.value)


@pytest.mark.parametrize("override", ["model.net.key_dim=8", "+model.tokens=4", "study=monkey", "data.path=/a=b", "-m"])
def test_other_overrides_stay_as_they_are(override: str) -> None:
    refuse_secrets([override])
    assert redacted(override) == override
