"""The page's circuits in a real browser: what a reader chooses there, and whether the numbers are the tables'."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mi_sweeps.analysis.frames import load
from mi_sweeps.analysis.report import write_report
from mi_sweeps.analysis.summaries import band, recovered, with_approximate

HOSTILE = "</script><img src=x onerror=\"document.title='pwned'\"> & {{js}}"
HEAD = ["layer", "head"]


def choose(page, label, option):
    """Choose by label one of the controls of the circuits."""
    control(page, label).select_option(label=option)


def chosen(page, label):
    return control(page, label).evaluate("select => select.selectedOptions[0].textContent")


def control(page, label):
    return page.locator("#circuits label", has_text=re.compile(f"^{label}")).locator("select")


def draw(page, plot):
    """Scroll to a picture and wait until it is drawn as the controls have it."""
    page.locator(f"figure:has(#{plot})").scroll_into_view_if_needed()
    page.wait_for_function("id => pictures.some(({plot, near, stale}) => plot.id === id && near && !stale)", arg=plot)


def panels(page, plot):
    """The values of a picture's heatmaps, by the panel's name."""
    draw(page, plot)
    found = page.evaluate("id => document.getElementById(id).data.map(({name, z}) => [name, z])", plot)
    return {name: np.array(z, dtype=float) for name, z in found}


def caption(page, plot):
    draw(page, plot)
    return page.locator(f"figure:has(#{plot}) figcaption").inner_text()


def z_rows(output):
    """Recovered by patching each head's output: one row a run, corruption, step and head."""
    rows = with_approximate(load(output).patching).query("site == 'z'")
    return rows.assign(recovered=recovered(rows), change=rows["patched"] - rows["corrupted"]).astype(
        {"layer": int, "head": int}
    )


def grid(rows, value="recovered", how="mean"):
    """Layer × head."""
    return rows.groupby(HEAD)[value].agg(how).unstack().to_numpy()


def first_at_half(curve):
    """The first step at which a curve (step → value) is at half of its last value."""
    curve = curve.dropna().sort_index()
    return curve.index[(curve / curve.iloc[-1] >= 0.5).to_numpy()][0]


def table(page):
    """The tables of heads by their caption: rows of text."""
    found = page.evaluate("""() => {
        const cells = (row) => [...row.cells].map((cell) => cell.textContent);
        const tables = [...document.querySelectorAll("#heads-tables table")];
        return tables.map((table) => [table.caption.textContent, [...table.tBodies[0].rows].map(cells)]);
    }""")
    return dict(found)


def numbers(text):
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text)]


def test_the_table_of_heads_says_what_the_tables_say(make_output, open_page):
    output = make_output(seeds=(0, 1, 2), steps=range(0, 56, 8))
    page = open_page(write_report(output))
    tables = table(page)
    assert list(tables) == [f"{name} corruption: all: mean of 3 runs" for name in ("first", "second")]
    rows = z_rows(output)
    for name, told in zip(("first", "second"), tables.values(), strict=True):
        of_one = rows.query("corruption == @name")
        last = {
            value: band(of_one.query("step == 48"), HEAD, value).set_index(HEAD) for value in ("recovered", "change")
        }
        largest = last["recovered"]["mean"].abs().nlargest(5).index
        assert [row[0] for row in told] == [f"{layer}.{head}" for layer, head in largest]
        for head, row in zip(largest, told, strict=True):
            for value, cell, half in (("recovered", row[1], row[2]), ("change", row[3], row[4])):
                assert numbers(cell) == pytest.approx(last[value].loc[head, ["mean", "low", "high"]].tolist(), abs=2e-3)
                curve = of_one.set_index(HEAD).loc[[head]].groupby("step")[value].mean()
                assert numbers(half)[0] == first_at_half(curve)
            assert row[5] == "3"
        best = told[0]
        sentence = page.locator("#heads-told p", has_text=f"Under the {name} corruption").inner_text()
        assert f"head {best[0]} alone brings back {best[1]} of the logit difference at checkpoint 48" in sentence
    layer, head = (int(part) for part in tables["first corruption: all: mean of 3 runs"][0][0].split("."))
    best = rows.query("corruption == 'first' and layer == @layer and head == @head")
    steps = [first_at_half(of_run.set_index("step")["change"]) for _, of_run in best.groupby("run_id")]
    assert numbers(tables["first corruption: all: mean of 3 runs"][0][4])[1:] == [min(steps), max(steps)]


