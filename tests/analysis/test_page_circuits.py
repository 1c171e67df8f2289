"""The page's circuits in a real browser: what a reader can choose, and that the numbers are those of the tables."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from mi_sweeps.analysis.frames import load
from mi_sweeps.analysis.inference import words
from mi_sweeps.analysis.inference.courses import courses
from mi_sweeps.analysis.inference.differences import difference
from mi_sweeps.analysis.inference.families import family, jobs, means
from mi_sweeps.analysis.summaries import recovered, with_approximate
from tests.analysis.test_page import draw

pytestmark = pytest.mark.slow

HOSTILE = "</script><img src=x onerror=\"document.title='pwned'\"> & {{js}}"
HEAD = ["layer", "head"]


def choose(page, label, option):
    """Choose by label one of the controls of the circuits."""
    control(page, label).select_option(label=option)


def chosen(page, label):
    return control(page, label).evaluate("select => select.selectedOptions[0].textContent")


def control(page, label):
    return page.locator("#circuits label, #bar label", has_text=re.compile(f"^{label}")).locator("select")


def site_of(plot):
    return plot.removesuffix("-plot").replace("-approximate", " (approximate)")


def panels(page, plot):
    """The values of a site's heatmaps, by the panel's name."""
    draw(page, plot)
    values = "[...document.getElementById(id).data].filter((trace) => trace.coloraxis).map(({name, z}) => [name, z])"
    found = page.evaluate(f"id => {values}", plot)
    own = f"{site_of(plot)}, "  # where several sites are side by side
    several = any(name.startswith(own) for name, _ in found)
    return {name.removeprefix(own): np.array(z, dtype=float) for name, z in found if not several or own in name}


def marked(page, plot, panel=0):
    """The cells of a site's panel by their mark, as layer.head; "no gap": those that are grey."""
    draw(page, plot)
    found = page.evaluate(
        """([id, site, panel]) => {
            const {data, layout} = document.getElementById(id), maps = [...data].filter((trace) => trace.coloraxis);
            const several = maps.some(({name}) => name.startsWith(`${site}, `));
            const {yaxis} = maps.filter(({name}) => !several || name.startsWith(`${site}, `))[panel];
            const there = [...data].filter((trace) => trace.yaxis === yaxis && !trace.coloraxis);
            const grey = ({z}) => z.flatMap((row, y) => row.map((one, x) => [one, `${y}.${x}`]))
                .filter(([one]) => one === 1).map(([, cell]) => cell);
            const cell = (x, y) => `${Math.round(y)}.${Math.round(x)}`;
            const points = ({x, y}) => [...x].map((_, i) => cell(x[i], y[i]));
            const at = (dot) => cell(...dot.split("L")[0].split(",").map(Number));
            const dots = ({path}) => path.slice(1).split("M").map(at);
            const drawn = layout.shapes.filter(({yref, name}) => yref === yaxis && name && name !== "few");
            const traces = there.map((trace) => [trace.name, trace.z ? grey(trace) : points(trace)]);
            return [...traces, ...drawn.map((shape) => [shape.name, dots(shape)])];
        }""",
        [plot, site_of(plot), panel],
    )
    cells = {}
    for name, own in found:
        cells.setdefault(name, set()).update(own)
    return cells


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


def jobs_of(output, corruption, *run_ids):
    """The patch jobs of some runs, or of all, with what they found prompt by prompt."""
    frames = load(output)
    patches = frames.patches.query("corruption == @corruption")
    patches = patches[patches["run_id"].isin(run_ids or frames.runs["run_id"])]
    return jobs(frames.output, frames.runs, patches["patch_id"], attribution=True)


def family_of(output, corruption, *run_ids, site="z"):
    """What inference finds of a site."""
    return family(site, jobs_of(output, corruption, *run_ids))


def verdicts(family, step, judged=None):
    """The verdict of each head at a checkpoint."""
    found = (judged or family.judged).words[family.at(step)]
    return {words.name(place): str(one) for place, one in zip(family.places, found, strict=True)}


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


