"""The page's attention patterns in a real browser."""

from __future__ import annotations

import pytest

from tests.analysis.pages import draw

pytestmark = pytest.mark.slow


def weight(folders, side, step, row, column):
    """Attention of head 1 from one token to another, as it was kept."""
    return float(folders.pattern(side, step, 1, 12)[row * (row + 1) // 2 + column])


def shown(page, panel):
    """The large picture's values, row by row, once it is drawn."""
    draw(page, "attention-plot")
    return page.evaluate("i => document.getElementById('attention-plot').data[i].z", panel)


def test_patterns_follow_the_slider_and_tell_where_each_token_looks(make_output, folders, open_page, report):
    output = make_output(steps=(0, 8, 24), layers=2, heads=2)
    folders.write_patterns(
        output, layers=2, tokens=("<bos>", folders.hostile, *["x"] * 6, " Mary", " and", " Sue", " to")
    )
    folders.write_looks(output)
    page = open_page(report(output), width=390, dark=True)
    page.locator("#attention-heads button[data-head='1.1']").click()
    last = 11
    assert shown(page, 0)[last][8] == pytest.approx(weight(folders, "clean", 24, last, 8), abs=0.003)
    assert shown(page, 1)[last][8] == pytest.approx(weight(folders, "corrupted", 24, last, 8), abs=0.003)
    assert shown(page, 0)[3][4] is None  # no token looks at a later one
    result = page.locator("#attention-text")
    assert f"“to” ({last}) looks at “Mary” (8) 0.7" in result.inner_text()
    small = "document.querySelector('#attention-heads button[data-head=\"1.1\"] canvas').toDataURL()"
    before = page.evaluate(small)
    page.evaluate("goTo(0)")
    assert page.evaluate(small) != before
    assert shown(page, 0)[last][8] == pytest.approx(weight(folders, "clean", 0, last, 8), abs=0.003)
    assert "at checkpoint 0" in page.locator("figure:has(#attention-plot) figcaption").inner_text()
    token = page.locator("#attention-tokens .tokens[data-side='clean'] [aria-selected='true']")
    token.focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    assert "clean: “Mary” (8) looks at" in result.inner_text() and "looked at from" in result.inner_text()
    assert "changed" in token.get_attribute("aria-label")
    page.locator("#attention-tokens .tokens[data-side='corrupted'] [data-at='9']").hover()
    assert "clean: “and” (9) looks at" in result.inner_text()
    page.mouse.move(0, 0)
    assert "clean: “Mary” (8) looks at" in result.inner_text()
    assert page.locator("#attention-tokens [data-at='1']").first.inner_text() == folders.hostile
    assert page.locator("#circuits-attention img").count() == 0 and "pwned" not in page.title()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    draw(page, "looks-plot")
    lines = page.evaluate("document.getElementById('looks-plot').data.filter(({mode}) => mode === 'lines+markers')")
    assert {line["name"] for line in lines} == {"subject 1", "other"} and lines[0]["x"] == [0, 8, 24]
    assert "not other seeds" in page.locator("figure:has(#looks-plot) figcaption").inner_text()


def test_a_page_without_patterns_has_no_such_section(make_output, open_page, report):
    page = open_page(report(make_output(corruptions=("first",), layers=2, heads=2)))
    assert page.locator("#circuits-attention").is_hidden()
    assert page.locator("#attention-plot").count() == 0
