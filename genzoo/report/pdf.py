"""A drawing as a PDF of one page, its letters embedded: what LaTeX includes."""

from functools import cache
from pathlib import Path

from reportlab.lib.colors import toColor
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.pdfgen.pathobject import PDFPathObject

from genzoo.report.drawing import Drawing, Shape, Words, commands
from genzoo.report.palette import LIGHT

FONTS = {False: ("Vera", "Vera.ttf"), True: ("VeraBd", "VeraBd.ttf")}  # ship with ReportLab
POINT = 0.75  # points of print a unit of the drawing: 11 pixels become 8.25 points


def save(drawing: Drawing, path: Path, title: str) -> None:
    """Writes the drawing, the same bytes for the same drawing (no date within)."""
    for name, file in FONTS.values():
        _register(name, file)
    canvas = Canvas(str(path), pagesize=(drawing.width * POINT, drawing.height * POINT), invariant=1, pageCompression=1)
    canvas.setTitle(title)
    canvas.setAuthor("genzoo")
    canvas.scale(POINT, POINT)
    canvas.setLineJoin(1)
    for shape in drawing.shapes:
        _draw(canvas, shape, drawing.height)
    for words in drawing.words:
        _write(canvas, words, drawing.height)
    left, top, right, bottom = drawing.box
    clip = canvas.beginPath()
    clip.rect(left, drawing.height - bottom, right - left, bottom - top)
    canvas.clipPath(clip, stroke=0, fill=0)
    for shape in drawing.inside:
        _draw(canvas, shape, drawing.height)
    canvas.save()


@cache
def _register(name: str, file: str) -> None:
    """Once: reading a font takes longer than drawing a figure."""
    pdfmetrics.registerFont(TTFont(name, file))


def _draw(canvas: Canvas, shape: Shape, height: float) -> None:
    """y counts upwards in a PDF."""
    canvas.setLineWidth(shape.width)
    canvas.setDash([float(n) for n in shape.dash.split()])
    if shape.stroke:
        canvas.setStrokeColor(toColor(LIGHT[shape.stroke]))
    if shape.fill:
        canvas.setFillColor(toColor(LIGHT[shape.fill]))
    canvas.setFillAlpha(shape.opacity)
    canvas.drawPath(_path(canvas, shape, height), stroke=bool(shape.stroke), fill=bool(shape.fill))


def _path(canvas: Canvas, shape: Shape, height: float) -> PDFPathObject:
    path, x, y = canvas.beginPath(), 0.0, 0.0
    for letter, numbers in commands(shape.path):
        x = numbers[0] if letter in "MLH" else x
        y = numbers[-1] if letter in "MLV" else y
        if letter == "M":
            path.moveTo(x, height - y)
        elif letter == "Z":
            path.close()
        else:
            path.lineTo(x, height - y)
    return path


def _write(canvas: Canvas, words: Words, height: float) -> None:
    canvas.setFont(FONTS[words.bold][0], words.size * 0.88)  # Vera is wide
    canvas.setFillColor(toColor(LIGHT[words.colour]))
    canvas.setFillAlpha(1)
    place = words.x, height - words.y
    {"start": canvas.drawString, "middle": canvas.drawCentredString, "end": canvas.drawRightString}[words.anchor](
        *place, words.text
    )