def test_the_filter_reaches_the_circuits_and_means_leave_diverged_runs_out(make_output, folders, open_page, report):
    output = make_output(lrs=(1e-4, 2e-4), seeds=(0, 1), layers=2, heads=2, by_prompt=True)
    folders.write_run(output, "stopped", seed=2, steps=(0, 8), diverged=11)
    about = output / "runs" / "stopped" / "run.json"
    about.write_text(about.read_text().replace('"steps": 8', '"steps": 24'))
    small = {"steps": (0, 8), "layers": 2, "heads": 2, "by_prompt": True}
    for corruption in ("first", "second"):
        folders.write_patch(output, "stopped", f"stopped-{corruption}", corruption, seed=2, **small)
    page = open_page(report(output))
    offered = "Object.values(units()).flat().map(([unit, result]) => [unit, result])"
    result = dict(page.evaluate(offered))
    assert result["setting:lr 0.0001"] == "lr 0.0001: mean of 2 runs, 1 diverged run left out"
    assert result["all:"] == "all settings: mean of 4 runs, 1 diverged run left out"
    assert "run_id:stopped" in result
    assert page.evaluate("familyOf('setting:lr 0.0001', 'first', 'z').runs.map((run) => RUNS[run].run_id)") == [
        "run-0.0001-constant-0",
        "run-0.0001-constant-1",
    ]
    row = page.evaluate("RUNS.find(({ run_id }) => run_id === 'run-0.0002-constant-1')['top_recovered/first']")
    of_run = z_rows(output).query("run_id == 'run-0.0002-constant-1' and step == 24 and corruption == 'first'")
    assert row == pytest.approx(of_run.loc[of_run["recovered"].abs().idxmax(), "recovered"], abs=2e-4)
    left = "Object.values(unitsLeft()).flat().map(([unit]) => unit)"
    page.fill("#filter", "lr=2e-4 seed=1")
    assert page.evaluate(left) == ["run_id:run-0.0002-constant-1"]
    assert page.evaluate("state.circuits.unit") == "run_id:run-0.0002-constant-1"
    draw(page, "glance-plot")
    assert page.evaluate("unique([...glancePlaces.values()].map(({ unit }) => unit))") == [
        "run_id:run-0.0002-constant-1"
    ]
    page.fill("#filter", "lr=7")
    assert "The filter" in page.locator("#findings-rows").inner_text()
    page.fill("#filter", "")
    assert set(page.evaluate(left)) == set(result)