def test_heads_by_another_site_and_as_many_as_asked_for(make_output, open_page):
    output = make_output()
    page = open_page(write_report(output))
    choose(page, "Patched", "v (head value)")
    choose(page, "Heads", "top 3")
    told = next(iter(table(page).values()))
    patching = load(output).patching.query("site == 'v' and corruption == 'first' and step == 24")
    values = patching.assign(recovered=recovered(patching)).set_index(HEAD)["recovered"]
    largest = values.abs().nlargest(3).index
    assert [row[0] for row in told] == [f"{layer}.{head}" for layer, head in largest]
    assert [float(row[1]) for row in told] == pytest.approx(values.loc[largest].tolist(), abs=2e-3)
    assert len(told[0]) == 5  # one run has neither n nor others to agree with
    draw(page, "heads-plot")
    lines = page.evaluate("[...document.getElementById('heads-plot').data].filter(({showlegend}) => showlegend).length")
    assert lines == 3


def test_curves_of_heads_have_a_gap_without_a_denominator_and_mark_the_half(make_output, open_page):
    output = make_output(corruptions=("first",), steps=(0, 24, 32, 40))
    page = open_page(write_report(output))
    draw(page, "heads-plot")
    line, mark = page.evaluate(
        "document.getElementById('heads-plot').data.slice(0, 2).map(({name, x, y}) => [name, [...x], [...y]])"
    )
    layer, head = (int(part) for part in line[0].split("."))
    rows = z_rows(output).query("layer == @layer and head == @head").set_index("step")["recovered"]
    assert line[1] == [0, 24, 32, 40] and line[2][0] is None  # clean and corrupted differ by 0.04 at step 0
    assert line[2][1:] == pytest.approx(rows.tolist()[1:], abs=2e-3)
    assert mark[:2] == [line[0], [first_at_half(rows)]]
    assert "differ by less than 0.1 logits" in caption(page, "heads-plot")
    assert next(iter(table(page).values()))[0][2] == "24 (no value before)"


def test_the_slider_moves_heatmaps_scatter_and_curves(make_output, open_page):
    output = make_output(corruptions=("first",))
    page = open_page(write_report(output))
    page.locator("#checkpoint").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#checkpoint").get_attribute("aria-valuetext") == "checkpoint 16 (3 of 4)"
    assert page.locator("#checkpoint-told").inner_text() == "checkpoint 16 (3 of 4)"
    page.locator("#play").focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#checkpoint-told").inner_text() == "checkpoint 8 (2 of 4)"
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


def test_play_goes_on_by_itself_until_it_is_paused(make_output, open_page):
    page = open_page(write_report(make_output()))
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    told = page.locator("#checkpoint-told")
    page.locator("#checkpoint").focus()
    page.keyboard.press("Space")  # from the last to the first
    assert (told.inner_text(), page.locator("#play").inner_text()) == ("checkpoint 0 (1 of 4)", "❚❚ Pause")
    page.clock.run_for(700)
    assert told.inner_text() == "checkpoint 8 (2 of 4)"
    page.locator("#play").click()
    page.clock.run_for(3000)
    assert (told.inner_text(), page.locator("#play").inner_text()) == ("checkpoint 8 (2 of 4)", "▶ Play")


def test_play_stops_where_there_is_nothing_to_play_and_the_checkpoint_is_kept(make_output, folders, open_page):
    output = make_output(seeds=(0, 1), corruptions=("first",))
    folders.write_patch(output, "run-0.0001-constant-1", "more", "first", name="heads", seed=1)
    page = open_page(write_report(output))
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    choose(page, "Run", "all, seed 0, run-0.0001-constant-0")
    page.locator("#play").click()
    choose(page, "Patching", "heads")  # which this run lacks
    page.clock.run_for(3000)
    told = page.locator("#checkpoint-told")
    assert (told.inner_text(), page.locator("#play").inner_text()) == ("no checkpoint", "▶ Play")
    choose(page, "Patching", "full")
    page.clock.run_for(3000)
    assert told.inner_text() == "checkpoint 0 (1 of 4)"
    page.locator("#play").click()
    assert told.inner_text() == "checkpoint 8 (2 of 4)"


