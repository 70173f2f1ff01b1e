"""Where a run came from: command, code and libraries. No secret, no environment."""

import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from genzoo import __version__

PACKAGES = ("torch", "pytorch-lightning", "torchmetrics", "hydra-core", "nflows", "numpy")
# A key that ends like one of a secret, with its value: data.token=..., {api_key: ...}; and the user of a URL.
SECRET = re.compile(
    r"((?<![a-z0-9])(?:\w*_|api|auth|access)?(?:token|key|secret|password|passwd|passphrase|credentials?)['\"]?\s*[=:]\s*)"
    r"""('(?:\\.|[^'])*'|"(?:\\.|[^"])*"|[^,}\]]+)|(?<=://)[^/@\s]+(?=@)""",
    re.IGNORECASE,
)


def provenance(overrides: list[str], started: float, **facts: Any) -> dict[str, Any]:
    """The command that repeats the run, its code and its libraries; `started` in seconds since 1970."""
    overrides = [redacted(override) for override in overrides]
    return {
        **facts,
        "overrides": overrides,
        "command": command_line("genzoo.run", overrides),
        **git_state(Path(__file__).parent),
        "versions": {
            "genzoo": __version__,
            "python": sys.version.split()[0],
            **{package: version(package) for package in PACKAGES},
        },
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def redacted(override: str) -> str:
    """An override without what looks like a secret in it.

    >>> redacted("+data.token=hf_1,hf_2"), redacted("+data.login={user: me, api_key: '1 2'}")
    ('+data.token=***', '+data.login={user: me, api_key: ***}')
    >>> redacted("data.repo=https://me:hf_1@hub/x"), redacted("model.net.tokens=4")
    ('data.repo=https://***@hub/x', 'model.net.tokens=4')
    """
    key, equals, _ = override.partition("=")
    if equals and SECRET.fullmatch(f"{key.rpartition('.')[2].lstrip('+')}=x"):
        return f"{key}=***"
    return SECRET.sub(lambda found: f"{found[1] or ''}***", override)


def refuse_secrets(overrides: list[str]) -> None:
    """Raise ValueError for an override with a secret: it would lie in config.yaml, W&B's files and a folder's name."""
    for override in overrides:
        if redacted(override) != override:
            raise ValueError(
                f"{redacted(override)}: a secret among the overrides is written into every run folder; "
                "give it by the environment instead, as HF_TOKEN or WANDB_API_KEY"
            )


def command_line(module: str, overrides: list[str]) -> str:
    """What to type into a shell."""
    return " ".join(["python -m", module, *map(shlex.quote, overrides)])


def git_state(folder: Path) -> dict[str, Any]:
    """Commit and dirty flag of the checkout that `folder` is in; None for both outside one."""

    def git(*arguments: str) -> str | None:
        try:
            call = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return call.stdout.strip()

    if git("ls-files", "--error-unmatch", "provenance.py") is None:  # installed inside somebody else's checkout
        return {"git_commit": None, "git_dirty": None}
    return {"git_commit": git("rev-parse", "HEAD"), "git_dirty": bool(git("status", "--porcelain"))}
