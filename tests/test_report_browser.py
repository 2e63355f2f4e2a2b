"""The page in a real browser: it renders, asks for nothing, fits a phone, follows the scheme."""

import shutil
import subprocess

import pytest
from browser import PROGRAM, browser
from reported_repositories import reported

from gitmerge_eval import reporting

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="needs Chromium, Debian's 'chromium'")
GROUND = "getComputedStyle(document.body).backgroundColor"
LABEL = "[...document.querySelectorAll('svg text')].find(t => t.textContent == 'mats')"
WIDE = """
[...document.querySelectorAll('body *')]
    .filter(e => !e.closest('.scroll *') && e.getBoundingClientRect().right > innerWidth + 0.5)
    .map(e => e.outerHTML.slice(0, 80))
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    with pytest.MonkeyPatch.context() as patch:
        made = reported(folder / "models", patch)
        path = folder / "report.html"
        reporting.write_page(reporting.report(made.repository), path)
    with browser(folder / "profile") as tab:
        tab.file = path
        yield tab


def test_it_renders_without_a_complaint_and_without_a_request(page):
    page.show(page.file, 1280)
    assert page.value("document.title") == "models: merged models"
    assert page.value("document.querySelectorAll('svg').length") == 11
    assert page.value(
        "[...document.querySelectorAll('svg')].every(s => s.getBoundingClientRect().height > 100)"
    )
    assert page.value(f"{LABEL}.getBoundingClientRect().width") > 10
    assert set(page.requests) <= {page.file.as_uri(), "data:,"}
    assert page.complaints == []


@pytest.mark.parametrize("width", [390, 320, 768, 1280])
def test_nothing_is_wider_than_the_window(page, width):
    page.show(page.file, width)
    assert page.value("innerWidth") == width
    assert page.value("document.documentElement.scrollWidth") <= width
    assert page.value(WIDE) == []


def test_text_in_figures_can_be_read_on_a_phone(page):
    page.show(page.file, 390)
    heights = "[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect())"
    assert page.value(f"Math.min(...{heights}.map(b => Math.min(b.height, b.width || 99)))") > 3
    assert page.value(f"{LABEL}.getBoundingClientRect().height") >= 9


def test_dark_follows_the_readers_scheme_in_page_and_figures(page):
    page.show(page.file, 1280, scheme="light")
    colours = f"[{GROUND}, getComputedStyle({LABEL}).fill]"
    light = page.value(colours)
    page.scheme("dark")
    dark = page.value(colours)
    assert light == ["rgb(255, 255, 255)", "rgb(28, 29, 33)"]
    assert dark == ["rgb(23, 24, 28)", "rgb(232, 233, 236)"]


def test_paper_is_light_and_no_word_is_broken_off(page, tmp_path):
    page.show(page.file, 1280, scheme="dark")
    page.do("Emulation.setEmulatedMedia", media="print")
    assert page.value(GROUND) == "rgb(255, 255, 255)"
    assert page.value("getComputedStyle(document.querySelector('nav')).display") == "none"
    printed = page.printed()
    assert printed.startswith(b"%PDF")
    if shutil.which("pdftotext"):
        (tmp_path / "page.pdf").write_bytes(printed)
        done = subprocess.run(
            ["pdftotext", "-layout", str(tmp_path / "page.pdf"), "-"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        for word in ("generalization", "task-arithmetic", "of pretrained", "regmean"):
            assert word in done.stdout
