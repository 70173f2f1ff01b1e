"""Each figure is a file that stands alone: SVG that parses and refers to nothing, PDF of one page of the same size."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from genzoo.report import files, palette, write

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def figures(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write([study], tmp_path_factory.mktemp("report")).parent / "figures"


def test_every_figure_is_there_twice_under_a_name_that_says_what_it_is(figures: Path) -> None:
    names = {path.stem for path in figures.glob("*.svg")}
    assert names == {path.stem for path in figures.glob("*.pdf")}
    assert {"fd-digits", "fd-digits-against-training-seconds", "vae-loss"} <= names
    assert "trilemma-precision-and-speed-against-coverage" in names
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in names)


def test_an_svg_has_its_colours_and_words_within(figures: Path) -> None:
    for path in figures.glob("*.svg"):
        root = ElementTree.parse(path).getroot()
        assert root.tag == f"{SVG}svg"
        assert not {f"{SVG}{tag}" for tag in ("style", "script", "image", "use")} & {each.tag for each in root.iter()}
        paints = {each.get(key) for each in root.iter() for key in ("fill", "stroke") if each.get(key)}
        assert paints <= {*palette.LIGHT.values(), "none"}
    words = [each.text for each in ElementTree.parse(figures / "fd-digits.svg").iter(f"{SVG}text")]
    assert {"FD-digits", "VAE", "GAN", "DDPM", "FLOW", "floor"} <= {str(word).split(" (")[0] for word in words}


def test_a_pdf_is_one_page_of_the_figures_size_and_the_same_each_time(
    figures: Path, study: Path, tmp_path: Path
) -> None:
    data = (figures / "fd-digits.pdf").read_bytes()
    assert data.startswith(b"%PDF-")
    root = ElementTree.parse(figures / "fd-digits.svg").getroot()
    (box,) = re.findall(rb"/MediaBox \[([^]]+)\]", data)
    size = [float(number) for number in box.split()][2:]
    assert size == pytest.approx([float(str(root.get(key))) * 0.75 for key in ("width", "height")])
    assert b"/FontFile2" in data  # its letters are within
    again = write([study], tmp_path).parent / "figures" / "fd-digits.pdf"
    assert again.read_bytes() == data


def test_names_of_two_figures_never_meet(figures: Path) -> None:
    assert files.slug("FD∞-digits: its fit") == "fd-inf-digits-its-fit"
    assert files.slug("../../…") == "figure"
