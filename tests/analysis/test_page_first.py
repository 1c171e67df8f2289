"""What a reader of the page sees first: the rows of findings, the bar, and addresses that lead back."""

from __future__ import annotations

import re

import pytest

from mi_sweeps.analysis.frames import load
from mi_sweeps.analysis.inference.wins import interval
from tests.analysis.pages import change, numbers, rows


@pytest.fixture
def three(make_output, folders):
    """A setting that is slow, one that is fast, and a faster one that diverged; with patch jobs."""
    output = make_output(lrs=(3e-5, 2e-4), seeds=(0, 1), by_prompt=True)
    folders.write_run(output, "apart", lr=1e-3, diverged=11, steps=(0, 8))
    change(output / "runs" / "apart" / "run.json", train={"steps": 24})
    folders.write_patch(output, "apart", "apart-first", "first", lr=1e-3, steps=(0, 8), by_prompt=True)
    return output


def shown(page):
    return page.locator("#bar-view select").first.evaluate("select => select.selectedOptions[0].textContent")


def in_sight(page, plot):
    """Waits until a picture stands below the bar, at the top of the window."""
    page.wait_for_function(
        """id => {
            const top = document.getElementById(id).closest("figure").getBoundingClientRect().top;
            const under = document.getElementById("bar").getBoundingClientRect().bottom;
            return top >= under - 1 && top < under + 60;
        }""",
        arg=plot,
    )


@pytest.mark.slow
def test_the_page_says_first_what_was_found_of_each_setting(three, open_page, report):
    page = open_page(report(three))
    assert page.evaluate("document.querySelector('main h2').textContent") == "What was found"
    assert shown(page) == "lr 0.0002: mean of 2 runs"  # neither the one that learned nothing nor the one that diverged
    result = {row["setting"].split("\n")[0]: row for row in rows(page, "#settings-table")}
    assert list(result) == ["lr 3e-05", "lr 0.0002", "lr 0.001"]
    frames = load(three)
    last = frames.metrics.query("metric == 'win_rate' and split == 'heldout' and step == 24").merge(frames.runs)
    for lr, runs in last[last["lr"] < 1e-3].groupby("lr"):
        end = numbers(result[f"lr {lr:g}"]["at the end"])
        assert end[:3] == pytest.approx([runs["value"].mean(), *interval(runs["value"], 120)], abs=6e-4)
        assert end[3:] == [2, 24]
    assert "1 diverged" in result["lr 0.001"]["setting"] and "checkpoint 8" in result["lr 0.001"]["at the end"]
    assert result["lr 3e-05"]["first at 0.9"] == "not reached"
    assert result["lr 0.0002"]["seeds agree?"] == "cannot tell" and result["lr 0.001"]["seeds agree?"] == "one run"
    assert result["lr 0.001"]["heads, second corruption"] == "not patched"
    assert result["lr 0.0002"]["heads, first corruption"].startswith("none is shown to matter at 24; 16 undecided")

    def carriers(runs, result):
        """The heads that a row names are those that matter most of all that matter."""
        found = page.evaluate("runs => FAMILIES.get(JSON.stringify([runs, 'first', 'full', 'z'])).courses", runs)
        sizes = sorted((abs(course["recovered"]) for course in found.values()), reverse=True)
        named = re.findall(r"^(\d\.\d) (-?[\d.]+), (.*)$", result, re.MULTILINE)
        assert [abs(float(value)) for _, value, _ in named] == pytest.approx(sizes[:4], abs=6e-3)
        assert all(float(value) == pytest.approx(found[head]["recovered"], abs=6e-3) for head, value, _ in named)
        assert f"{len(found) - 4} more matter" in result
        return {since for _, _, since in named}

    assert carriers([4], result["lr 0.001"]["heads, first corruption"]) == {"since when is unknown"}
    assert page.locator("#settings-table svg path.mean").count() == 3

    page.locator("#checkpoint").fill("1")  # the bar tells how well it does there
    at_8 = frames.metrics.query("metric == 'win_rate' and split == 'heldout' and step == 8")
    rates = at_8.merge(frames.runs.query("lr == 2e-4"))["value"]
    bar = page.locator("#bar-text").inner_text()
    assert numbers(bar)[:3] == pytest.approx([rates.mean(), *interval(rates, 120)], abs=6e-4) and "2 runs" in bar

    page.fill("#filter", "lr=3e-5")
    assert [row["setting"].split("\n")[0] for row in rows(page, "#settings-table")] == ["lr 3e-05"]
    assert shown(page) == "lr 3e-05: mean of 2 runs"
    assert "filter: 2 of 5 runs" in page.locator("#bar-text").inner_text()
    assert "lr 0.0002" not in page.locator("#findings-text").inner_text()
    assert "Between the 2 runs that the filter selects (it hides 3;" in page.locator("#differences-text").inner_text()
    page.fill("#filter", "seed=1 lr<1e-3")  # of a part of a group nothing is concluded: single runs are offered
    assert not page.locator("#bar-view option", has_text="mean of").count()
    page.fill("#filter", "seed=0 lr=2e-4")
    (row,) = rows(page, "#settings-table")
    assert "1 of 2 runs (filtered)" in row["setting"]
    assert carriers([2], row["heads, first corruption"]) == {"grew at 16 [16, 16]"}
    page.fill("#filter", "lr=7")
    assert "none of them examined" in page.locator("#bar-text").inner_text()
    page.fill("#filter", "")
    assert shown(page) == "lr 0.0002: mean of 2 runs"

    page.set_viewport_size({"width": 390, "height": 844})  # the rows stand one below the other, none of them cut
    heights = "(({ scrollHeight, clientHeight }) => [scrollHeight, clientHeight])"
    whole, seen = page.evaluate(f"{heights}(document.querySelector('#findings-rows .scroll'))")
    assert whole == seen > 600


