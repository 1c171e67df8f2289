"""The curves on the page, parallel coordinates, and pictures that are saved."""

from __future__ import annotations

import pandas as pd
import pytest

from mi_sweeps.analysis.frames import load
from mi_sweeps.analysis.summaries import first_step
from tests.analysis.pages import change, draw_parallel, numbers, rows


@pytest.mark.slow
def test_curves_mark_the_first_step_at_the_threshold_that_is_chosen(sweep, opened):
    page = opened(sweep)
    page.fill("#threshold", "0.6")
    page.locator("#threshold").press("Enter")
    expected = first_step(load(sweep).metrics, 0.6)
    assert {row["run"]: row["first step at 0.6"] for row in rows(page)} == {
        run_id: "not reached" if pd.isna(step) else str(step) for run_id, step in expected.items()
    }
    marks = "document.getElementById('curves-plot').data.filter(t => t.marker?.symbol === 'diamond').map(t => t.x[0])"
    assert page.evaluate(marks) == [16, 16]  # of both schedules at the larger learning rate
    page.locator("#curves-controls").get_by_label("Metric").select_option("loss")
    page.fill("#threshold", "1")
    page.locator("#threshold").press("Enter")
    first = "(t => t.map(([x, y]) => [x, y <= 1]))(document.getElementById('curves-plot').data"
    first += ".filter(t => t.marker?.symbol === 'diamond').map(t => [t.x[0], t.y[0]]))"
    assert page.evaluate(first) and all(below for _, below in page.evaluate(first))


@pytest.mark.slow
def test_a_log_axis_shows_step_0_and_refuses_what_has_no_logarithm(sweep, opened):
    page = opened(sweep)
    page.locator("#curves-controls").get_by_label("step", exact=True).check()
    axes = "(p => [p.layout.xaxis.type, p.layout.xaxis.ticktext[0], p.layout.yaxis.type ?? 'linear'])"
    axes += "(document.getElementById('curves-plot'))"
    assert page.evaluate(axes) == ["log", "0", "linear"]
    assert "step + 1" in page.locator("#curves-plot").inner_text()
    page.locator("#curves-controls").get_by_label("value", exact=True).check()
    page.locator("#curves-controls").get_by_label("Metric").select_option("loss")
    assert page.evaluate(axes)[2] == "log"
    lowest = "Math.min(...document.getElementById('curves-plot').data.flatMap(t => t.y).filter(y => y !== null))"
    assert page.evaluate(lowest) > 0  # bands too


@pytest.mark.slow
def test_curves_are_grouped_by_any_keys_and_can_be_read_as_a_table(sweep, opened):
    page = opened(sweep)
    page.locator("#curves-controls").get_by_label("schedule", exact=True).uncheck()
    page.locator("#curves .numbers summary").click()
    table = rows(page, "#curves .numbers table")
    assert list(table[0]) == ["step", "lr 5e-05", "lr 0.0001"]
    assert [row["step"] for row in table] == ["0", "8", "16", "24"]
    assert table[-1]["lr 0.0001"].endswith("n 6")
    result = page.locator("#curves-plot").get_attribute("aria-label")
    assert "n 120 prompts" in result and "Student's t; n 6 runs; over runs on these prompts" in result
    page.locator("#curves-controls").get_by_label("seed", exact=True).check()
    page.locator("#curves-controls").get_by_label("schedule", exact=True).check()
    assert "Wilson" in page.locator("#curves figcaption").inner_text()


@pytest.mark.slow
def test_a_run_counts_once_in_the_curves_of_its_patch_jobs(make_output, folders, opened):
    output = make_output(seeds=(0, 1), corruptions=("first", "second"), layers=2, heads=2)
    for seed in (0, 1):
        folders.write_patch(output, f"run-0.0001-constant-{seed}", f"more-{seed}", "first", name="heads", seed=seed)
    page = opened(output)
    page.locator("#curves-controls").get_by_label("Metric").select_option("clean logit difference")
    page.locator("#curves .numbers summary").click()
    last = rows(page, "#curves .numbers table")[-1]
    assert list(last)[1:] == [
        "corruption first, patching full",
        "corruption first, patching heads",
        "corruption second, patching full",
    ]
    assert all(result.endswith("n 2") for result in list(last.values())[1:])


@pytest.mark.slow
def test_a_zoom_is_no_further_run_of_a_group(make_output, folders, opened):
    """Nor is a second zoom into the same run; if the run itself is left out, one of its zooms replaces it."""
    output = make_output(seeds=(0, 1), corruptions=())
    for name, steps in (("zoom-a", (0, 4, 8)), ("zoom-b", (0, 8, 12))):
        folders.write_run(output, name, steps=steps)
        change(
            output / "runs" / name / "run.json", train={"steps": 24}, checkpoint={"zoom_of": "run-0.0001-constant-0"}
        )
    page = opened(output)
    means = "groupsOf(curvesOf('loss', 'heldout'), [['lr', 'lr']], false)[0].points.map(({ step, n }) => [step, n])"
    assert page.evaluate(means) == [[0, 2], [8, 2], [16, 2], [24, 2]]
    page.evaluate("state.group = []")
    assert page.evaluate("rowsShown().map(({ runs }) => runs.map((run) => run.run_id))") == [
        ["run-0.0001-constant-0", "run-0.0001-constant-1"]
    ]
    only = "eachRunOnce(RUNS.filter((run) => run.run_id.startsWith('zoom'))).map((run) => run.run_id)"
    assert page.evaluate(only) == ["zoom-a"]


