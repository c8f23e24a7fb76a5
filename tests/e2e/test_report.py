"""``panoptic report``: from run folders to a page, which a real browser shows."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import Browser, find_browser
from report_runs import write_dataset, write_run

from panoptic_plugin.cli.report import main

VOID_ELEMENTS = {"meta", "link", "img", "br", "input"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    write_dataset(root / "set")
    write_run(root / "first", root / "set", "report_page_set")
    write_run(root / "second", root / "set", "report_page_set", shift=12, rate=0.1)
    return root


@pytest.fixture(scope="module")
def page(folders) -> Path:
    target = folders / "compared" / "page.html"
    assert main([str(folders / "first"), str(folders / "second"), "--output", str(target), "--max-images", "2"]) == 0
    return target


class Outline(HTMLParser):
    """Checks that elements close in order and collects what the tests ask for."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.headings: list[int] = []
        self.images: list[dict] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "a":
            self.links.append(found["href"])
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "img" or (tag == "svg" and found.get("role") == "img"):
            self.images.append(found)
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole(page):
    text = page.read_text()
    outline = Outline(text)
    assert len(set(outline.ids)) == len(outline.ids)
    assert {link[1:] for link in outline.links} <= set(outline.ids)
    assert outline.headings[0] == 1 and outline.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(outline.headings, outline.headings[1:], strict=False))
    assert all(image.get("alt") or image.get("aria-label") for image in outline.images)
    # 2 images each: differences, worst, best of 6 pictures; missed of 4.
    assert text.count("data:image/webp") == 2 * (3 * 6 + 4)
    assert not re.search(r"https?://", text)
    for title in ("Results", "Learning curves", "Classes", "Confusion of classes", "Objects by size", "Images", "Time",
                  "Environment", "Settings"):  # fmt: skip
        assert f">{title}</h2>" in text
    assert "Not in this report" not in text
    assert "SOLVER.BASE_LR" in text and "a &lt;warning&gt;" in text
    assert page.stat().st_size < 3e6


def test_plots_lie_beside(page):
    names = {file.name for file in (page.parent / "page_plots").iterdir()}
    assert {"curve_total_loss.png", "classes_pq.png", "classes_sq.png", "confusion_0.png", "confusion_1.png",
            "sizes_pq.png", "images_pq.png", "time.png"} <= names  # fmt: skip


def test_one_run_and_no_images(folders, capsys):
    assert main([str(folders / "first"), "--no-images"]) == 0
    text = (folders / "first" / "report.html").read_text()
    assert "data:image/webp" not in text and "PQ of single images" in text and ">Worst" not in text
    assert "report.html:" in capsys.readouterr().out


@pytest.mark.parametrize(
    "gone", ["inference", "config.yaml", "log.txt", "metrics.json", "predictions", "images", "all"]
)
def test_what_is_missing_is_said_not_thrown(gone, folders, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(folders / "first", run)
    if gone == "inference":
        shutil.rmtree(run / "inference")
    elif gone == "predictions":
        shutil.rmtree(run / "inference" / "predictions")
    elif gone == "images":
        (run / "inference" / "predictions" / "panoptic" / "1.png").unlink()
    elif gone == "all":
        for name in ("inference", "config.yaml", "metrics.json"):
            path = run / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    else:
        (run / gone).unlink()
    assert main([str(run), "--max-images", "1"]) == 0
    text = (run / "report.html").read_text()
    Outline(text)
    assert 'class="warn"' in text and "Traceback" not in text


@pytest.mark.parametrize(
    "words, message",
    [
        (["nowhere"], "does not exist"),
        (["."], "holds none of"),
        ([".", "--max-images", "-1"], "--max-images is -1"),
    ],
)
def test_mistakes(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser():
    if find_browser() is None:
        pytest.skip("no Chromium on the PATH")
    with Browser() as opened:
        yield opened


@pytest.mark.parametrize("width, dark", [(1400, False), (500, True)])
def test_a_browser_shows_it(page, browser, width, dark):
    browser.open(page, width=width, dark=dark)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert browser.evaluate("[...document.querySelectorAll('svg')].every(s => s.getBoundingClientRect().height > 50)")
    text, back = browser.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert contrast(text, back) > 10
    for color in browser.evaluate(
        "[...'012345'].map(n => getComputedStyle(document.body).getPropertyValue('--c' + n))"
    ):
        assert contrast(color, back) > 3, color
    assert browser.complaints() == [] and browser.requests() == []


def test_tables_sort_by_keyboard(page, browser):
    browser.open(page)
    focus = "[...document.querySelectorAll('#classes th button')].find(b => b.textContent == 'PQ first').focus()"
    browser.evaluate(focus)
    column = "[...document.querySelectorAll('#classes tbody tr')].map(r => r.cells[0].textContent)"
    first = browser.evaluate(column)
    browser.press("Enter", 13, "\r")
    assert browser.evaluate(column) == first[::-1]  # 50, 51, 52: now from the highest
    assert browser.evaluate("document.activeElement.parentElement.getAttribute('aria-sort')") == "descending"
    browser.press("Enter", 13, "\r")
    assert browser.evaluate(column) == first
    browser.evaluate("document.body.focus(); document.activeElement.blur(); scrollTo(0, 0)")


def test_the_keyboard_reaches_contents_and_pictures(page, browser):
    browser.open(page)
    reached = []
    for _ in range(12):
        browser.press("Tab", 9)
        reached.append(
            browser.evaluate("document.activeElement.getAttribute('href') || document.activeElement.tagName")
        )
    assert reached[:3] == ["#main", "#results", "#curves"] and "#settings" in reached
    browser.evaluate("document.querySelector('input.large').focus()")
    width = "document.querySelector('.row img').getBoundingClientRect().width"
    small = browser.evaluate(width)
    browser.press(" ", 32, " ")
    assert browser.evaluate(width) > 2 * small


def test_without_script(page, browser):
    browser.open(page, scripts=False)
    try:
        assert browser.send("Page.getLayoutMetrics")["cssContentSize"]["width"] <= 1400
        assert browser.complaints() == []
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)


def contrast(one: str, other: str) -> float:
    """WCAG's ratio of two CSS colours, #rgb, #rrggbb or rgb()."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(color: str) -> float:
    color = color.strip()
    if color.startswith("#"):
        digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
        channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    else:
        channels = [int(value) / 255 for value in re.findall(r"\d+", color)[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
