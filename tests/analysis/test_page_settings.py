"""Settings side by side on the page: at a glance, in curves of several sweeps, and against results."""

from __future__ import annotations

import pytest

from mi_sweeps.analysis.frames import load
from mi_sweeps.analysis.inference.courses import courses
from tests.analysis.page_circuits import caption, family_of, verdicts, z_rows
from tests.analysis.pages import change, draw, draw_parallel, rows

pytestmark = pytest.mark.slow

RATES = {"run-0.0001-constant-0": "lr 0.0001", "run-0.0002-constant-0": "lr 0.0002"}


def test_settings_at_a_glance_and_in_the_table_of_runs(make_output, open_page, report):
    output = make_output(lrs=(1e-4, 2e-4), steps=range(0, 56, 8), layers=3, heads=3, by_prompt=True)
    page = open_page(report(output))
    draw(page, "glance-plot")
    cells = page.evaluate(
        "[...glancePlaces.values()].map((cell) => [cell.unit, cell.step, cell.head, cell.value, cell.onset])"
    )
    table = z_rows(output)
    table["name"] = table["layer"].astype(str) + "." + table["head"].astype(str)
    recovered = table.set_index(["run_id", "corruption", "step", "name"])["recovered"]
    found = {(run_id, name): family_of(output, name, run_id) for run_id in RATES for name in ("first", "second")}
    matter = {
        head for family in found.values() for step in family.steps for head, verdict in verdicts(family, step).items()
        if verdict == "matters"
    }  # fmt: skip
    assert matter and {head for _, _, head, _, _ in cells} == matter
    heat = "$('glance-plot').data[0]"
    assert page.evaluate(f"[{heat}.type, {heat}.zmin, {heat}.zmax]") == ["heatmap", -1, 1]
    drawn = page.evaluate(f"{heat}.z.flat().filter((value) => value !== null)")
    shown = [value for _, _, _, value, _ in cells if value is not None]
    assert sorted(drawn) == pytest.approx(sorted(shown)) and len(shown) < len(cells)  # grey at the start: no gap
    for unit, step, head, value, _ in cells:
        of_run = [recovered[unit.removeprefix("run_id:"), name, step, head] for name in ("first", "second")]
        assert value is None or min(abs(value - one) for one in of_run) < 2e-3

    top, onsets = {}, set()
    for (run_id, name), family in found.items():
        last = recovered[run_id, name, 48]
        heads = sorted((h for h, v in verdicts(family, 48).items() if v == "matters"), key=lambda h: -abs(last[h]))
        top[run_id, name] = heads
        onset = {f"{one.place[0]}.{one.place[1]}": one.onset for one in courses(family)}
        onsets |= {(f"run_id:{run_id}", onset[head], head) for head in onset if onset[head] is not None}
        row = next(row for row in rows(page) if row["run"] == run_id)
        assert row[f"top heads, {name}"] == (", ".join(heads[:3]) or "none shown to matter")
        largest = last.loc[last.abs().idxmax()]
        assert float(row[f"recovered of largest head, {name}"]) == pytest.approx(largest, abs=6e-3)
        assert row.get(f"onset of top head, {name}", "") == str(onset.get(heads[0] if heads else "") or "")
    assert {(unit, step, head) for unit, step, head, _, is_onset in cells if is_onset} == onsets and onsets
    assert "◆ onset" in caption(page, "glance-plot")

    run_id, name = next(key for key in top if top[key])
    page.fill("#filter", f"top_heads/{name}={top[run_id, name][0]}")
    assert {row["run"] for row in rows(page)} == {one for one in RATES if top[run_id, name][0] in top[one, name][:3]}
    page.fill("#filter", "lr=2e-4")
    draw(page, "glance-plot")
    assert page.evaluate("unique([...glancePlaces.values()].map(({ unit }) => unit))") == [
        "run_id:run-0.0002-constant-0"
    ]
    page.fill("#filter", "")
    draw(page, "glance-plot")
    page.locator("#glance-controls select").select_option(label="lr 0.0002: seed 0")
    assert page.evaluate("state.circuits.unit") == "run_id:run-0.0002-constant-0"
    place = "[...glancePlaces.values()].find(({ unit, step }) => unit.includes('0.0001') && step === 32)"
    draw(page, "glance-plot")
    at = page.evaluate(f"""(() => {{
        const {{ x, y }} = {place}, plot = $('glance-plot'), {{ xaxis, yaxis }} = plot._fullLayout;
        plot.scrollIntoView({{ block: "center" }});
        const {{ left, top }} = plot.getBoundingClientRect();
        return [left + xaxis._offset + xaxis.l2p(x), top + yaxis._offset + yaxis.l2p(y)];
    }})()""")
    page.mouse.click(*at)
    assert page.evaluate("[state.circuits.unit, step()]") == ["run_id:run-0.0001-constant-0", 32]


