"""A figure as a list of paths and words, which the page, an SVG file and a PDF draw alike."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from genzoo.report import palette
from genzoo.report.figures import LEFT, TOP, Line, Panel

CHARACTER = 5.8  # the mean width of a letter at 11 pixels, to lay out what cannot be measured
LEADING = 15


class Shape(NamedTuple):
    """An SVG path of absolute M, L, H, V and Z. stroke and fill name a colour of the palette, "" for none."""

    path: str
    stroke: str = ""
    fill: str = ""
    width: float = 1
    dash: str = ""
    opacity: float = 1
    title: str = ""


class Words(NamedTuple):
    """A line of text; anchor: start, middle or end of it is at x, its baseline at y."""

    x: float
    y: float
    text: str
    anchor: str = "start"
    colour: str = "soft"
    size: float = 11
    bold: bool = False


class Drawing(NamedTuple):
    """shapes and words of a figure; inside: shapes that are cut off at `box` (left, top, right, bottom)."""

    width: float
    height: float
    shapes: list[Shape]
    inside: list[Shape]
    words: list[Words]
    box: tuple[float, float, float, float]


def inline(panel: Panel) -> Drawing:
    """The panel as it stands in the page, which has its title and its legend around it."""
    width, height = panel.frame
    right, bottom = panel.frame.right, panel.frame.bottom
    rules = [Shape(f"M{LEFT} {tick.at}H{right}", "line") for tick in panel.y]
    words = [Words(LEFT - 6, tick.at + 4, tick.text, "end") for tick in panel.y]
    words += [Words(t.at, height - 8, t.text, "end" if t.at > width - 30 else "middle") for t in panel.x]
    words += [Words(*label) for label in panel.labels]
    if panel.level is not None:
        rules.append(Shape(f"M{LEFT} {panel.level}H{right}", "soft", dash="3 3"))
        words.append(Words(right, panel.level - 4, "floor", "end"))
    return Drawing(width, height, rules, list(_content(panel)), words, (0, TOP, width, bottom))


def _content(panel: Panel) -> Iterable[Shape]:
    for line in panel.lines:
        if line.band:
            yield Shape(line.band, fill=palette.series(line.colour), opacity=0.18)
    if panel.front:
        yield Shape(panel.front, "soft", width=1.2, dash="2 2.5", title="Pareto front")
    if panel.leaders:
        yield Shape(panel.leaders, "soft", width=0.8)
    for line in sorted(panel.lines, key=_size, reverse=True):  # a large mark hides no small one
        yield from _line(line)


def _size(line: Line) -> float:
    return max((radius for _, _, radius, _ in line.marks), default=0)


def _line(line: Line) -> Iterable[Shape]:
    """The curve and the dots on it; or the intervals of points and their marks, hollow for those off the front."""
    colour, dash = palette.series(line.colour), palette.dash(line.colour)
    if line.joined:
        yield Shape(line.joined, colour, width=1.6, dash=dash, title=line.name)
    if line.path:
        thin = 0.8 if line.joined else 1.6
        yield Shape(line.path, colour, width=thin, dash=dash if not line.marks else "", title=line.name)
    for x, y in line.dots:
        yield Shape(palette.mark(0, x, y, 1.8), fill=colour)
    for x, y, radius, filled in line.marks:
        path = palette.mark(line.colour, x, y, radius)
        yield Shape(path, colour, colour if filled else "paper", width=1.6, title=line.name)


def swatch(panel: Panel, index: int, name: str) -> Drawing:
    """What stands before a name in the legend: a stretch of its line, its mark, or both."""
    lines = [line for line in panel.lines if line.name == name]
    marks = [mark for line in lines for mark in line.marks]
    colour = palette.series(index)
    stretch = Shape("M1 5H19", colour, width=1.6, dash=palette.dash(index))
    full = any(filled for *_, filled in marks)
    sign = Shape(palette.mark(index, 10, 5, 3.6), colour, colour if full else "paper", width=1.5)
    shown = [*([stretch] if not marks or any(line.joined for line in lines) else []), *([sign] if marks else [])]
    return Drawing(20, 10, shown, [], [], (0, 0, 20, 10))


def standalone(panel: Panel) -> Drawing:
    """The panel as a file of its own, with its title above and its legend below."""
    drawn, head = inline(panel), 36
    lines = _legend(panel)
    foot = drawn.height + head + 10
    title = _cut(panel.title + (" (log scale)" if panel.log else ""))
    words = [Words(8, 17, title, colour="ink", size=12, bold=True), Words(8, 31, _cut(f"against {panel.against}"))]
    words += [word._replace(y=word.y + head) for word in drawn.words]
    signs: list[Shape] = []
    for row, entries in enumerate(lines):
        for x, (name, index) in entries:
            signs += [_moved(shape, x, foot + row * LEADING - 9) for shape in swatch(panel, index, name).shapes]
            words.append(Words(x + 25, foot + row * LEADING, _cut(name)))
    left, top, right, bottom = drawn.box
    return Drawing(
        drawn.width,
        foot + len(lines) * LEADING,
        [*(_moved(shape, 0, head) for shape in drawn.shapes), *signs],
        [_moved(shape, 0, head) for shape in drawn.inside],
        words,
        (left, top + head, right, bottom + head),
    )


def _cut(text: str, most: int = 54) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _legend(panel: Panel) -> list[list[tuple[float, tuple[str, int]]]]:
    """Lines of (x, entry), broken where a line is full."""
    lines: list[list[tuple[float, tuple[str, int]]]] = [[]]
    x = 8.0
    for entry in panel.legend:
        needed = 25 + CHARACTER * len(entry[0]) + 14
        if x > 8 and x + needed > panel.frame.width:
            lines.append([])
            x = 8.0
        lines[-1].append((x, entry))
        x += needed
    return lines


def commands(path: str) -> list[tuple[str, list[float]]]:
    """("M", [x, y]), ("H", [x]), ...: the letters of an SVG path with their numbers."""
    found: list[tuple[str, list[float]]] = []
    for part in _split(path):
        found.append((part[0], [float(number) for number in part[1:].split()]))
    return found


def _split(path: str) -> Sequence[str]:
    for letter in "MLHVZ":
        path = path.replace(letter, f"|{letter}")
    return [part for part in path.split("|") if part]


def _moved(shape: Shape, dx: float, dy: float) -> Shape:
    shift = {"M": (dx, dy), "L": (dx, dy), "H": (dx,), "V": (dy,), "Z": ()}
    parts = [
        letter + " ".join(f"{number + by:g}" for number, by in zip(numbers, shift[letter], strict=True))
        for letter, numbers in commands(shape.path)
    ]
    return shape._replace(path="".join(parts))
