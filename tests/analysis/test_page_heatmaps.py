"""The pictures of the page's circuits as the slider moves: values, marks, scale, tables and cells."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mi_sweeps.analysis.frames import load
from mi_sweeps.analysis.inference import words
from mi_sweeps.analysis.inference.differences import difference
from mi_sweeps.analysis.summaries import recovered
from tests.analysis.page_circuits import (
    HEAD,
    caption,
    choose,
    chosen,
    family_of,
    grid,
    marked,
    numbers,
    panels,
    table,
    verdicts,
    z_rows,
)
from tests.analysis.pages import draw

pytestmark = pytest.mark.slow


def test_marks_on_heatmaps_are_the_verdicts_of_the_sliders_checkpoint(make_output, open_page, report):
    output = make_output(by_prompt=True)
    page = open_page(report(output))
    first, second = (family_of(output, name) for name in ("first", "second"))
    for step in (16, 24):
        page.evaluate("(step) => goTo(shownSteps().indexOf(step))", step)
        for panel, one in enumerate((first, second)):
            of = verdicts(one, step)
            expected = {
                mark: {head for head, verdict in of.items() if verdict == word}
                for mark, word in (("m", "matters"), ("u", "undecided"))
            }
            assert marked(page, "z-plot", panel) == {mark: heads for mark, heads in expected.items() if heads}
    less = difference(first, second)
    signs = dict(zip(map(words.name, less.places), less.words[less.at(24)], strict=True))
    shown = marked(page, "z-plot", 2)
    assert shown["+"] == {head for head, sign in signs.items() if sign == "more"}
    assert shown["-"] == {head for head, sign in signs.items() if sign == "less"}
    result = caption(page, "z-plot")
    assert f"verdicts: {words.scope(first)}; 16 heads × 4 checkpoints each, any wrong: 5%" in result
    assert "grey: the corruption makes no measurable difference" in result and "hatched" not in result
    assert "gap: 95% interval over prompts, in these runs" in result
    gaps = "pointsOf(curvesOf(GAP, PATCHING_PROMPTS).slice(0, 1), false).map(({mean, low, high}) => [mean, low, high])"
    shown = page.evaluate(gaps)
    assert [low < 0 < high for _, low, high in shown] == [
        (first.judged.words[first.at(step)] == "undefined").all() for step in first.steps
    ]
    page.evaluate("goTo(0)")
    assert len(marked(page, "z-plot")["no gap"]) == 16 and np.isnan(panels(page, "z-plot")["first corruption"]).all()
    choose(page, "Value", "logit difference change")
    assert len(marked(page, "z-plot")["x"]) == 16 and not np.isnan(panels(page, "z-plot")["first corruption"]).any()
    page.evaluate("""() => {
        const {sites: {resid_pre: site}} = DATA.blocks[0];
        site.few = DATA.layouts[site.layout].columns.map((_, i) => i === 0);
        remembered.clear();
        circuitsChanged();
    }""")
    assert "hatched: fewer than half of the prompts have the role" in caption(page, "resid_pre-plot")
    hatched = "document.getElementById('resid_pre-plot').layout.shapes.filter(({name}) => name === 'few').length"
    assert page.evaluate(hatched) == 2  # and in the difference


def test_the_slider_moves_heatmaps_scatter_and_curves(make_output, open_page, report):
    output = make_output(corruptions=("first",))
    page = open_page(report(output))
    page.locator("#checkpoint").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#checkpoint").get_attribute("aria-valuetext") == "checkpoint 16 (3 of 4)"
    assert page.locator("#checkpoint-text").inner_text() == "checkpoint 16 (3 of 4)"
    page.locator("#play").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#checkpoint-text").inner_text() == "checkpoint 8 (2 of 4)"
    rows = z_rows(output).query("step == 8")
    assert panels(page, "z-plot")["first corruption"] == pytest.approx(grid(rows), abs=2e-3)
    assert "checkpoint 8" in caption(page, "z-plot")
    label = page.locator("#z-plot").get_attribute("aria-label")
    top = rows.loc[rows["recovered"].abs().idxmax()]
    assert f"{top['recovered']:.3f} at layer {top['layer']} head {top['head']}" in label
    for curves in ("heads-plot", "lens-lines-plot", "attn-lines-plot", "mlp-lines-plot"):
        draw(page, curves)
        assert page.evaluate("id => document.getElementById(id).layout.shapes.map(({x0}) => x0)", curves) == [8]
    draw(page, "z-v-plot")
    scatter = "({x, y, text}) => [[...x], [...y], text]"
    x, y, text = page.evaluate(f"[document.getElementById('z-v-plot').data[0]].map({scatter})[0]")
    assert y == pytest.approx(rows.sort_values(HEAD)["recovered"].tolist(), abs=2e-3)
    v = load(output).patching.query("site == 'v' and step == 8").sort_values(HEAD)
    assert x == pytest.approx(recovered(v).tolist(), abs=2e-3)
    assert f"{top['layer']}.{top['head']}" in text
    fixed = "document.getElementById('z-v-plot').layout.xaxis.range"
    before = page.evaluate(fixed)
    page.evaluate("goTo(3)")
    draw(page, "z-v-plot")
    assert page.evaluate(fixed) == before
    assert page.evaluate("[...document.getElementById('z-v-plot').data[0].y]") != y


def test_play_goes_on_by_itself_until_it_is_paused(make_output, open_page, report):
    page = open_page(report(make_output()), alone=True)
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    result = page.locator("#checkpoint-text")
    page.locator("#checkpoint").focus()
    page.keyboard.press("Space")  # from the last to the first
    assert (result.inner_text(), page.locator("#play").inner_text()) == ("checkpoint 0 (1 of 4)", "❚❚ Pause")
    page.clock.run_for(700)
    assert result.inner_text() == "checkpoint 8 (2 of 4)"
    page.locator("#play").click()
    page.clock.run_for(3000)
    assert (result.inner_text(), page.locator("#play").inner_text()) == ("checkpoint 8 (2 of 4)", "▶ Play")


def test_play_stops_where_there_is_nothing_to_play_and_the_checkpoint_is_kept(make_output, folders, open_page, report):
    output = make_output(seeds=(0, 1), corruptions=("first",))
    folders.write_patch(output, "run-0.0001-constant-1", "more", "first", name="heads", seed=1)
    page = open_page(report(output), alone=True)
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    choose(page, "Run", "all, seed 0, run-0.0001-constant-0")
    page.locator("#play").click()
    choose(page, "Patching", "heads")  # which this run lacks
    page.clock.run_for(3000)
    result = page.locator("#checkpoint-text")
    assert (result.inner_text(), page.locator("#play").inner_text()) == ("no checkpoint", "▶ Play")
    choose(page, "Patching", "full")
    page.clock.run_for(3000)
    assert result.inner_text() == "checkpoint 0 (1 of 4)"
    page.locator("#play").click()
    assert result.inner_text() == "checkpoint 8 (2 of 4)"


SETTLED = """() => wasNarrow === narrow.matches && pictures.every(({ near, stale, drawn, plot }) =>
    !near || (!stale && !(drawn?.room && Math.abs(drawn.room - plot.clientWidth) > 1)))"""
"""Whether what is in sight is drawn for the window's width."""