def test_sentences_on_heads_follow_their_verdicts(make_output, open_page, report):
    output = make_output(steps=range(0, 56, 8), by_prompt=True)
    page = open_page(report(output))
    found = {name: family_of(output, name) for name in ("first", "second")}
    result, tables = page.locator("#heads-text").inner_text(), list(table(page).items())
    assert len(tables) == 3
    for (name, one), (title, rows) in zip(found.items(), tables, strict=False):
        assert f"{name} corruption: all, seed 0" in title
        assert f"{name.capitalize()} corruption: {' '.join(words.sentences(one, courses(one)))}" in result
        low, high = one.interval
        at = one.at(48)
        known = dict(
            zip(
                map(words.name, one.places),
                zip(one.estimate.recovered[at], low[at], high[at], one.estimate.gain[at], strict=True),
                strict=True,
            )
        )
        matter = [head for head, verdict in verdicts(one, 48).items() if verdict == "matters"]
        since = {words.name(course.place): course for course in courses(one)}
        assert [row[0] for row in rows] == sorted(matter, key=lambda head: -abs(known[head][0]))
        for head, verdict, value, gain, course in rows:
            assert verdict == "● matters"
            assert [*numbers(value), *numbers(gain)] == pytest.approx(known[head], abs=2e-3)
            own = since[head]
            assert course == f"{own.course.value} at {own.onset} [{own.onset_low}, {own.onset_high}]"
    rest = page.locator("#heads-tables tfoot").first.inner_text()
    counts = [list(verdicts(found["first"], 48).values()).count(word) for word in ("small", "undecided")]
    assert numbers(rest) == [48, *counts]

    less = difference(found["first"], found["second"])
    at = less.at(48)
    title, rows = tables[2]
    assert title.startswith("second − first, recovered at checkpoint 48 (") and "paired by prompt and run" in title
    assert " ".join(words.differences(less)) in result
    by_head = {words.name(place): i for i, place in enumerate(less.places)}
    for head, _, _, value, comparison in rows:
        i = by_head[head]
        assert numbers(value) == pytest.approx([less.difference[at][i], less.low[at][i], less.high[at][i]], abs=2e-3)
        assert comparison.endswith(less.words[at][i])

    draw(page, "heads-plot")
    best = tables[0][1][0][0]
    curve, band, onset = page.evaluate(
        """(name) => {
            const traces = [...document.getElementById("heads-plot").data]
                .filter(({legendgroup, xaxis}) => legendgroup === name && xaxis === "x");
            const of = (test) => traces.filter(test).map(({x, y}) => [[...x], [...y]])[0];
            const line = of(({mode}) => mode === "lines+markers");
            return [line, of(({fill}) => fill), of(({marker}) => marker?.symbol === "diamond")];
        }""",
        best,
    )
    one = found["first"]
    place = [words.name(place) for place in one.places].index(best)
    recovered, low, high = (one.grid(values)[:, place] for values in (one.estimate.recovered, *one.interval))
    assert [value is None for value in curve[1]] == np.isnan(recovered).tolist()  # where there is no gap
    assert curve[1][2:] == pytest.approx(recovered[2:].tolist(), abs=2e-3)
    assert band[1] == pytest.approx([*high[2:], *low[2:][::-1]], abs=2e-3)
    assert onset[0] == [next(course.onset for course in courses(one) if words.name(course.place) == best)]
    assert "no line: the corruption makes no measurable difference" in caption(page, "heads-plot")
    choose(page, "Curves", "at most 3 heads")
    draw(page, "heads-plot")
    lines = "[...document.getElementById('heads-plot').data].filter(({showlegend}) => showlegend).length"
    assert page.evaluate(lines) == 3
    assert "the 3 largest of" in caption(page, "heads-plot")


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


def test_a_group_is_about_other_seeds_and_only_heads_shown_to_matter_are_named(make_output, open_page, report):
    output = make_output(seeds=(0, 1, 2), corruptions=("first",), by_prompt=True)
    page = open_page(report(output))
    one = family_of(output, "first")
    assert "matters" not in verdicts(one, 24).values() and "matters" in verdicts(one, 24, one.judged_here).values()
    here = {head for head, verdict in verdicts(one, 24, one.judged_here).items() if verdict == "matters"}
    result = page.locator("#heads-text").inner_text()
    assert "No head is shown to matter at checkpoint 24" in result and "other prompts and other seeds" in result
    ((_, rows),) = table(page).items()
    assert {row[0] for row in rows} == here
    assert {row[1] for row in rows} == {"○ matters in these runs, undecided for other seeds"}
    assert marked(page, "z-plot")["h"] == here
    assert "none is shown to matter; the 5 largest heads" in caption(page, "heads-plot")
    page.evaluate("""() => {
        const [found] = DATA.families.filter(({site, runs}) => site === "z" && runs.length === 3);
        found.courses = {"0.2": {course: "lost", onset: null, low: null, high: null, last: 16, peak: -0.31}};
        circuitsChanged();
    }""")
    assert table(page).popitem()[1][0][::4] == ["0.2", "lost; last mattered at 16, -0.31 at its largest"]
    # Bands of what layers write are over prompts and seeds.
    written = means(jobs_of(output, "first"), "layer")
    part = written.parts.index(("attn", 3, None))
    low, high = (values.reshape(4, -1)[:, part] for values in (written.low, written.high))
    draw(page, "attn-lines-plot")
    area = page.evaluate("[...[...document.getElementById('attn-lines-plot').data].filter(({fill}) => fill)[3].y]")
    assert area == pytest.approx([*high, *low[::-1]], abs=2e-3)
    assert "12 prompts, 3 runs; for other prompts and other seeds" in caption(page, "attn-lines-plot")


