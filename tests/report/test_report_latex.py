"""table.tex has the cells of table.md, and text that LaTeX would read as commands stays text."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from genzoo.report import latex, table
from genzoo.report.runs import find

Make = Callable[..., Path]
EVIL = r"50% & $x_1^2 # {a}~\input|<b>"


def printed(text: str) -> str:
    """What LaTeX would print of escaped text: the names of its characters turned back."""
    names = {
        "textbackslash": "\\",
        "textasciitilde": "~",
        "textasciicircum": "^",
        "textless": "<",
        "textgreater": ">",
        "textbar": "|",
    }
    text = re.sub(r"\\(text\w+)\{\}", lambda found: names[found[1]], text)
    return re.sub(r"\\([&%$#_{}])", r"\1", text)


def test_hostile_text_is_printed_as_it_is() -> None:
    assert printed(latex.escaped(EVIL)) == EVIL
    assert not re.search(r"(?<!\\)[&%$#_^~]", latex.escaped(EVIL))


def test_the_cells_are_those_of_the_page_and_the_best_is_bold(tmp_path: Path, make_run: Make) -> None:
    make_run(tmp_path / "a", "vae", 38.4, overrides=("note=a_b",))
    make_run(tmp_path / "b", "gan", 21.7)
    text = latex.to_latex(table.groups(find([tmp_path])))
    scores = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    rows = [line.removesuffix(r" \\").split(" & ") for line in scores.splitlines() if line.endswith(r"\\")]
    assert rows[0] == ["1", "GAN", "1 seed", r"\textbf{\boldmath 21.7}"]
    assert rows[1] == ["2", r"VAE, note=a\_b", "1 seed", "38.4"]
    assert rows[2] == ["", r"\textit{real test (floor)}", "", "2.3"]
    assert scores.count(r"\midrule") == 2
    assert "Protocol 1 (3f9a1c22d0be): 400 generated images against 1,000 real ones" in text


def test_every_environment_is_closed_and_every_row_has_its_columns(study: Path) -> None:
    text = latex.to_latex(table.groups(find([study])))
    assert sorted(re.findall(r"\\begin\{(\w+)\}", text)) == sorted(re.findall(r"\\end\{(\w+)\}", text))
    for columns, inside in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        rows = [line for line in inside.splitlines() if r" \\" in line]
        assert rows
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(columns)}


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex")
def test_latex_sets_it(tmp_path: Path, make_run: Make) -> None:
    make_run(tmp_path / "a", overrides=(f"note={EVIL}",))
    body = latex.to_latex(table.groups(find([tmp_path])))
    head = r"\documentclass{article}\usepackage{booktabs,adjustbox}\begin{document}"
    (tmp_path / "t.tex").write_text(head + body + r"\end{document}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-500:]