def test_pictures_are_redrawn_for_another_width(make_output, open_page, report):
    page = open_page(report(make_output()), width=375, whole=True)
    names = panels(page, "z-plot").keys()
    cells = """(id) => {
        const { xaxis, yaxis, xaxis2 } = document.getElementById(id)._fullLayout;
        return [xaxis._length / 4, yaxis._length / 4, Math.round(xaxis2._offset - xaxis._offset)];
    }"""
    for width, apart in ((375, 0), (1280, 190), (375, 0)):  # pixels from z to v
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_function(SETTLED)
        assert panels(page, "z-plot").keys() == names
        assert page.evaluate(cells, "z-plot") == [pytest.approx(40, abs=0.5), pytest.approx(40, abs=0.5), apart]
    draw(page, "z-v-plot")
    page.wait_for_function(SETTLED)
    across, up, _ = page.evaluate(cells, "z-v-plot")
    assert across == pytest.approx(up, abs=0.5)  # one unit is as long on either axis


def test_the_slider_updates_a_picture_without_rebuilding_it(make_output, open_page, report):
    page = open_page(report(make_output()))
    draw(page, "z-plot")
    page.evaluate("goTo(1)")
    draw(page, "z-plot")
    # While it moves a sketch on a canvas shows the values, and nothing of what Plotly drew before is taken for them.
    moving = """() => {
        window.drawnBefore = document.querySelector("#z-plot .main-svg");
        const plot = document.getElementById("z-plot"), before = JSON.stringify(plot.data.map(({z}) => z));
        goTo(2);
        const {drawn: {traces, layout, panels, size}} = pictures.find((one) => one.plot === plot);
        const [{z}] = traces, {left, top, height} = panels[0], {l, t} = layout.margin;
        const pen = plot.querySelector(".sketch").getContext("2d");
        const values = z.flatMap((row, y) => row.map((value, x) => {
            const across = l + left + (x + 0.2) * size, down = t + top + height - (y + 0.2) * size;
            const [r, , b] = pen.getImageData(across, down, 1, 1).data;
            return [value, r - b];
        }));
        const words = getComputedStyle(plot.querySelector(".annotation")).visibility;
        return [before !== JSON.stringify(traces.map(({z}) => z)), words, values];
    }"""
    is_new, words, values = page.evaluate(moving)
    assert is_new and words == "hidden" and any(abs(value) > 0.05 for value, _ in values)
    assert all((value > 0) == (redder > 0) for value, redder in values if abs(value) > 0.05)
    assert "checkpoint 16" in caption(page, "z-plot")
    kept = page.evaluate("""() => {
        const plot = document.getElementById("z-plot"), {drawn} = pictures.find((one) => one.plot === plot);
        const [one, other] = [plot.data, drawn.traces].map((traces) => JSON.stringify(traces.map(({z}) => z)));
        const svg = document.querySelector("#z-plot .main-svg");
        return one === other && !plot.querySelector(".sketch") && drawnBefore === svg;
    }""")
    assert kept  # building takes twice as long, and one begun before the other's end never ends