def test_without_inference_the_page_says_so_and_shows_no_interval(make_output, open_page, report):
    page = open_page(report(make_output(seeds=(0, 1), corruptions=("first",))))
    assert "tables lack values by prompt" in page.locator("#heads-text").inner_text()
    page.evaluate("FAMILIES.clear(); ATTRIBUTION.clear(); remembered.clear(); circuitsChanged()")
    assert "there is no inference for this choice" in page.locator("#heads-text").inner_text()
    assert table(page) == {}
    for plot in ("heads-plot", "attn-lines-plot"):
        draw(page, plot)
        assert page.evaluate("id => [...document.getElementById(id).data].filter(({fill}) => fill).length", plot) == 0
    assert marked(page, "z-plot") == {}
    assert "there is no inference for this choice" in caption(page, "z-plot")
    assert "no band" in caption(page, "attn-lines-plot")


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


def test_the_choices_survive_a_reload(make_output, folders, open_page, report):
    output = make_output(lrs=(1e-4, 3e-4), seeds=(0, 1), layers=2, heads=2)
    folders.write_patch(output, "run-0.0001-constant-1", "more", "first", name="heads", seed=1)
    page = open_page(report(output))
    choices = {
        **{"Run": "lr 0.0003: mean of 2 runs", "Compare with": "lr 0.0001, seed 1, run-0.0001-constant-1"},
        **{"Corruption": "second", "against": "first", "Value": "logit difference change"},
        **{"Over runs": "spread (standard deviation)", "Patched": "v (head value)", "Curves": "at most 3 heads"},
    }
    for label, option in choices.items():
        choose(page, label, option)
    page.locator("#play").focus()
    page.keyboard.press("ArrowLeft")
    page.reload()
    assert {label: chosen(page, label) for label in choices} == choices
    assert page.locator("#checkpoint-text").inner_text() == "checkpoint 16 (3 of 4)"
    page.locator("#checkpoint").focus()
    page.keyboard.press("ArrowLeft")
    choose(page, "Patching", "heads")
    page.reload()
    assert page.locator("#checkpoint-text").inner_text() == "checkpoint 8 (2 of 4)"
    assert chosen(page, "Patching") == "heads"


