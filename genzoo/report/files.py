"""Every figure as a file of its own, SVG and PDF, for papers and slides."""

import re
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment

from genzoo.files import write_bytes
from genzoo.report import palette, pdf
from genzoo.report.drawing import standalone
from genzoo.report.figures import Panel

FONT = "Helvetica, Arial, sans-serif"


def save(groups: Sequence[Sequence[Panel]], folder: Path, environment: Environment) -> list[Path]:
    """Writes each group's panels as NAME.svg and NAME.pdf in the light scheme; returns the SVG files.

    A panel is named after its title and what it is drawn against; from the second group on with its number before.
    """
    svg = environment.get_template("figure.svg").module.svg
    written = []
    for number, panels in enumerate(groups, 1):
        for name, panel in _named(panels).items():
            path = folder / f"{'' if number == 1 else f'{number}-'}{name}.svg"
            drawing = standalone(panel)
            size = {"xmlns": "http://www.w3.org/2000/svg", "width": drawing.width, "height": drawing.height}
            write_bytes(path, str(svg(drawing, literal, alt(panel), size | {"font-family": FONT})).encode())
            pdf.save(drawing, path.with_suffix(".pdf"), alt(panel))
            written.append(path)
    return written


def literal(colour: str) -> str:
    return palette.LIGHT[colour] if colour else "none"


def variable(colour: str) -> str:
    """As a variable of the page's style, which has two schemes."""
    return f"var(--{colour})" if colour else "none"


def alt(panel: Panel) -> str:
    """The panel in words; of a scatter also which settings are on its front."""
    words = f"{panel.title} against {panel.against}, of {', '.join(name for name, _ in panel.legend)}"
    best = [line.name for line in panel.lines if any(filled for *_, filled in line.marks)]
    return words + (f"; on the Pareto front: {', '.join(best)}" if best else "")


def _named(panels: Sequence[Panel]) -> dict[str, Panel]:
    """A file name a panel: letters, digits and hyphens; a number behind one that is taken."""
    found: dict[str, Panel] = {}
    for panel in panels:
        against = "" if panel.against == "images seen" else f" against {panel.against.partition(',')[0]}"
        name = slug(panel.title + against)
        taken = [other for other in found if other == name or re.fullmatch(rf"{re.escape(name)}-\d+", other)]
        found[f"{name}-{len(taken) + 1}" if taken else name] = panel
    return found


def slug(text: str, most: int = 80) -> str:
    """Lower-case ASCII letters and digits, all else as hyphens."""
    text = text.replace("∞", "-inf").lower()
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")[:most].rstrip("-") or "figure"
