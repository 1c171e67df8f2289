"""The page's circuits in a real browser: what a reader can choose, and that the numbers are those of the tables."""

from __future__ import annotations

import numpy as np
import pytest

from mi_sweeps.analysis.frames import load
from mi_sweeps.analysis.inference import words
from mi_sweeps.analysis.inference.courses import courses
from mi_sweeps.analysis.inference.differences import difference
from mi_sweeps.analysis.inference.families import means
from mi_sweeps.analysis.summaries import recovered
from tests.analysis.page_circuits import (
    caption,
    choose,
    chosen,
    family_of,
    grid,
    jobs_of,
    marked,
    numbers,
    panels,
    table,
    verdicts,
    z_rows,
)
from tests.analysis.pages import draw

pytestmark = pytest.mark.slow


HOSTILE = "</script><img src=x onerror=\"document.title='pwned'\"> & {{js}}"


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


def test_without_patch_jobs_there_is_nothing_but_a_word(make_output, open_page, report):
    page = open_page(report(make_output(corruptions=())))
    assert page.locator("#circuits").inner_text().splitlines()[-1] == "No checkpoint has been examined yet."


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
