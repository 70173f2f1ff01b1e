"""The colours, of the light and the dark scheme, and the marks and dashes that tell two apart without any colour."""

import math

# Okabe and Ito (2008), "Color Universal Design", which colour-blind readers can tell apart. So that every line stands
# out from its paper by the ratio of 3 that WCAG 2.2 asks of graphics (1.4.11), orange and sky blue are darkened on
# the light page; on the dark one blue and sky blue change places and black becomes white.
LIGHT = {
    "paper": "#fffefb",
    "ink": "#1f2328",
    "soft": "#5f6670",
    "line": "#dcdcd6",
    "tint": "#f5f4ef",
    "mark": "#0072b2",
    "c0": "#0072b2",
    "c1": "#d55e00",
    "c2": "#009e73",
    "c3": "#cc79a7",
    "c4": "#c28500",
    "c5": "#3596d0",
    "c6": "#1f2328",
}
DARK = {
    "paper": "#15171a",
    "ink": "#e4e4df",
    "soft": "#9aa1ab",
    "line": "#34383e",
    "tint": "#1d2024",
    "mark": "#56b4e9",
    "c0": "#56b4e9",
    "c1": "#e8743b",
    "c2": "#009e73",
    "c3": "#cc79a7",
    "c4": "#e69f00",
    "c5": "#3f8fd0",
    "c6": "#e4e4df",
}
NAMED = (
    "Colours: the palette of Okabe and Ito (2008), made for colour-blind readers; every setting also has its own mark, "
    "and from the eighth on its own dash."
)
SIZE = 7  # colours of settings

# Regular polygons and stars: (corners, degrees by which the first is turned from the top, inner radius or 1).
MARKS = ((32, 0, 1.0), (4, 45, 1.0), (3, 0, 1.0), (4, 0, 1.0), (3, 180, 1.0), (5, 0, 0.45), (4, 45, 0.35))


def series(index: int) -> str:
    """The name of a setting's colour; beyond seven they come again."""
    return f"c{index % SIZE}"


def dash(index: int) -> str:
    """SVG's dash pattern of a setting's line: "" for the first seven, then three more."""
    return ("", "5 4", "1.5 4", "8 3 1.5 3")[min(index // SIZE, 3)]


def mark(index: int, x: float, y: float, radius: float) -> str:
    """The closed SVG path of a setting's mark around (x, y), of the area of a circle of that radius."""
    corners, turned, inner = MARKS[(index + index // SIZE) % len(MARKS)]
    steps = corners if inner == 1 else 2 * corners
    radii = [radius * _growth(corners, inner) * (inner if i % 2 and inner < 1 else 1) for i in range(steps)]
    angles = [math.radians(turned + 360 * i / steps) for i in range(steps)]
    places = [(x + r * math.sin(a), y - r * math.cos(a)) for r, a in zip(radii, angles, strict=True)]
    return "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in places) + "Z"


def _growth(corners: int, inner: float) -> float:
    """Circumradius of the polygon or star that has the area of a circle of radius 1."""
    area = corners * (inner * math.sin(math.pi / corners) if inner < 1 else math.sin(2 * math.pi / corners) / 2)
    return math.sqrt(math.pi / area)