@pytest.mark.slow
def test_a_run_that_diverged_is_marked_at_its_last_checkpoint(make_output, folders, opened):
    output = make_output(seeds=(0, 1), corruptions=())
    folders.write_run(output, "stopped", seed=2, steps=(0, 8), diverged=11)
    change(output / "runs" / "stopped" / "run.json", train={"steps": 24})
    page = opened(output)
    found = load(output).metrics.query("run_id == 'stopped' and metric == 'win_rate' and split == 'heldout'")
    crosses = """[...document.getElementById('curves-plot').data].filter(({marker}) => marker?.symbol === 'x')
        .map(({x, y, customdata}) => [[...x], [...y], customdata[0][1]])"""
    expected = [[8], [pytest.approx(found["value"].iloc[-1], rel=1e-4)], "run stopped, seed 2"]
    for runs in ("both", "band", "lines"):
        page.locator("#curves-controls").get_by_label("Runs of a group").select_option(runs)
        assert page.evaluate(crosses) == [expected]
        result = page.locator("#curves figcaption").inner_text()
        assert "✕ last checkpoint of a run that diverged" in result
        assert "1 diverged run left out of means" in result
    means = "groupsOf(curvesOf('win_rate', 'heldout'), shownKeys(), true)[0]"
    means += ".points.map(({step, n, mean}) => [step, n, mean])"
    rates = load(output).metrics.query("run_id != 'stopped' and metric == 'win_rate' and split == 'heldout'")
    assert page.evaluate(means) == [
        [step, 2, pytest.approx(of_step["value"].mean(), rel=1e-4)] for step, of_step in rates.groupby("step")
    ]
    page.get_by_role("button", name="fold seeds").click()
    (row,) = rows(page)
    assert row["runs"] == "3, 1 diverged run left out" and row["status"] == "diverged 1, done 2"
    assert numbers(row["held-out win rate"])[0] == pytest.approx(rates.query("step == 24")["value"].mean(), abs=6e-4)
    page.fill("#filter", "seed!=2")
    assert page.evaluate(crosses) == []
    assert "diverged" not in page.locator("#curves figcaption").inner_text()


@pytest.mark.slow
def test_parallel_coordinates_have_a_line_a_run_and_names_on_their_axes(sweep, opened):
    page = opened(sweep)
    draw_parallel(page)
    page.locator("#parallel-controls").get_by_label("Result").select_option("heldout/loss")
    lines = "document.getElementById('parallel-plot').data.filter(t => t.mode === 'lines').length"
    assert page.evaluate(lines) == 12
    result = page.locator("#parallel-plot").inner_text()
    assert {"lr", "schedule", "seed", "held-out win rate", "loss, held-out", "cosine", "5e-05"} <= set(
        result.split("\n")
    )
    page.locator("#differences .numbers summary").click()
    assert rows(page, "#differences .numbers table")[0]["schedule"] in ("constant", "cosine")


@pytest.mark.slow
def test_pictures_are_saved_under_a_name_and_with_their_runs(sweep, opened, tmp_path):
    page = opened(sweep)
    page.fill("#filter", "lr=1e-4 schedule=cosine")
    for format, begins in (("PNG", b"\x89PNG"), ("SVG", b"<svg")):
        page.locator("#curves-plot").hover()
        with page.expect_download() as download:
            page.locator(f"#curves-plot [data-title='Save as {format}']").click()
        name = download.value.suggested_filename
        assert name.startswith("win-rate-on-held-out-prompts-by-lr-and-schedule-run-0.0001-cosine-0")
        download.value.save_as(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        assert content.startswith(begins)
    text = content.decode()
    assert all(f"run-0.0001-cosine-{seed}" in text for seed in range(3))
    assert "Win rate on held-out prompts" in text and "Student's t" in text


@pytest.mark.slow
def test_pictures_are_saved_by_keyboard_too(sweep, opened):
    page = opened(sweep)
    page.locator("#curves .numbers summary").focus()
    page.keyboard.press("Enter")
    page.locator("#curves .numbers tbody tr").first.wait_for()  # made once it is open, and the buttons anew
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Save as PNG"
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename.endswith(".png")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename.endswith(".csv")
    saved = pd.read_csv(download.value.path())
    shown = rows(page, "#curves .numbers table")
    first = list(shown[0])[1]
    assert list(saved.columns[:4]) == ["step", first, f"{first}, low", f"{first}, high"] and len(saved) == len(shown)
    value, low, high, result = saved.iloc[-1, 1:5]
    assert shown[-1][first] == f"{value:g} [{low:g}, {high:g}] {result}"


@pytest.mark.slow
def test_numbers_that_are_saved_are_numbers(opened, sweep):
    page = opened(sweep)
    table = {
        "head": ["head", "a, b", "c"],
        "rows": [["2.1", "−0.5 [−1e−05, 0.2], n 3", 'x "y"'], ["3.0", "no gap", "z"]],
    }
    assert page.evaluate("csv", table).splitlines() == [
        'head,"a, b","a, b, low","a, b, high","a, b, note",c',
        '2.1,-0.5,-1e-05,0.2,n 3,"x ""y"""',
        "3.0,,,,no gap,z",
    ]


@pytest.mark.slow
def test_hover_texts_show_names_unchanged(make_output, folders, opened):
    name = "%{x} <b>100%</b> &amp; %{customdata}"
    output = make_output()
    folders.write_run(output, "odd", schedule=name)
    page = opened(output)
    page.locator("#curves-plot").scroll_into_view_if_needed()
    trace = "data.findIndex((trace) => trace.name?.includes('100') && trace.mode === 'lines+markers')"
    page.evaluate(
        f"(plot) => Plotly.Fx.hover(plot, [{{curveNumber: plot.{trace}, pointNumber: 1}}])",
        page.query_selector("#curves-plot"),
    )
    result = page.locator("#curves-plot .hoverlayer").text_content()
    assert f"schedule {name}checkpoint 8: " in result and "run odd" in result
