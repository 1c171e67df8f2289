"""The page for every reader: on paper, as one image, by keyboard, on a phone, and with colour blindness."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.slow

ASK = (Path(__file__).parent / "access.js").read_text()
"""Functions that look at the page."""


def ask(page, question):
    """Asks one of these."""
    return page.evaluate(f"() => {{ {ASK} return {question}(); }}")


@pytest.fixture
def file(make_output, folders, report):
    """A page with everything on it: two seeds, both corruptions, single prompts, patterns, measures."""
    output = make_output(seeds=(0, 1), layers=2, heads=2, by_prompt=True, measures=True)
    folders.write_patterns(output, layers=2)
    folders.write_looks(output)
    return report(output)


ALL_DRAWN = "() => pictures.every(({ stale, plot }) => !stale || !plot.offsetWidth)"


def test_all_pictures_are_drawn_though_nobody_scrolls_and_all_texts_can_be_read(file, open_page):
    page = open_page(file, whole=True)
    page.wait_for_function(ALL_DRAWN, timeout=60_000)
    blank = "({ drawn, plot }) => plot.offsetWidth && drawn.traces && !plot.querySelector('.main-svg')"
    assert page.evaluate(f"pictures.filter({blank}).map(({{ plot }}) => plot.id)") == []
    assert page.evaluate("pictures.filter(({ plot }) => plot.offsetWidth).length") > 10
    whole = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("L")
    boxes = page.evaluate(
        """() => pictures.filter(({ drawn, plot }) => plot.offsetWidth && drawn.traces).map(({ plot }) => {
            const { left, top, right, bottom } = plot.getBoundingClientRect();
            return [plot.id, [left, top + scrollY, right, bottom + scrollY]];
        })"""
    )
    assert [name for name, box in boxes if len(whole.crop(box).getcolors(256)) < 10] == []
    page.evaluate("goTo(0)")  # those out of sight must not make the slider slow, but they follow
    assert page.evaluate("pictures.some(({ near, stale }) => !near && stale)")
    page.wait_for_function(ALL_DRAWN, timeout=60_000)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.evaluate("openPlace('z', 1, 1)")
        page.wait_for_function(ALL_DRAWN, timeout=60_000)
        found = ask(page, "contrast")
        assert found["texts"] > 400 and (scheme, found["poor"]) == (scheme, [])
        page.keyboard.press("Escape")


def test_on_paper_pictures_are_whole_and_light(file, open_page):
    for width in (1280, 390):
        page = open_page(file, width=width, dark=True, whole=True)
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.emulate_media(media="print")
        sheet = ask(page, "sheet")
        assert sheet["count"] > 10
        assert [sheet[name] for name in ("stale", "cut", "split", "rolled", "sticky")] == [0, [], 0, 0, 0]
        assert sheet["high"] <= 660 and sheet["width"] <= 964  # a sheet of Letter across, less its margins; A4 is wider
        assert sheet["panels"] >= 3 and sheet["ink"] == "rgb(27, 31, 39)"
        assert ask(page, "overprinted") == []
        page.emulate_media(media="screen")
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        page.wait_for_function(ALL_DRAWN, timeout=60_000)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        if width == 390:
            assert ask(page, "overprinted") == []


def test_every_control_is_reached_by_keyboard_and_seen_to_be(file, open_page):
    page = open_page(file, whole=True)
    page.wait_for_function(ALL_DRAWN, timeout=60_000)
    wanted = ask(page, "controls")
    assert wanted > 40
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"  # past what is on top
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
    result = "(one) => `${one.tagName} ${one.id || one.textContent.slice(0, 30)}`"
    assert page.evaluate(f"wanted.filter((one) => !reached.some(([at]) => at === one)).map({result})") == []
    assert page.evaluate(f"reached.filter(([, ring]) => !ring).map(([one]) => one).map({result})") == []
    hidden = page.evaluate(f"reached.filter(([, , seen]) => !seen).map(([one]) => one).map({result})")
    assert hidden == []  # none is behind what sticks to the top