def test_every_picture_of_circuits_can_be_read_as_a_table(make_output, open_page, report):
    output = make_output(corruptions=("first",))
    page = open_page(report(output))
    rows = z_rows(output)
    last = rows.query("step == 24").set_index(HEAD)["recovered"]
    expected = {
        "z-plot": (["z, first corruption", "2"], [last[2, head] for head in range(4)]),
        "z-v-plot": (["first corruption", "2.1"], None),
        "heads-plot": (["first corruption"], None),
        "lens-plot": (["first corruption", "resid_pre 0"], None),
        "layer-plot": (["first corruption", "attn 0"], None),
        "mlp-lines-plot": (["first corruption", "mlp 0"], None),
    }
    for plot, (names, values) in expected.items():
        draw(page, plot)
        figure = page.locator(f"figure:has(#{plot})")
        figure.locator("details.numbers summary").click()
        figure.locator(".numbers tbody tr").first.wait_for()
        found = figure.locator(".numbers tbody tr").evaluate_all(
            "(rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent))"
        )
        row = next(row for row in found if row[: len(names)] == names)
        assert len(row) > 2 and any(row[2:])
        if values:
            assert [numbers(text)[0] for text in row[2:]] == pytest.approx(values, abs=2e-3)


def test_one_scale_for_all_heatmaps_and_a_zoom_that_an_address_keeps(make_output, open_page, report):
    output = make_output(by_prompt=True)
    page = open_page(report(output))
    ends = """(id) => {
        const {layout, data} = document.getElementById(id);
        const scales = new Set([...data].filter(({coloraxis}) => coloraxis).map(({coloraxis}) => coloraxis));
        return [...scales].map((name) => [layout[name].cmin, layout[name].cmax, layout[name].colorbar?.title?.text]);
    }"""
    found = panels(page, "z-plot")
    own, less = page.evaluate(ends, "z-plot")
    assert own == [-1, 1, "recovered"]
    most = np.abs(found["second − first"]).max()
    assert less[2] == "difference" and most <= less[1] < 2 * most
    arrows = "document.getElementById('z-plot').layout.shapes.filter(({xsizemode}) => xsizemode === 'pixel').length"
    assert page.evaluate(arrows) == 4 and "colours end at ±1 everywhere" in caption(page, "z-plot")
    texts = "[...document.querySelectorAll('#z-plot .heatmap-label text')].map(({textContent}) => textContent)"
    result = page.evaluate(texts)
    largest = found["first corruption"].max()
    assert f"{largest:.2f}" in result and not {"0.04", "−0.04", "0.00"} & set(result)
    page.evaluate("goTo(1)")
    draw(page, "z-plot")
    assert page.evaluate(ends, "z-plot") == [own, less]  # at all checkpoints
    choose(page, "Colours", "zoom: each panel's own range")
    page.reload()
    assert chosen(page, "Colours") == "zoom: each panel's own range"
    draw(page, "z-plot")
    zoomed = page.evaluate(ends, "z-plot")
    assert len(zoomed) == 9 and largest <= zoomed[0][1] < 1
    assert "each panel's colours span its own range" in caption(page, "z-plot")
    assert f"colours end at ±{zoomed[0][1]:g}" in page.locator("#z-plot").inner_text()


