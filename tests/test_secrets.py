"""Secrets: none in any file or line that a run leaves, in its W&B files and tracebacks neither."""

import base64
import gzip
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from genzoo.provenance import provenance, redacted, refuse_secrets
from tests.conftest import FRESH

TINY = [
    "width=8",
    "budget.images=256",
    "budget.checks=1",
    "metrics.n=32",
    "metrics.n_likelihood=16",
    "callbacks.judge.n=16",
    "trainer=cpu",
]

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
    where = {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / ".cache")}
    given = {"WANDB_MODE": "offline", "HYDRA_FULL_ERROR": "1", **where, **CANARIES}
    sweep = ["-m", "model=vae", "metrics.reference=tests,train", "study=findable", "logger=wandb", *TINY]
    process = FRESH.Process(target=typed, args=(folder, given, sweep))
    process.start()
    process.join()
    assert process.exitcode == 2
    return folder


def typed(folder: Path, given: dict[str, str], arguments: list[str]) -> None:
    """What a process does in place of a command line; screen.txt gets what it prints, warnings of libraries too."""
    os.chdir(folder)
    for name in [name for name in os.environ if "WANDB" in name]:  # of tests before
        del os.environ[name]
    os.environ |= given
    screen = os.open("screen.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(screen, 1), os.dup2(screen, 2)
    sys.argv = ["genzoo.run", *arguments]
    import_module("genzoo.run").program()


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


def test_a_secret_on_the_command_line_leaves_no_folder(tmp_path: Path, monkeypatch, capsys) -> None:
    """Hydra would name a folder after it."""
    monkeypatch.setattr(sys, "argv", ["genzoo.run", "model=vae", "+data.token=hf_secret", *TINY])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        import_module("genzoo.run").main()
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "+data.token=***: a secret" in error and "hf_secret" not in error
    assert not list(tmp_path.iterdir())
