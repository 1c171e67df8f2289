"""The evidence for a cell of a heatmap, and single prompts, in a real browser."""

from __future__ import annotations

import pytest

from mi_sweeps.analysis.frames import by_prompt, load

pytestmark = pytest.mark.slow

RUNS = ("run-0.0001-constant-0", "run-0.0001-constant-1")


@pytest.fixture
def output(make_output, folders):
    """Two seeds under both corruptions, prompt by prompt; patterns of two prompts."""
    output = make_output(seeds=(0, 1), layers=2, heads=2, steps=(0, 8, 24), by_prompt=True, prompt=folders.hostile)
    folders.write_patterns(output, layers=2)
    return output


def drawn(page, plot):
    """A picture's traces, once it shows what is chosen."""
    page.wait_for_function("id => pictures.some(({plot, near, stale}) => plot.id === id && near && !stale)", arg=plot)
    return page.evaluate("id => document.getElementById(id).data", plot)


def z_of(output, step, layer, head, corruption="first"):
    """Change and gap of each prompt, a frame of runs × prompts each."""
    rows = by_prompt(load(output), ["z"]).query("step == @step and layer == @layer and head == @head")
    rows = rows[rows["corruption"] == corruption]
    rows = rows.assign(change=rows["patched"] - rows["corrupted"], gap=rows["clean"] - rows["corrupted"])
    return [rows.pivot(index="run_id", columns="prompt", values=name) for name in ("change", "gap")]


def test_a_cell_opens_with_its_prompts_and_course_and_closes_with_escape(output, folders, open_page, report):
    file = report(output)
    page = open_page(file)
    opener = page.locator("#place-open")
    opener.focus()
    page.keyboard.press("Enter")  # by keyboard too; which cell is chosen there
    dialog = page.locator("#place")
    for number, value in enumerate(("z", "1", "0")):  # site, layer, head
        dialog.locator("#place-controls select").nth(number).select_option(value)
    change, gap = z_of(output, 24, 1, 0)
    parts = (change.T / gap.mean(axis=1)).T.mean()
    first, second = drawn(page, "place-strip-plot")
    assert first["x"] == pytest.approx(list(parts), abs=0.01)
    assert first["x"] != pytest.approx(second["x"], abs=0.02)  # another corruption
    result = page.locator("#place-text").inner_text()
    assert f"First corruption: recovered {parts.mean():.3f} [" in result and "12 prompts, mean of 2 runs" in result
    course = drawn(page, "place-course-plot")
    (line,) = [one for one in course if one.get("name") == "first corruption"]
    assert line["x"] == [0, 8, 24] and line["y"][2] == pytest.approx(parts.mean(), abs=2e-3)
    row = page.locator("#place-prompts tbody tr", has=page.locator("[data-prompt='7']")).first
    shown = row.locator("td").all_inner_texts()
    assert float(shown[0]) == pytest.approx(change[7].mean(), abs=0.02)
    assert float(shown[1]) == pytest.approx(gap[7].mean(), abs=0.01)
    page.locator("#place-checkpoint").press("ArrowLeft")  # one slider for all
    assert page.evaluate("step()") == 8 and "checkpoint 8" in page.locator("#place-step").inner_text()
    assert page.locator("#checkpoint").input_value() == "1"
    assert page.locator("#place img").count() == 0 and "pwned" not in page.title()
    address = page.evaluate("location.hash")
    page.keyboard.press("Escape")
    assert page.evaluate("state.place") is None and not dialog.is_visible()
    assert opener.evaluate("button => button === document.activeElement")
    page.evaluate("openPlace('z', 1, 0)")
    page.evaluate("history.back()")
    page.wait_for_function("() => !document.getElementById('place').open && !state.place")
    again = open_page(file, hash=address, width=390)
    assert again.locator("#place-title").inner_text() == "z (head output), head 1.0"
    assert again.evaluate("document.documentElement.scrollWidth") == 390
    assert again.evaluate(
        "document.getElementById('place').scrollWidth <= document.getElementById('place').clientWidth"
    )
    again.evaluate("PROMPT_VALUES.jobs.forEach((job) => { job.sites.z.places = [[0, 1]]; }); openPlace('z', 1, 0)")
    assert "`mi-sweeps export DIR --by-prompt`" in again.locator("#place-prompts .notice").first.inner_text()


def test_a_prompt_has_its_tokens_logit_differences_and_heads(output, folders, open_page, report):
    page = open_page(report(output))
    page.locator("#prompts").scroll_into_view_if_needed()
    page.locator("#prompts-controls select").select_option("1")
    assert page.locator("#attention-controls select").nth(1).input_value() == "1"  # the same choice
    # Opened without a click: the summary is written anew as pictures get ready, and a click on the old one is lost.
    page.locator("#circuits-prompts").evaluate("(details) => (details.open = true)")
    page.get_by_text("first corruption, 12 prompts; the first 4:").wait_for(state="visible")
    marked = page.locator("#prompts-text mark").all_inner_texts()
    assert marked == ["Mary", "Tom", "Tom"]  # clean, and both corruptions
    page.get_by_role("button", name="Next", exact=True).click()
    missing = page.locator("#attention-missing").inner_text()
    assert "This page has no patterns of prompt 3, so it shows prompt 1" in missing
    table = by_prompt(load(output), ["z"]).query("prompt == 2")
    ends = table.groupby(["corruption", "step"])[["clean", "corrupted"]].mean()
    lines = {(one["xaxis"], one["name"]): one["y"] for one in drawn(page, "prompt-ends-plot")}
    for axis, corruption in (("x", "first"), ("x2", "second")):
        for side in ("clean", "corrupted"):
            assert lines[axis, side] == pytest.approx(list(ends.loc[corruption][side]), abs=1e-3)
    change = table.assign(change=table["patched"] - table["corrupted"]).query("step == 24 and corruption == 'first'")
    change = change.groupby(["layer", "head"])["change"].mean().sort_values(key=abs, ascending=False)
    heads = page.locator("#prompts-heads table").first.locator("tbody th").all_inner_texts()
    assert heads == [f"{layer}.{head}" for layer, head in change.index]
    caption = "document.querySelector('#prompts-heads caption')"
    page.set_viewport_size({"width": 390, "height": 900})  # the table is wider than the window, what it is of is not
    assert page.evaluate(f"{caption}.offsetWidth <= {caption}.closest('.scroll').clientWidth")
    page.set_viewport_size({"width": 1440, "height": 900})  # nor is it wider than half of a large one
    assert page.evaluate(f"{caption}.closest('table').offsetWidth <= {caption}.closest('.scroll').clientWidth")
    page.evaluate("goTo(0)")
    assert "checkpoint 0" in page.locator("#prompts-heads caption").first.inner_text()
    page.locator("#prompts-heads tbody button").first.click()
    assert page.locator("#place").is_visible()
