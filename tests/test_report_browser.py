"""The HTML report in a real headless Chromium."""

from __future__ import annotations

import io
import os
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import H20
from pypdf import PdfReader

from gpuassay import compare, history, store, verify
from gpuassay.cli_report import render
from gpuassay.record import read
from gpuassay.report import html, tables
from gpuassay.report.lab import Lab

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# Set by .ci/run, where these tests must not be skipped.
NEEDED = bool(os.environ.get("GPUASSAY_TESTS_NEED_CHROMIUM"))
pytestmark = pytest.mark.skipif(CHROMIUM is None and not NEEDED, reason="no Chromium here")
# The characters that no font here has: those that are drawn as a character is that no font can have.
MISSING_GLYPHS = """() => {
  const canvas = document.createElement("canvas"), size = canvas.width = canvas.height = 32;
  const pen = canvas.getContext("2d", {willReadFrequently: true});
  pen.font = "24px " + getComputedStyle(document.body).fontFamily;
  const drawn = character => {
    pen.clearRect(0, 0, size, size);
    pen.fillText(character, 2, 26);
    return pen.getImageData(0, 0, size, size).data.join();
  };
  const nothing = drawn("\\u{10FFFE}");
  return [...new Set(document.body.innerText)].filter(c => c.trim() && drawn(c) === nothing);
}"""
# The colour of the first picture's upper left corner.
CORNER = """() => {
  const canvas = document.createElement("canvas"), pen = canvas.getContext("2d");
  pen.drawImage(document.images[0], 0, 0);
  return [...pen.getImageData(4, 4, 1, 1).data].slice(0, 3);
}"""
WIDTHS = {"phone": 390, "A4": 794, "desktop": 1280}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    assert CHROMIUM is not None, "no Chromium here: install the package chromium"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module", params=["reference", "standard", "standard in Chinese", "comparison", "history"])
def file(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, fake_run: Callable[..., Path]
) -> Path:
    path = tmp_path_factory.mktemp("html") / "report.html"
    record = verify.reference_record() if request.param == "reference" else fake_run("standard")
    if request.param == "comparison":
        made = tables.comparison(compare.compare([read(record), read(fake_run(**H20))]))
    elif request.param == "history":
        made = tables.history(history.history(store.estimates([record])), 1)
    else:
        lang = "zh" if "Chinese" in request.param else "en"
        path.write_text(str(render(verify.judge_record(record, None), "html", Lab(), lang)), encoding="utf-8")
        return path
    path.write_text(html.write(made), encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=list(WIDTHS))
def test_it_opens_quietly_and_fits(browser: Any, file: Path, width: int, scheme: str) -> None:
    said: list[str] = []
    asked: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    assert page.evaluate("[...document.images].every(i => i.naturalWidth > 0 && i.alt.length > 40)")
    assert page.evaluate(MISSING_GLYPHS) == []
    page.close()


def test_every_printed_page_carries_the_identification_and_its_number(browser: Any, file: Path) -> None:
    page = browser.new_page()
    page.goto(file.as_uri())
    pages = [found.extract_text() for found in PdfReader(io.BytesIO(page.pdf(prefer_css_page_size=True))).pages]
    identification = page.title().rpartition(": ")[2]
    page.close()
    for number, text in enumerate(pages, 1):
        shown = unicodedata.normalize("NFKC", "".join(text.split()))  # a font may have a ligature of f and f
        assert "".join(identification.split()) in shown
        assert f"{number}/{len(pages)}" in shown


def test_pictures_follow_a_dark_browser(browser: Any, tmp_path: Path, fake_run: Callable[..., Path]) -> None:
    path = tmp_path / "report.html"
    path.write_text(str(render(verify.judge_record(fake_run(), None), "html", Lab())), encoding="utf-8")
    corners = {}
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(path.as_uri())
        corners[scheme] = page.evaluate(CORNER)
        page.close()
    assert min(corners["light"]) > 240
    assert max(corners["dark"]) < 40


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Any, file: Path, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme, bypass_csp=True)
    page.goto(file.as_uri())
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    page.close()