@pytest.mark.slow
def test_rows_and_addresses_lead_to_pictures_and_back_leads_back(three, open_page, report):
    page = open_page(report(three), alone=True)
    address = page.evaluate("location.pathname")
    at_first = page.evaluate("history.length")
    page.get_by_role("button", name="show the heads of lr 3e-05, second corruption").click()
    in_sight(page, "heads-plot")
    corruptions = "[...document.querySelectorAll('#bar-view select')].slice(2).map((select) => select.value)"
    assert shown(page) == "lr 3e-05: mean of 2 runs" and page.evaluate(corruptions) == ["second", "second"]
    for at in ("0", "1", "2"):
        page.locator("#checkpoint").fill(at)
    page.fill("#filter", "lr<=")
    page.fill("#filter", "lr<=2")
    page.fill("#filter", "lr<=2e-4")
    assert page.evaluate("history.length") == at_first + 2  # the choice, and the filter
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("figure:has(#z-plot)").get_by_role("button", name="Copy link").click()
    page.wait_for_function("async () => (await navigator.clipboard.readText()).includes('view')")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.evaluate("linkTo('z-plot')")
    page.go_back()
    page.wait_for_function("() => state.filter === ''")
    assert shown(page) == "lr 3e-05: mean of 2 runs" and page.locator("#filter").input_value() == ""
    page.go_back()
    page.wait_for_function("() => shownUnits()[0].includes('0.0002')")
    assert shown(page) == "lr 0.0002: mean of 2 runs" and page.evaluate(corruptions) == ["first", "second"]
    assert page.evaluate("location.pathname") == address
    page.go_forward()
    page.wait_for_function("() => shownUnits()[0].includes('3e-05')")

    page.goto("about:blank")
    page.goto(link)
    in_sight(page, "z-plot")
    assert shown(page) == "lr 3e-05: mean of 2 runs" and page.locator("#filter").input_value() == "lr<=2e-4"
    assert page.locator("#checkpoint-text").inner_text() == "checkpoint 16 (3 of 4)"

    page.evaluate(
        "scrollTo(0, document.querySelector('#patching-pictures summary').getBoundingClientRect().top + scrollY)"
    )
    page.evaluate("document.querySelector('#patching-pictures summary').focus()")  # it was below the bar
    under = "document.getElementById('bar').getBoundingClientRect().bottom"
    page.wait_for_function(f"() => document.activeElement.getBoundingClientRect().top >= {under} - 1")
