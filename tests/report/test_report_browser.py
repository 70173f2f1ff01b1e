"""In Chromium the table sorts by mouse and by key, hostile text stays text, and nothing is asked of any network."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from genzoo.report import write

from . import browser
from .browser import Tab
from .conftest import again

Make = Callable[..., Path]
EVIL = '"><img src=x onerror=alert(1)>'
VALUES = {"vae": 38.4, "gan": 9.5, "ddpm": 100.0, EVIL: 21.7}

pytestmark = pytest.mark.skipif(not browser.PROGRAM, reason="no Chromium: apt install chromium")


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser.tab(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def page(tmp_path: Path, make_run: Make, tab: Tab) -> Tab:
    """Four settings with a distance and a precision; one lacks the precision, one was sampled in other ways too."""
    for i, (name, value) in enumerate(VALUES.items()):
        scores = {"FD": {"value": value}} | ({"precision": {"value": value / 200}} if name != "vae" else {})
        more = {"overrides": (f"tag={EVIL}",)} if name == EVIL else {}
        family = "flow" if name == EVIL else name
        make_run(tmp_path / "runs" / str(i), family, scores=scores, config={"note": f"</script>{name}"}, **more)
    for steps in (5, 50):
        again(tmp_path / "runs" / "2", 2.0 * steps, steps, f"sampler={EVIL}", f"steps={steps}")
    tab.open(write([tmp_path / "runs"], tmp_path / "out"))
    return tab


def families(page: Tab) -> str:
    return page.ask(
        "[...document.querySelector('.sortable').tBodies[0].rows].map(r => r.cells[1].innerText[0]).join('')"
    )


def sorted_by(page: Tab) -> list[str]:
    return page.ask("[...document.querySelectorAll('[aria-sort]')].map(h => h.innerText + ' ' + h.ariaSort)")


def test_a_click_sorts_the_best_first_and_another_turns_it_round(page: Tab) -> None:
    assert (families(page), sorted_by(page)) == ("GFVD", ["Rank ascending"])
    heads = "document.querySelectorAll('.sortable thead button')"
    page.ask(f"{heads}[2].click()")
    assert families(page) == "DFGV"  # the one without a value is last
    assert sorted_by(page) == ["precision\xa0↑ descending"]
    page.ask(f"{heads}[2].click()")
    assert families(page) == "GFDV"
    page.ask(f"{heads}[1].click()")
    assert (families(page), sorted_by(page)) == ("GFVD", ["FD\xa0↓ ascending"])


def test_keys_sort_and_the_calibration_rows_stay_below(page: Tab) -> None:
    page.ask("document.querySelector('.sortable thead button').focus()")
    page.press("Enter", 13)
    assert families(page) == "DVFG"
    below = page.ask("[...document.querySelector('.sortable').rows].slice(-3).map(r => r.cells[1].innerText)")
    assert set(below) == {"real test (floor)", "blurred real", "uniform noise"}


def test_nothing_is_fetched_and_no_hostile_text_runs(page: Tab) -> None:
    asked = [event["request"]["url"] for event in page.told("Network.requestWillBeSent")]
    assert [url.partition(":")[0] for url in asked if not url.startswith("data:image/png")] == ["file"]
    assert page.told("Page.javascriptDialogOpening") == []
    assert page.told("Log.entryAdded") == []  # nothing that the policy had to stop
    assert page.ask("document.scripts.length") == 1
    assert page.ask("document.querySelectorAll('img[src=x]').length") == 0
    assert EVIL in page.ask("document.body.textContent")
    assert "</script>gan" in page.ask("document.body.textContent")


def test_another_script_is_kept_out(page: Tab) -> None:
    page.ask("document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.got = 1'}))")
    assert page.ask("window.got ?? 0") == 0


@pytest.mark.parametrize("width", [1200, 400])
def test_the_page_is_as_wide_as_its_window(page: Tab, tmp_path: Path, width: int) -> None:
    page.open(tmp_path / "out" / "index.html", width, "dark")
    assert page.ask("document.documentElement.scrollWidth") == width