def test_the_choices_survive_a_reload(make_output, folders, open_page):
    output = make_output(lrs=(1e-4, 3e-4), seeds=(0, 1), layers=2, heads=2)
    folders.write_patch(output, "run-0.0001-constant-1", "more", "first", name="heads", seed=1)
    page = open_page(write_report(output))
    choices = {
        **{"Run": "lr 0.0003: mean of 2 runs", "Compare with": "lr 0.0001, seed 1, run-0.0001-constant-1"},
        **{"Corruption": "second", "against": "first", "Value": "logit difference change"},
        **{"Over runs": "spread (standard deviation)", "Patched": "v (head value)", "Heads": "top 3"},
    }
    for label, option in choices.items():
        choose(page, label, option)
    page.locator("#play").focus()
    page.keyboard.press("ArrowLeft")
    page.reload()
    assert {label: chosen(page, label) for label in choices} == choices
    assert page.locator("#checkpoint-told").inner_text() == "checkpoint 16 (3 of 4)"
    page.locator("#checkpoint").focus()
    page.keyboard.press("ArrowLeft")
    choose(page, "Patching", "heads")
    page.reload()
    assert page.locator("#checkpoint-told").inner_text() == "checkpoint 8 (2 of 4)"
    assert chosen(page, "Patching") == "heads"


def test_corruptions_and_two_units_side_by_side_with_their_difference(make_output, open_page):
    output = make_output(lrs=(1e-4, 3e-4), seeds=(0, 1))
    page = open_page(write_report(output))
    rows = z_rows(output).query("step == 24").merge(load(output).runs[["run_id", "lr"]], on="run_id")
    of = {
        (lr, corruption): grid(rows[(rows["lr"] == lr) & (rows["corruption"] == corruption)])
        for lr in (1e-4, 3e-4)
        for corruption in ("first", "second")
    }
    found = panels(page, "z-plot")
    assert list(found) == ["first corruption", "second corruption", "first − second"]
    assert found["first − second"] == pytest.approx(of[1e-4, "first"] - of[1e-4, "second"], abs=2e-3)
    choose(page, "Compare with", "lr 0.0003: mean of 2 runs")
    found = panels(page, "z-plot")
    assert len(found) == 6
    for corruption in ("first", "second"):
        assert found[f"A, {corruption} corruption"] == pytest.approx(of[1e-4, corruption], abs=2e-3)
        difference = of[1e-4, corruption] - of[3e-4, corruption]
        assert found[f"A − B, {corruption} corruption"] == pytest.approx(difference, abs=2e-3)
    assert "A: lr 0.0001: mean of 2 runs; B: lr 0.0003: mean of 2 runs" in caption(page, "z-plot")
    assert len(table(page)) == 4
    choose(page, "Compare with", "nothing")
    choose(page, "Corruption", "second")
    assert list(panels(page, "z-plot")) == ["second corruption"]
    choose(page, "Run", "all settings: mean of 4 runs")
    pooled = grid(rows.query("corruption == 'second'"))
    assert panels(page, "z-plot")["second corruption"] == pytest.approx(pooled, abs=2e-3)


def test_spread_over_runs(make_output, open_page):
    output = make_output(seeds=(0, 1, 2), corruptions=("first",))
    page = open_page(write_report(output))
    choose(page, "Over runs", "spread (standard deviation)")
    rows = z_rows(output).query("step == 24")
    found = panels(page, "z-plot")
    assert found["first corruption"] == pytest.approx(grid(rows, how="std"), abs=2e-3)
    assert "Standard deviation over runs" in caption(page, "z-plot") and "all: 3 runs" in caption(page, "z-plot")
    assert page.evaluate("document.getElementById('z-plot').layout.coloraxis.cmin") == 0
    choose(page, "Run", "all, seed 1, run-0.0001-constant-1")
    assert np.isnan(panels(page, "z-plot")["first corruption"]).all()
    assert "one run has no spread" in caption(page, "z-plot")


def test_bands_of_a_group_are_those_of_its_runs(make_output, open_page):
    output = make_output(seeds=(0, 1, 2), corruptions=("first",))
    page = open_page(write_report(output))
    draw(page, "attn-lines-plot")
    attribution = load(output).attribution.query("kind == 'layer' and component == 'attn' and layer == 3")
    expected = band(attribution, ["step"], "logit_diff")
    area, line = page.evaluate("document.getElementById('attn-lines-plot').data.slice(6, 8).map(({y}) => [...y])")
    assert line == pytest.approx(expected["mean"].tolist(), abs=2e-3)
    assert area == pytest.approx([*expected["high"], *expected["low"][::-1]], abs=2e-3)


def test_estimates_alone_are_never_shown_as_patched(make_output, open_page):
    output = make_output(corruptions=("first",), approximate=True, exact=False)
    page = open_page(write_report(output))
    assert panels(page, "z-approximate-plot")["first corruption"] == pytest.approx(
        grid(z_approximate(output)), abs=2e-3
    )
    assert "z (approximate)" in caption(page, "z-approximate-plot")
    assert "z (approximate) against v (approximate)" in caption(page, "z-v-plot")
    assert "patching z (approximate) of head" in page.locator("#heads-told").inner_text()
    assert page.locator("#z-plot").count() == 0


