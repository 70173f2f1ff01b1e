"""python -m experiments.metric_panel: generators with known faults under every score; writes the README's table."""

import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from genzoo.metrics.ring import generators, panel, ring
from genzoo.metrics.scores import Score

README = Path(__file__).with_name("README.md")
PICTURE = README.with_name("panel.png")
SIDE, WIDEST = 300, 1.8  # pixels of a square, and the coordinate at its edge


def table(rows: dict[str, dict[str, Score]]) -> str:
    """Markdown, a row a generator, each score with the half-width of its 95% interval where it has one."""
    names = list(next(iter(rows.values())))
    columns = [[name, "---:", *column([row[name] for row in rows.values()])] for name in names]
    lines = zip(["Generator", "---", *rows], *columns, strict=True)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def column(scores: Sequence[Score]) -> list[str]:
    """The scores with as many digits as suit the largest of them."""
    largest = max(abs(score.value) for score in scores)
    digits = 1 if largest >= 20 else 2 if largest >= 2 else 3 if largest >= 0.9 else 4
    halves = [f" ± {score.value - score.ci95[0]:.{digits}f}" if score.ci95 else "" for score in scores]
    return [f"{score.value:.{digits}f}{half}" for score, half in zip(scores, halves, strict=True)]


def picture() -> Image.Image:
    """The training points and each generator's, side by side."""
    train = ring(4000, seed=1)
    sets = {"training points": train, **generators(train)}
    sheet = Image.new("RGB", (SIDE * 3, (SIDE + 24) * 2), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (name, points) in enumerate(sets.items()):
        left, top = i % 3 * SIDE, i // 3 * (SIDE + 24)
        places = (points.clamp(-WIDEST, WIDEST) / WIDEST + 1) * (SIDE - 4) / 2 + 2
        draw.point([(left + x, top + SIDE - y) for x, y in places.tolist()], fill="#2a5db0")
        draw.text((left + 8, top + SIDE + 4), name, fill="black", font_size=15)
    return sheet


def main() -> None:
    text = table(panel())
    README.write_text(
        re.sub(
            r"(<!-- table -->\n).*(\n<!-- end -->)", lambda m: m[1] + text + m[2], README.read_text(), flags=re.DOTALL
        )
    )
    picture().save(PICTURE)
    print(text)


if __name__ == "__main__":
    main()