def test_corruptions_and_two_units_side_by_side_with_their_difference(make_output, open_page, report):
    output = make_output(lrs=(1e-4, 3e-4), seeds=(0, 1), by_prompt=True)
    page = open_page(report(output))
    rows = z_rows(output).query("step == 24").merge(load(output).runs[["run_id", "lr"]], on="run_id")
    of = {
        (lr, corruption): grid(rows[(rows["lr"] == lr) & (rows["corruption"] == corruption)])
        for lr in (1e-4, 3e-4)
        for corruption in ("first", "second")
    }
    choose(page, "Run", "lr 0.0001: mean of 2 runs")
    found = panels(page, "z-plot")
    assert list(found) == ["first corruption", "second corruption", "second − first"]
    assert found["second − first"] == pytest.approx(of[1e-4, "second"] - of[1e-4, "first"], abs=2e-3)
    choose(page, "Corruption", "second")
    choose(page, "against", "first")  # the other way round
    turned = panels(page, "z-plot")
    assert list(turned) == ["second corruption", "first corruption", "second − first"]
    assert (turned["second − first"] == found["second − first"]).all()
    choose(page, "Corruption", "first")
    choose(page, "against", "second")
    choose(page, "Compare with", "lr 0.0003: mean of 2 runs")
    found = panels(page, "z-plot")
    assert len(found) == 6
    for corruption in ("first", "second"):
        assert found[f"A, {corruption} corruption"] == pytest.approx(of[1e-4, corruption], abs=2e-3)
        assert found[f"B − A, {corruption} corruption"] == pytest.approx(
            of[3e-4, corruption] - of[1e-4, corruption], abs=2e-3
        )
    assert "A: lr 0.0001: mean of 2 runs; B: lr 0.0003: mean of 2 runs" in caption(page, "z-plot")
    a, b = (f"lr 0.0001, seed {seed}, run-0.0001-constant-{seed}" for seed in (0, 1))
    less = difference(*(family_of(output, "first", f"run-0.0001-constant-{seed}") for seed in (0, 1)))
    signs = dict(zip(map(words.name, less.places), less.words[less.at(24)], strict=True))
    more, fewer = ({head for head, sign in signs.items() if sign == word} for word in ("more", "less"))
    assert more and fewer
    values = {}
    for run, other in ((a, b), (b, a)):
        choose(page, "Run", run)
        choose(page, "Compare with", other)
        ((title, found),) = [one for one in table(page).items() if one[0].startswith("B − A, first corruption")]
        values[run] = {row[0]: (numbers(row[3])[0], row[4][2:]) for row in found}
        assert marked(page, "z-plot", 2)["+"] == (more if run == a else fewer)
        assert (" ".join(words.differences(less)) in page.locator("#heads-text").inner_text()) == (run == a)
    assert {head for head, (value, sign) in values[a].items() if value > 0 and sign == "more"} == more
    turn = {"more": "less", "less": "more"}
    assert values[b] == {head: (-value, turn.get(sign, sign)) for head, (value, sign) in values[a].items()}
    choose(page, "Run", "lr 0.0001: mean of 2 runs")
    choose(page, "Compare with", "nothing")
    choose(page, "Corruption", "second")
    assert list(panels(page, "z-plot")) == ["second corruption"]
    choose(page, "Run", "all settings: mean of 4 runs")
    pooled = grid(rows.query("corruption == 'second'"))
    assert panels(page, "z-plot")["second corruption"] == pytest.approx(pooled, abs=2e-3)


def test_spread_over_runs(make_output, open_page, report):
    output = make_output(seeds=(0, 1, 2), corruptions=("first",))
    page = open_page(report(output))
    choose(page, "Over runs", "spread (standard deviation)")
    rows = z_rows(output).query("step == 24")
    found = panels(page, "z-plot")
    assert found["first corruption"] == pytest.approx(grid(rows, how="std"), abs=2e-3)
    assert "Standard deviation over runs" in caption(page, "z-plot") and "all seeds: 3 runs" in caption(page, "z-plot")
    assert page.evaluate("document.getElementById('z-plot').layout.coloraxis.cmin") == 0
    choose(page, "Compare with", "all, seed 1, run-0.0001-constant-1")
    assert list(panels(page, "z-plot")) == ["A, first corruption"]
    assert "z, B, first corruption" in caption(page, "z-plot") and "one run has no spread" in caption(page, "z-plot")
    choose(page, "Compare with", "nothing")
    choose(page, "Run", "all, seed 1, run-0.0001-constant-1")
    assert not page.locator("#circuits-controls label", has_text="Over runs").count()  # it has none
    assert panels(page, "z-plot")["first corruption"] == pytest.approx(
        grid(rows[rows["run_id"] == "run-0.0001-constant-1"]), abs=2e-3
    )
    assert caption(page, "z-plot").startswith("Recovered by patching z, v, pattern, checkpoint 24")


def test_estimates_alone_are_never_shown_as_patched(make_output, open_page, report):
    output = make_output(corruptions=("first",), approximate=True, exact=False)
    page = open_page(report(output))
    assert panels(page, "z-approximate-plot")["first corruption"] == pytest.approx(
        grid(z_approximate(output)), abs=2e-3
    )
    assert "z (approximate)" in caption(page, "z-approximate-plot")
    assert "z (approximate) against v (approximate)" in caption(page, "z-v-plot")
    assert "there are no verdicts" in page.locator("#heads-text").inner_text()
    assert page.locator("#z-plot").count() == 0