def test_a_value_beyond_the_scale_keeps_its_number(make_output, open_page, report):
    page = open_page(report(make_output(corruptions=("first",))))
    page.evaluate("""() => {
        const {z: {change, clean, corrupted}} = DATA.blocks[0].sites;
        change[3][5] = 1.37 * (clean[3] - corrupted[3]);
        remembered.clear();
        circuitsChanged();
    }""")
    draw(page, "z-plot")
    texts = "[...document.querySelectorAll('#z-plot .heatmap-label text')].map(({textContent}) => textContent)"
    assert "1.4" in page.evaluate(texts)
    assert "arrows of the colour bar: beyond its ends" in caption(page, "z-plot")


def test_positions_name_the_tokens_of_an_example_and_mark_the_changed_one(make_output, open_page, report):
    output = make_output(steps=(24,), by_prompt=True)
    tokens = "When Sarah Emily and Rachel Emily and Rachel gave to".split()
    for file in output.glob("runs/*/patches/*/patch.json"):
        about = json.loads(file.read_text())
        at = {"first": 5, "second": 7}[about["corruption"]]
        about["prompts"][0] |= {"tokens": tokens, "corrupted_tokens": [*tokens[:at], "Sarah", *tokens[at + 1 :]]}
        file.write_text(json.dumps(about))
    page = open_page(report(output))
    draw(page, "resid_pre-plot")
    first, second, less = page.evaluate(
        "['xaxis', 'xaxis2', 'xaxis3'].map((name) => document.getElementById('resid_pre-plot').layout[name].ticktext)"
    )
    assert first[:2] == ["intro 1 · When", "name 1 · Sarah"] and first[-1] == "end · to"
    assert first[5] == "<b>subject 1 · Emily → Sarah</b>" and first[7] == "subject 2 · Rachel"
    assert second[7] == "<b>subject 2 · Rachel → Sarah</b>" and second[5] == "subject 1 · Emily"
    assert [less[5], less[7]] == [first[5], second[7]]
    assert "its token in the first prompt" in caption(page, "resid_pre-plot")
    result = page.evaluate(
        "drawHeatmap('resid_pre', 100).layout.xaxis.ticktext"
    )  # no room for all: for the changed one
    assert first[5] in result and not {first[4], first[6]} & set(result) and 3 < len(result) < 7


def test_a_cell_opens_by_a_click_and_by_keyboard(make_output, open_page, report):
    page = open_page(report(make_output(corruptions=("first",))))
    page.evaluate("openPlace = (...place) => { window.opened = place; }; circuitsChanged()")
    draw(page, "z-plot")
    box = page.locator("#z-plot .nsewdrag").nth(1).bounding_box()  # v
    page.mouse.click(box["x"] + 2.5 / 4 * box["width"], box["y"] + 0.5 / 4 * box["height"])
    page.wait_for_function("window.opened")
    assert page.evaluate("window.opened") == ["v", 3, 2]
    figure = page.locator("figure:has(#resid_pre-plot)")
    draw(page, "resid_pre-plot")
    figure.locator(".numbers summary").click()
    button = figure.locator(".numbers tbody tr").nth(1).get_by_role("button").nth(5)
    button.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("window.opened") == ["resid_pre", 1, "subject 1"]
    figure = page.locator("figure:has(#head-plot)")
    draw(page, "head-plot")
    figure.locator(".numbers summary").click()
    assert not figure.locator(".numbers tbody button").count()  # what a head writes is no patching


def test_the_tables_of_heads_follow_the_slider(make_output, open_page, report):
    output = make_output(steps=range(0, 56, 8), by_prompt=True)
    page = open_page(report(output))
    page.evaluate("goTo(2)")
    one = family_of(output, "first")
    rows = next(iter(table(page).values()))
    recovered = dict(zip(map(words.name, one.places), one.estimate.recovered[one.at(16)], strict=True))
    own = verdicts(one, 16)
    assert {row[0] for row in rows if row[1] == "● matters"} == {
        head for head, word in own.items() if word == "matters"
    }
    assert [numbers(row[2])[0] for row in rows] == pytest.approx([recovered[row[0]] for row in rows], abs=2e-3)
    assert "recovered at 16" in page.locator("#heads-tables").inner_text()
    assert "second − first, recovered at checkpoint 16" in page.locator("#heads-tables").inner_text()
