"""table.tex: the tables of table.md in LaTeX, the same cells, the same bold, the protocol as caption."""

import re
from collections.abc import Sequence

import numpy as np

from genzoo.report import calls, notes, protocol, sheets
from genzoo.report.table import Cell, Group, Sheet, score_sheet

HEAD = "% In the preamble: \\usepackage{booktabs,adjustbox}; figures/*.pdf go with \\usepackage{graphicx}.\n"
WIDE = 6  # columns of numbers that a page has room for; in a table of more columns intervals stand below the values
NAMES = ("Rank", "Run", "Seeds")
ESCAPES = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "\N{NO-BREAK SPACE}": "~",
    "–": "--",
    "“": "``",
    "”": "''",
    "’": "'",
    "…": r"\dots{}",
    **{
        c: f"$\\{name}$"
        for c, name in {"∞": "infty", "↓": "downarrow", "↑": "uparrow", "≤": "leq", "≥": "geq", "≈": "approx"}.items()
    },
    "±": r"$\pm$",
    "×": r"$\times$",
    "²": "$^2$",
    "µ": r"$\mu$",
}


def to_latex(tables: Sequence[Group]) -> str:
    """Scores, calls, order, likelihood and cost of every group, a table environment each, labelled tab:scores-1 on."""
    return HEAD + "".join(_group(group, i) for i, group in enumerate(tables, 1))


def _group(group: Group, number: int) -> str:
    scored = f"Protocol {number} ({group.protocol_id}): {protocol.in_words(group.protocol)} {notes.of_scores(group)}"
    found = [("scores", score_sheet(group), scored)]
    found += [("calls", sheet, calls.note(group)) for sheet in [calls.sheet(group)] if sheet]
    found += [("order", sheet, sheets.order_note(group)) for sheet in [sheets.order_sheet(group)] if sheet]
    found += [("likelihood", s, "Likelihood of held-out images.") for s in [sheets.likelihood_sheet(group)] if s]
    found += [("cost", sheets.cost_sheet(group), notes.of_costs(group))]
    return "".join(_table(sheet, caption, f"tab:{name}-{number}") for name, sheet, caption in found)


def _table(sheet: Sheet, caption: str, label: str) -> str:
    """A wide sheet in parts below each other, each with the names of the rows."""
    head = [r"\begin{table}", r"\centering", r"\small", rf"\caption{{{escaped(caption)}}}", rf"\label{{{label}}}"]
    parts = "\n\n\\medskip\n".join(map(_tabular, _parts(sheet)))
    return "\n".join(["", *head, r"\setlength{\tabcolsep}{4pt}", parts, r"\end{table}", ""])


def _parts(sheet: Sheet) -> list[Sheet]:
    """The columns of names with at most WIDE others at a time, evenly."""
    names = sum(head in NAMES for head in sheet.head)
    count = max(1, -(-(len(sheet.head) - names) // WIDE))
    columns = np.array_split(np.arange(names, len(sheet.head)), count)
    chosen = [[*range(names), *map(int, part)] for part in columns]
    return [
        Sheet([sheet.head[i] for i in part], *([[line[i] for i in part] for line in lines] for lines in sheet[1:]))
        for part in chosen
    ]


def _tabular(sheet: Sheet) -> str:
    wide = len(sheet.head) > WIDE
    foot = [r"\midrule", *(_line(line, wide, italic=True) for line in sheet.foot)] if sheet.foot else []
    return "\n".join(
        [
            r"\begin{adjustbox}{max width=\textwidth}",
            rf"\begin{{tabular}}{{{''.join('l' if head in sheets.WORDS else 'r' for head in sheet.head)}}}",
            r"\toprule",
            " & ".join(map(escaped, sheet.head)) + r" \\",
            r"\midrule",
            *(_line(line, wide) for line in sheet.body),
            *foot,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{adjustbox}",
        ]
    )


def _line(line: Sequence[Cell], wide: bool, italic: bool = False) -> str:
    """A row of the table; in a wide one the intervals stand below their values. italic: the name, as in table.md."""
    texts = [cell.text if wide else f"{cell.text} {cell.detail}".strip() for cell in line]
    values = [_bold(escaped(text), cell.best) for text, cell in zip(texts, line, strict=True)]
    if italic:
        values[1] = rf"\textit{{{values[1]}}}"
    details = [_bold(escaped(cell.detail), cell.best) for cell in line]
    below = " & ".join(rf"{{\scriptsize {detail}}}" if detail else "" for detail in details) + r" \\[2pt]"
    return " & ".join(values) + r" \\" + (f"\n{below}" if wide and any(details) else "")


def _bold(text: str, best: bool) -> str:
    return rf"\textbf{{\boldmath {text}}}" if best else text


def escaped(text: str) -> str:
    """Text that LaTeX prints as it is, in one line; other letters beyond ASCII stay as UTF-8."""
    return "".join(ESCAPES.get(letter, letter) for letter in re.sub(r"[ \t\r\n]+", " ", text))