def z_approximate(output):
    rows = load(output).patching.query("site == 'z' and step == 24")
    return rows.assign(recovered=recovered(rows.assign(patched=rows["approximate"]))).astype(
        {"layer": int, "head": int}
    )


def test_a_run_that_lacks_a_corruption_says_so(make_output, folders, open_page, report):
    output = make_output(seeds=(0,), corruptions=("first", "second"))
    folders.write_run(output, "lone", seed=1)
    folders.write_patch(output, "lone", "lone-first", "first", seed=1)
    folders.write_sweep(output, "more", [folders.point("lone", "lone-first", "first", seed="1")])
    page = open_page(report(output))
    choose(page, "Run", "all, seed 1, lone")
    assert list(panels(page, "z-plot")) == ["first corruption"]
    assert "second corruption: not examined at this checkpoint" in caption(page, "z-plot")
    result = page.locator("#heads-text").inner_text()
    assert "Second corruption: z was not patched in all, seed 1, lone." in result
    assert "second corruption: not examined" in caption(page, "heads-plot")


def test_hostile_names_are_text_everywhere(make_output, folders, open_page, report):
    output = make_output(seeds=(0,), corruptions=("first",))
    folders.write_run(output, "bad<b>", schedule=HOSTILE)
    folders.write_patch(output, "bad<b>", "bad-first", HOSTILE, name=HOSTILE, prompt=HOSTILE)
    folders.write_sweep(output, "bad", [folders.point("bad<b>", "bad-first", HOSTILE)])
    page = open_page(report(output), width=375, dark=True)
    show = "(id) => showCircuits(`run_id:${id}`)"
    page.evaluate(show, "run-0.0001-constant-0")
    choose(page, "Patching", HOSTILE)  # which this run lacks
    assert page.locator("#checkpoint-text").inner_text() == "no checkpoint"
    page.evaluate(show, "bad<b>")
    choose(page, "Corruption", HOSTILE)
    assert page.locator("#checkpoint-text").inner_text() == "checkpoint 24 (4 of 4)"
    for plot in ("z-plot", "heads-plot", "z-v-plot", "lens-lines-plot"):
        draw(page, plot)
    assert HOSTILE in page.locator("#heads-text").text_content()
    assert page.locator("img").count() == 0
    assert "pwned" not in page.title()
    assert page.evaluate("document.documentElement.scrollWidth") == 375


def test_one_run_offers_nothing_to_compare(make_output, open_page, report):
    page = open_page(report(make_output(corruptions=("first",))))
    labels = page.locator("#circuits-controls label, #bar label").all_inner_texts()
    assert not [label for label in labels if label.startswith(("Compare", "Over", "against"))]
    assert list(panels(page, "z-plot")) == ["first corruption"]


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


def test_without_patch_jobs_there_is_nothing_but_a_word(make_output, open_page, report):
    page = open_page(report(make_output(corruptions=())))
    assert page.locator("#circuits").inner_text().splitlines()[-1] == "No checkpoint has been examined yet."


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


def test_a_model_without_mlps_has_no_picture_of_them(make_output, open_page, report):
    page = open_page(report(make_output(corruptions=("first",), steps=(24,))))
    there = "pictures.map(({plot}) => plot.id)"
    assert {"attn-lines-plot", "mlp-lines-plot"} <= set(page.evaluate(there))
    page.evaluate("""() => {
        const renamed = (name) => name.replace("mlp", "attn");
        for (const {layer} of DATA.blocks) layer.components = layer.components.map(renamed);
        pictures.length = 0;
        addCircuitsPictures();
    }""")
    assert "attn-lines-plot" in page.evaluate(there) and "mlp-lines-plot" not in page.evaluate(there)
