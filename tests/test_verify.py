"""genzoo.verify: every check holds here, and a check that does not is said and counted."""

import re
from pathlib import Path

import pytest

from genzoo import verify
from genzoo.verify import Check

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


@pytest.fixture(scope="module")
def checks() -> dict[str, Check]:
    return {check.name: check for check in verify.checks()}


def test_every_check_holds(checks: dict[str, Check]) -> None:
    assert len(checks) == 20
    assert not [str(check) for check in checks.values() if not check.holds]


def test_the_panel_in_the_readme_is_what_comes_out(checks: dict[str, Check]) -> None:
    text = (EXPERIMENTS / "metric_panel" / "README.md").read_text()
    row = re.search(r"\| drops 4 of 8 modes \|(.*)\|", text)[1].split("|")
    head = re.search(r"\| Generator \|(.*)\|", text)[1].split("|")
    shown = {name.strip(): float(cell.split("±")[0]) for name, cell in zip(head, row)}
    for name in ("recall", "coverage"):
        assert shown[name] == pytest.approx(checks[f"ring, 4 of 8 modes dropped: {name}"].got, abs=6e-4)


@pytest.mark.parametrize(
    ("check", "holds"),
    [
        (Check("", 1.0, 1.05, 0.1), True),
        (Check("", 1.0, 1.2, 0.1), False),
        (Check("", 1.0, float("nan"), 0.1), False),
        (Check("", 1.0, 0.9, None), True),
        (Check("", 1.0, 1.0, None), False),
        (Check("", 1.0, float("nan"), None), False),
    ],
)
def test_a_check(check: Check, holds: bool) -> None:
    assert check.holds == holds
    assert str(check).endswith("FAILED") != holds


def test_a_failure_is_the_exit_code(monkeypatch, capsys) -> None:
    good, bad = Check("good", 1.0, 1.0, 0.0), Check("bad", 1.0, 2.0, 0.0)
    monkeypatch.setattr(verify, "checks", lambda: iter([good, bad]))
    assert verify.main() == 1
    assert "1 failed" in capsys.readouterr().out
    monkeypatch.setattr(verify, "checks", lambda: iter([good]))
    assert verify.main() == 0
    assert "all hold" in capsys.readouterr().out


def test_a_damaged_extractor_is_noticed(monkeypatch) -> None:
    monkeypatch.setitem(verify.SHA256, "digits", "00" * 32)
    failed = [check.name for check in verify.extractor_checks() if not check.holds]
    assert failed == ["sha256 of the extractor digits, first digits"]