def z_approximate(output):
    rows = load(output).patching.query("site == 'z' and step == 24")
    return rows.assign(recovered=recovered(rows.assign(patched=rows["approximate"]))).astype(
        {"layer": int, "head": int}
    )


def test_a_run_that_lacks_a_corruption_says_so(make_output, folders, open_page):
    output = make_output(seeds=(0,), corruptions=("first", "second"))
    folders.write_run(output, "lone", seed=1)
    folders.write_patch(output, "lone", "lone-first", "first", seed=1)
    folders.write_sweep(output, "more", [folders.cell("lone", "lone-first", "first", seed="1")])
    page = open_page(write_report(output))
    choose(page, "Run", "all, seed 1, lone")
    assert list(panels(page, "z-plot")) == ["first corruption"]
    assert "second corruption: not examined at this checkpoint" in caption(page, "z-plot")
    assert (
        "Under the second corruption, z was not patched in all, seed 1, lone."
        in page.locator("#heads-told").inner_text()
    )
    assert "second corruption: not examined" in caption(page, "heads-plot")


def test_hostile_names_are_text_everywhere(make_output, folders, open_page):
    output = make_output(seeds=(0,), corruptions=("first",))
    folders.write_run(output, "bad<b>", schedule=HOSTILE)
    folders.write_patch(output, "bad<b>", "bad-first", HOSTILE, name=HOSTILE, prompt=HOSTILE)
    folders.write_sweep(output, "bad", [folders.cell("bad<b>", "bad-first", HOSTILE)])
    page = open_page(write_report(output), width=375, dark=True)
    show = "(id) => showCircuits(`run_id:${id}`)"
    page.evaluate(show, "run-0.0001-constant-0")
    choose(page, "Patching", HOSTILE)  # which this run lacks
    assert page.locator("#checkpoint-told").inner_text() == "no checkpoint"
    page.evaluate(show, "bad<b>")
    choose(page, "Corruption", HOSTILE)
    assert page.locator("#checkpoint-told").inner_text() == "checkpoint 24 (4 of 4)"
    for plot in ("z-plot", "heads-plot", "z-v-plot", "lens-lines-plot"):
        draw(page, plot)
    assert HOSTILE in page.locator("#heads-tables").inner_text()
    assert page.locator("img").count() == 0
    assert "pwned" not in page.title()
    assert page.evaluate("document.documentElement.scrollWidth") == 375


def test_one_run_offers_nothing_to_compare(make_output, open_page):
    page = open_page(write_report(make_output(corruptions=("first",))))
    labels = page.locator("#circuits-controls label").all_inner_texts()
    assert not [label for label in labels if label.startswith(("Compare", "Over", "against"))]
    assert list(panels(page, "z-plot")) == ["first corruption"]


def test_pictures_are_drawn_anew_for_another_width(make_output, open_page):
    page = open_page(write_report(make_output()), width=375)
    names = panels(page, "z-plot").keys()
    axes = """() => {
        const { xaxis, xaxis2, xaxis3, _size: size } = document.getElementById("z-plot")._fullLayout;
        return [xaxis, xaxis2, xaxis3].map(({domain}) => Math.round((domain[1] - domain[0]) * size.w));
    }"""
    for width, least in ((375, 240), (1280, 300), (375, 240)):
        page.set_viewport_size({"width": width, "height": 800})
        assert panels(page, "z-plot").keys() == names
        assert min(page.evaluate(axes)) > least  # pixels of each panel


def test_without_patch_jobs_there_is_nothing_but_a_word(make_output, open_page):
    page = open_page(write_report(make_output(corruptions=())))
    assert page.locator("#circuits").inner_text().splitlines()[-1] == "No checkpoint has been examined yet."


def test_the_slider_changes_a_picture_and_does_not_build_it_anew(make_output, open_page):
    page = open_page(write_report(make_output()))
    draw(page, "z-plot")
    kept = page.evaluate("""async () => {
        const svg = () => document.querySelector("#z-plot .main-svg"), before = svg();
        goTo(1);
        await new Promise((done) => setTimeout(done, 200));
        return before === svg();
    }""")
    assert kept  # building takes twice as long, and one begun before the other's end never ends


def test_every_picture_of_circuits_can_be_read_as_a_table(make_output, open_page):
    output = make_output(corruptions=("first",))
    page = open_page(write_report(output))
    rows = z_rows(output)
    last = rows.query("step == 24").set_index(HEAD)["recovered"]
    expected = {
        "z-plot": (["first corruption", "2"], [last[2, head] for head in range(4)]),
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
            assert [float(text) for text in row[2:]] == pytest.approx(values, abs=2e-3)
