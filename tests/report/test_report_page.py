"""The page is one file that fetches nothing, shows text as text, and is written without torch."""

import base64
import hashlib
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from genzoo.report import write
from genzoo.report.__main__ import main

Make = Callable[..., Path]
EVIL = '"><img src=x onerror=alert(1)>'


class Page(HTMLParser):
    """Collects every start tag with its attributes, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def page(tmp_path: Path, make_run: Make) -> Page:
    """A page on four runs, one of them of another protocol, and three without scores; with hostile names."""
    runs = tmp_path / "runs"
    make_run(runs / "vae", "vae", 38.4, config={"note": "</script><script>alert(1)</script>"})
    make_run(runs / EVIL, "gan", 21.7, overrides=(f"tag={EVIL}",), config={"note": EVIL})
    make_run(runs / "rgb", "flow", 5.0, shape=(3, 8, 6), protocol_id="x", protocol={"dataset": EVIL})
    make_run(runs / "toy", "ddpm", 5.0, shape=(2, 1, 1), protocol_id="y", protocol={"dataset": "toy2d"})
    make_run(runs / "half", value=None)
    (make_run(runs / "hot", value=None) / "failed.txt").write_text(f"ValueError: {EVIL}")
    (make_run(runs / "cut") / "metrics.json").write_text("{")
    return Page(write([runs], tmp_path / "out"))


def test_hostile_names_stay_text(page: Page) -> None:
    assert [attributes for tag, attributes in page.tags if tag == "script"] == [{}]  # the page's own, inline
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.text.count(EVIL) >= 4
    assert "</script><script>alert(1)</script>" in page.text


def test_a_study_shows_settings_intervals_neighbours_and_classes(study: Path, tmp_path: Path) -> None:
    path = write([study], tmp_path)
    page = Page(path)
    words = " ".join(page.text.split())
    for text in (
        "12 runs: 4 settings of 3 seeds each, trained on 100,000 images each.",
        "which is training noise",
        "How sure is the order?",
        "Likelihood of held-out images",
        "GAN gives no density",
        "FD∞-digits: its fit",
        "a copy shows as a twin",
        "Shares of the classes",
    ):
        assert text in words
    assert "sampling noise" not in words
    labels = [str(a.get("aria-label")) for tag, a in page.tags if tag == "svg"]
    assert [label.split(":")[0] for label in labels if "shares of 10 classes" in label] == [
        "Real",
        *("VAE", "GAN", "DDPM", "FLOW"),
    ]
    assert any(label.startswith("GAN: ") and label.endswith("of class 9") for label in labels)
    images = [str(a["alt"]) for tag, a in page.tags if tag == "img"]
    assert len(images) == 1 + 4 * (1 + 1 + 2)  # real; of each row its first seed, neighbours, two more seeds
    assert sum("nearest training image" in alt for alt in images) == 4
    assert words.count("python -m genzoo.run model=gan") == 3
    assert path.stat().st_size < 15e6


def test_nothing_is_fetched(page: Page) -> None:
    fetching = ("src", "href", "xlink:href", "srcset", "data", "poster", "action")
    links = [attributes[name] for _, attributes in page.tags for name in fetching if name in attributes]
    assert links
    assert all(str(link).startswith("data:image/png;base64,") for link in links)
    assert not re.search(r"url\(|@import|http-equiv=.refresh", page.text)
    assert "link" not in {tag for tag, _ in page.tags}
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert str(policy).startswith("default-src 'none';")


def test_the_one_script_is_let_in_by_its_hash(page: Page, tmp_path: Path) -> None:
    (policy,) = [str(a["content"]) for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    text = (tmp_path / "out" / "index.html").read_text("utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


def test_every_picture_is_described(page: Page) -> None:
    pictures = [a for tag, a in page.tags if tag == "img"]
    assert len(pictures) == 5  # two groups' real images, three runs; points are drawn as SVG
    assert all(a["alt"] for a in pictures)
    assert all(a.get("aria-label") for tag, a in page.tags if tag == "svg" and a.get("role") == "img")


def test_all_runs_are_on_the_page(page: Page) -> None:
    for text in (
        "runs/half",
        "runs/hot",
        "runs/cut",
        "unfinished",
        "failed",
        "unreadable",
        "metrics.json is not JSON",
    ):
        assert text in page.text
    assert "dataset is toy2d instead of digits" in page.text
    assert "python -m genzoo.run model=gan seed=0" in page.text


def test_a_run_without_samples_or_curves_is_no_obstacle(tmp_path: Path, make_run: Make) -> None:
    folder = make_run(tmp_path / "a")
    (folder / "samples.npz").unlink()
    (folder / "curves.csv").unlink()
    assert "no samples" in Page(write([tmp_path], tmp_path / "out")).text


def test_runs_asked_for_samples_alone_make_a_page(tmp_path: Path, make_run: Make) -> None:
    make_run(tmp_path / "a", protocol={}, scores={}, calibration={}, protocol_id="unscored")
    make_run(tmp_path / "b", "gan", scores={}, calibration={}, protocol_id="unscored")
    assert "No scores to rank by." in Page(write([tmp_path], tmp_path / "out")).text


def test_unfinished_runs_alone_make_a_page(tmp_path: Path, make_run: Make) -> None:
    make_run(tmp_path / "a", value=None)
    assert "No finished run yet" in Page(write([tmp_path], tmp_path / "out")).text


def test_the_command_writes_its_files_and_says_where(
    tmp_path: Path, make_run: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "a")
    assert main([str(tmp_path)]) == 0
    assert str(tmp_path / "report" / "index.html") in capsys.readouterr().out
    written = {f.name for f in (tmp_path / "report").iterdir()}
    assert written == {"index.html", "table.md", "table.csv", "table.tex", "samples.png", "figures"}


def test_no_run_is_one_sentence_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    said = capsys.readouterr().err.strip()
    assert str(tmp_path) in said
    assert "\n" not in said


def test_no_torch_is_imported(tmp_path: Path, make_run: Make) -> None:
    make_run(tmp_path / "a")
    code = (
        "import sys; from genzoo.report.__main__ import main; "
        f"main([{str(tmp_path)!r}]); assert not {{'torch', 'lightning', 'hydra'}} & set(sys.modules)"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, capture_output=True)


def test_folds_show_reconstructions_interpolations_and_trajectories(tmp_path: Path, make_run: Make) -> None:
    folder = make_run(tmp_path / "a")
    pixels = np.zeros((2, 5, 1, 8, 8), np.uint8)
    with np.load(folder / "samples.npz") as arrays:
        kept = dict(arrays)
    more = {"interpolation": pixels, "trajectory": pixels, "classes": pixels}
    np.savez(folder / "samples.npz", **kept, reconstruction=kept["real"][:4], **more)
    words = Page(write([tmp_path], tmp_path / "out")).text
    for summary in ("Reconstructions", "Interpolations", "From noise to image", "One class a row"):
        assert summary in words


def test_the_title_counts_families_that_are_too_many_to_name(tmp_path: Path, make_run: Make) -> None:
    for i in range(10):
        make_run(tmp_path / str(i), f"family{i}")
    assert "10 families on digits" in Page(write([tmp_path], tmp_path / "out")).text