def test_a_brush_filters_the_page_and_settings_have_their_share_of_variance(make_output, open_page, report):
    output = make_output(lrs=(5e-5, 1e-4), schedules=("constant", "cosine"), seeds=(0, 1, 2), corruptions=())
    page = open_page(report(output))
    draw_parallel(page)
    frames = load(output)
    last = frames.metrics.query("metric == 'win_rate' and split == 'heldout' and step == 24").merge(frames.runs)

    def share(key, of=last):
        means = of.groupby(key)["value"].transform("mean")
        return ((means - of["value"].mean()) ** 2).sum() / ((of["value"] - of["value"].mean()) ** 2).sum()

    result = {row["key"]: row for row in rows(page, "#variance table")}
    assert {key: row["η²"] for key, row in result.items()} == {
        key: f"{round(100 * share(key))}%" for key in ("lr", "schedule", "seed")
    }
    assert result["seed"]["by chance alone"] == "18%" and result["lr"]["runs"] == "12"
    assert "does not show causes" in page.locator("#variance").inner_text()

    page.evaluate("$('parallel-plot').scrollIntoView({ block: 'center' })")
    place = """([axis, height]) => {
        const plot = $('parallel-plot'), { xaxis, yaxis } = plot._fullLayout;
        const { left, top } = plot.getBoundingClientRect();
        const at = parallelAxes.findIndex(({ key }) => key === axis);
        return [left + xaxis._offset + xaxis.l2p(at), top + yaxis._offset + yaxis.l2p(height)];
    }"""

    def drag(axis, low, high):
        page.mouse.move(*page.evaluate(place, [axis, low]))
        page.mouse.down()
        page.mouse.move(*page.evaluate(place, [axis, high]))
        page.mouse.up()

    drag("lr", 0.5, 1.04)
    assert page.locator("#filter").input_value() == "lr=0.0001"
    drag("seed", 0.4, 1.04)
    assert page.locator("#filter").input_value() == "lr=0.0001 seed=1,2"
    assert page.locator("#runs-count").inner_text() == "4 of 12 runs" and len(rows(page)) == 4
    assert "4 runs; grey: 8 hidden by the filter" in caption(page, "parallel-plot")
    lines = "$('parallel-plot').data.filter(({ mode, name }) => mode === 'lines' && name !== 'left out').length"
    assert page.evaluate(lines) == 4
    assert "cannot tell: 4 runs for 2 values" in page.locator("#variance").inner_text()
    page.mouse.click(*page.evaluate(place, ["lr", 0.5]))
    assert page.locator("#filter").input_value() == "seed=1,2"
    bars = "$('parallel-plot').data.filter(({ marker }) => marker?.showscale).length"
    assert page.evaluate(bars) == 1
    page.fill("#filter", "run=run-0.0001-cosine-1")
    assert page.evaluate(bars) == 0  # of one value there is no scale
    assert (
        "held-out win rate is 0.942 in all of them"
        in page.locator("figure:has(#parallel-plot) figcaption").inner_text()
    )


def test_curves_of_several_sweeps_are_distinct_and_have_room(make_output, open_page, report):
    rates = [1e-5, 2e-5, 3e-5, 4e-5, 5e-5, 6e-5, 7e-5]
    output = make_output(lrs=rates, schedules=("constant", "cosine"), corruptions=())
    make_output(lrs=[3e-4], corruptions=(), sweep="another-sweep-with-a-long-name")
    about = output / "runs" / "run-0.0003-constant-0" / "run.json"
    change(about, model={"name": "a-model-with-a-long-name"}, task={"name": "another-task-with-a-long-name"})
    page = open_page(report(output))
    draw(page, "curves-plot")
    plot = "(({ _fullLayout: { _size }, offsetWidth }) => [_size.w, offsetWidth])($('curves-plot'))"
    room, width = page.evaluate(plot)
    assert room > 0.85 * width
    named = "$('curves-plot').data.filter(({ showlegend }) => showlegend)"
    named += ".map(({ name, line }) => [name, line.color, line.dash])"
    assert len(page.evaluate(named)) == 12
    assert "the legend names 12 of 15 groups" in caption(page, "curves-plot")
    page.get_by_role("button", name="name all 15 in the legend").click()
    every = page.evaluate(named)
    assert len(every) == len({(colour, dash) for _, colour, dash in every}) == 15
    inside = (
        "[...document.querySelectorAll('#curves-plot .legend')].every((legend) => "
        "legend.getBoundingClientRect().bottom <= $('curves-plot').getBoundingClientRect().bottom)"
    )
    assert page.evaluate(inside)
    page.fill("#filter", "schedule=constant model=mini")  # what is the same for all tells nothing apart
    draw(page, "curves-plot")
    found = page.evaluate(named)
    assert [name for name, _, _ in found] == [f"lr {rate:.0e}" for rate in rates]
    assert len({colour for _, colour, _ in found}) == 7
    assert "the same for all: model mini, task ioi3, schedule constant" in caption(page, "curves-plot")
