"""The page in a real browser: what a reader sees and does there."""

from __future__ import annotations

import json
import re
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest

from mi_sweeps.analysis.frames import load
from mi_sweeps.analysis.intervals import over_runs
from mi_sweeps.analysis.report import write_report
from mi_sweeps.analysis.summaries import band, first_step


@pytest.fixture
def sweep(make_output):
    """Two learning rates, two schedules, three seeds; no circuits."""
    return make_output(lrs=(5e-5, 1e-4), schedules=("constant", "cosine"), seeds=(0, 1, 2), corruptions=())


@pytest.fixture
def opened(open_page, report):
    """Opens the page of an output folder, once its curves are there."""

    def opened(output, **how):
        page = open_page(report(output), **how)
        draw(page, "curves-plot")
        page.wait_for_selector("#curves-plot .main-svg, #curves-plot.empty", state="attached")
        return page

    return opened


def draw(page, plot):
    """Scroll to a picture and wait until it is drawn as the controls have it: pictures are drawn when they are near the
    window, and one that is drawn may push those below it away again."""
    page.locator(f"figure:has(#{plot})").scroll_into_view_if_needed()
    page.wait_for_function(
        """id => {
            const { figure, near, stale } = pictures.find(({ plot }) => plot.id === id) ?? {};
            if (figure && !near) figure.scrollIntoView({ block: "nearest" });
            return near && !stale;
        }""",
        arg=plot,
    )


def rows(page, table="#runs-table"):
    """The text of each row's cells by the heads of its columns."""
    page.wait_for_selector(f"{table} thead th", state="attached")
    heads = page.locator(f"{table} thead th").all_inner_texts()
    return [
        dict(zip(heads, row.locator("th, td").all_inner_texts(), strict=True))
        for row in page.locator(f"{table} tbody tr").all()
    ]


def numbers(text):
    return [float(number) for number in re.findall(r"[+-]?\d+\.?\d*(?:e-?\d+)?", text)]


def group_by(page, *keys):
    for key in keys:
        page.get_by_role("group", name="Group rows by").get_by_label(key, exact=True).check()


def draw_parallel(page):
    draw(page, "parallel-plot")
    page.wait_for_selector("#parallel-plot .main-svg")


def change(run_json, **groups):
    about = json.loads(run_json.read_text())
    for group, values in groups.items():
        about["config"][group] = about["config"].get(group, {}) | values
    run_json.write_text(json.dumps(about))


def test_sorting_says_its_direction_and_keeps_the_focus(sweep, opened):
    page = opened(sweep)
    head = page.get_by_role("button", name="held-out win rate", exact=True)
    head.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    values = [numbers(row["held-out win rate"])[0] for row in rows(page)]
    assert values == sorted(values, reverse=True)
    cell = page.locator("th", has=head)
    assert cell.get_attribute("aria-sort") == "descending"
    assert head.evaluate("button => button === document.activeElement")


FILTERS = {
    "lr>=1e-4": 6,
    "lr<1e-4 schedule=cosine": 3,
    "seed!=2 schedule=cosine,constant": 8,
    "optim.lr=0.0001 seed=0,1": 4,
    "COSINE": 6,
    '"cosine" status=done': 6,
    "status=failed": 0,
    "heldout/loss<100 train.batch_size=16 error=": 12,
    "run=run-0.0001-cosine-1": 1,
    "first_step>1000": 0,
    "lr = 5e-5": 6,
    "lr≥1e-4 seed≠2": 4,
    "LR >=1e-4 Schedule= cosine": 3,
    "seed = 0, 1": 8,
    "seed=0 or seed=1": 8,
    "seed=0 OR schedule = cosine or lr=1e-4": 10,
    "seed=0 and cosine": 2,
    "weight decay=0 first step<=24 held-out win rate > 0": 4,
    "run_id=run-0.0001-cosine-1": 1,
    "run=run-0.0001-constant-0,run-5e-05-cosine-2": 2,
    "schedule.name=cosine batch size=16": 6,
    "": 12,
}
WRONG = {
    "rate=1": r"No key rate\. Did you mean win_rate\? Keys: .*\blr\b.*\bschedule\b.*\bstatus\b",
    "shcedule=cosine": r"Did you mean schedule\?",
    "lrr = 1e-4": r"Did you mean lr\?",
    "zzzzzz=1": r"No key zzzzzz\. Keys:",
    "corruption=first": "belongs to patch jobs",
    "cosine seed=0 or seed=1": "is ambiguous",
    "seed=0 or": "A term is missing after or",
    "loss<1": r"loss can mean (\w+/loss or )+\w+/loss: name one",
    "= 3": "A key is missing before =",
    "lr>fast": "lr>fast: fast is not a number",
    "schedule>=2": "schedule is not a number",
    "seed<": "a number is missing",
    "constructor=1": "No key constructor",
}


def test_the_filter_takes_words_and_expressions(sweep, opened):
    page = opened(sweep)
    for text, found in FILTERS.items():
        page.fill("#filter", text)
        result = page.locator("#runs-count").inner_text()
        assert (text, result) == (text, f"{found} of 12 runs")
        assert page.locator("#runs-table tbody tr").count() == found
        assert page.locator("#filter-error").inner_text() == ""


def test_a_wrong_expression_says_so_and_changes_nothing(sweep, opened):
    page = opened(sweep)
    page.fill("#filter", "seed=1")
    for text, result in WRONG.items():
        page.fill("#filter", text)
        assert re.search(result, page.locator("#filter-error").inner_text())
        assert page.locator("#filter").get_attribute("aria-invalid") == "true"
        assert page.locator("#runs-count").inner_text() == "4 of 12 runs"


def test_a_filter_that_matches_nothing_says_why_term_by_term(sweep, opened):
    page = opened(sweep)
    result = page.locator("#filter-none")
    assert result.inner_text() == ""
    page.fill("#filter", "lr=5e-5 seed=7 cosine")
    assert result.inner_text() == (
        "No run matches all of these together: lr=5e-5 matches 6 runs; seed=7 matches none (there are 0, 1, 2); "
        "cosine matches 6 runs."
    )
    page.fill("#filter", "lr=3e-5")
    assert result.inner_text() == "No run matches this: lr=3e-5 matches none (there are 5e-05, 0.0001)."
    page.fill("#filter", "lr=5e-5")
    assert result.inner_text() == ""


def test_groups_have_the_intervals_of_python(sweep, opened):
    page = opened(sweep)
    assert page.locator("#runs-controls").get_by_label("95% interval").count() == 0  # too few runs for a bootstrap
    group_by(page, "lr", "schedule")
    frames = load(sweep)
    last = frames.metrics.query("metric == 'win_rate' and split == 'heldout' and step == 24").merge(frames.runs)
    expected = band(last, ["lr", "schedule"])
    shown = [numbers(row["held-out win rate"]) for row in rows(page)]
    assert [row["runs"] for row in rows(page)] == ["3"] * 4
    for row, of_page in zip(expected.itertuples(), shown, strict=True):
        assert of_page == pytest.approx([row.mean, max(0, row.low), min(1, row.high)], abs=6e-4)
    note = page.locator("#runs-note").inner_text()
    assert "Student's t; n 3 runs; over runs on these prompts: it does not cover other prompts" in note
    curves = page.evaluate("groupsOf(curvesOf('loss', 'two_name'), [['lr', 'lr']], false).map(group => group.points)")
    losses = frames.metrics.query("metric == 'loss' and split == 'two_name'").merge(frames.runs[["run_id", "lr"]])
    expected = band(losses, ["lr", "step"])
    points = [[point[name] for name in ("mean", "low", "high")] for group in curves for point in group]
    assert points == [
        pytest.approx(row, abs=2e-4) for row in expected[["mean", "low", "high"]].to_numpy().tolist()
    ]  # the page has five digits


def test_seeds_are_folded_by_one_button_and_unfolded_by_the_same(sweep, opened):
    page = opened(sweep)
    page.get_by_role("button", name="fold seeds").click()
    assert len(rows(page)) == 4
    assert page.locator("#runs-count").inner_text() == "12 of 12 runs in 4 groups"
    assert {row["seed"] for row in rows(page)} == {"0, 1, 2"}
    page.get_by_role("button", name="fold seeds").click()
    assert len(rows(page)) == 12


def test_a_baseline_is_compared_pair_by_pair_where_seeds_are_the_same(sweep, opened):
    page = opened(sweep)
    group_by(page, "lr")
    page.locator("#runs-controls").get_by_label("Baseline").select_option(label="lr 5e-05")
    frames = load(sweep)
    last = frames.metrics.query("metric == 'win_rate' and split == 'heldout' and step == 24").merge(frames.runs)
    by_lr = last.pivot(index=["schedule", "seed"], columns="lr", values="value")
    expected = band((by_lr[1e-4] - by_lr[5e-5]).rename("value").to_frame().assign(all=0), ["all"]).iloc[0]
    value, delta = rows(page)[1]["held-out win rate"].split("\n")
    assert delta.startswith("Δ +") and delta.endswith(" p")
    assert numbers(delta) == pytest.approx([expected["mean"], expected["low"], expected["high"]], abs=6e-4)
    assert "baseline" in rows(page)[0]["held-out win rate"]
    page.fill("#filter", "lr=5e-5 seed=7")  # no run: nothing to compare
    page.fill("#filter", "run!=run-0.0001-cosine-2")
    assert rows(page)[1]["held-out win rate"].endswith(" i")  # not the same seeds any more
    page.fill("#filter", "seed=0 schedule=constant")
    assert re.search(r"Δ \+\d\.\d+$", rows(page)[1]["held-out win rate"])  # one run each: no interval


def test_columns_are_chosen_also_metrics_and_keys_of_the_configuration(sweep, opened):
    run = sweep / "runs" / "run-5e-05-cosine-1"
    change(run / "run.json", launcher={"device": "cuda"})
    page = opened(sweep)
    page.locator("#columns-count").click()
    for name in ("loss, two-name", "launcher.device"):
        page.locator("#runs-controls .picker").get_by_label(name, exact=True).check()
    page.locator("#runs-controls .picker").get_by_label("status", exact=True).uncheck()
    shown = {row["run"]: row for row in rows(page)}
    assert "status" not in shown["run-5e-05-cosine-1"]
    assert [shown[name]["launcher.device"] for name in ("run-5e-05-cosine-1", "run-5e-05-cosine-2")] == ["cuda", ""]
    last = load(sweep).metrics.query("run_id == 'run-5e-05-cosine-1' and metric == 'loss' and split == 'two_name'")
    shown_loss = float(shown["run-5e-05-cosine-1"]["loss, two-name"])
    assert shown_loss == pytest.approx(last["value"].iloc[-1], rel=5e-3)


def test_the_configurations_of_chosen_runs_are_compared_key_by_key(sweep, opened):
    change(sweep / "runs" / "run-5e-05-cosine-1" / "run.json", train={"clip": 2.0}, corruption={"name": "second"})
    page = opened(sweep)
    result = {row["key"]: row for row in rows(page, "#differences-table")}
    assert set(result) == {"optim.lr", "schedule.name", "seed", "train.clip"}
    assert result["train.clip"]["values, with the number of runs"] == "2 (1), unset (11)"
    for name in ("run-5e-05-cosine-0", "run-5e-05-cosine-1"):
        page.get_by_label(f"compare the configuration of {name}").check()
    result = {row["key"]: list(row.values())[1:] for row in rows(page, "#differences-table")}
    assert result == {"seed": ["0", "1"], "train.clip": ["unset", "2"]}
    page.get_by_role("button", name="Compare all runs again").click()
    assert page.locator("#runs-table input:checked").count() == 0
    assert page.locator("#differences-table tbody tr").count() == 4


def test_settings_are_shown_with_all_their_digits(make_output, folders, opened):
    output = make_output(corruptions=())
    for lr in (0.000123456, 0.000123457, 3e-5):
        folders.write_run(output, f"{lr:g}-{lr * 1e9:.0f}", lr=lr)
    for run in (output / "runs").iterdir():
        change(run / "run.json", train={"betas": 0.9995 if run.name.startswith("run") else 12345.6})
    page = opened(output)
    result = {row["key"]: sorted(list(row.values())[1:]) for row in rows(page, "#differences-table")}
    assert result["optim.lr"] == ["0.0001", "0.000123456", "0.000123457", "3e-05"]
    assert result["train.betas"] == ["0.9995", "12345.6", "12345.6", "12345.6"]
    assert {"0.000123456", "0.000123457", "3e-05"} < {row["lr"] for row in rows(page)}
    names = "document.getElementById('curves-plot').data.map(trace => trace.legendgroup)"
    assert len(set(page.evaluate(names))) == 4
    page.fill("#filter", "lr=0.000123457")
    assert [row["run"] for row in rows(page)] == ["0.000123457-123457"]


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


def test_runs_that_ended_worse_than_they_began_are_named_first(make_output, folders, opened):
    output = make_output(seeds=(0, 1), corruptions=())
    folders.write_run(output, "fell", seed=2)
    folders.turn(output, "fell")
    notice = opened(output).locator("#top .notice")
    assert notice.count() == 1
    assert " ".join(notice.inner_text().split()).startswith("Worse than at the start: 1 run fell")


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


def test_two_runs_of_one_setting_and_seed_are_distinguished_by_their_ids(make_output, folders, opened):
    output = make_output(seeds=(0,), corruptions=())
    for name in ("0123456789ab", "fedcba987654"):
        folders.write_run(output, name, seed=2, diverged=11)
    result = opened(output).evaluate("RUNS.map(distinctText)")
    assert sorted(result) == ["seed 0", "seed 2, run 01234567", "seed 2, run fedcba98"]


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
def test_the_view_survives_a_reload(sweep, opened):
    page = opened(sweep)
    page.fill("#filter", "seed!=2")
    group_by(page, "schedule")
    page.locator("#runs-controls").get_by_label("Baseline").select_option(label="schedule cosine")
    page.locator("#curves-controls").get_by_label("Metric").select_option("loss")
    page.locator("#curves-controls").get_by_label("step", exact=True).check()
    before = rows(page)
    page.reload()
    draw(page, "curves-plot")
    assert rows(page) == before and len(before) == 2
    assert page.locator("#filter").input_value() == "seed!=2"
    assert page.locator("#curves figcaption").inner_text().startswith("Loss on held-out prompts")
    assert "loss" in unquote(page.url)


@pytest.mark.slow
def test_links_within_the_page_leave_the_view_in_the_address(hostile_output, open_page, report):
    page = open_page(report(hostile_output))
    page.fill("#filter", "seed=0")
    before = page.evaluate("location.href")
    page.locator("a.skip").first.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "findings"
    assert page.locator("#findings-title").bounding_box()["y"] < 400
    page.locator("#trust a[href='#top']").click()
    assert page.evaluate("document.activeElement.id") == "top"
    assert page.evaluate("scrollY") < 100
    assert page.evaluate("location.href") == before and "seed" in before


@pytest.mark.parametrize(
    "hash",
    [
        "#curves",
        "#view=%7B",
        "#view=null",
        '#view={"circuits":{"unit":"run_id:gone","left":7,"patching":"x","at":-1,"over":null},"heads":{"k":"5","site":{}}}',
        '#view={"filter":3,"interval":"bootstrap","group":["x","seed"],"columns":[null],"sort":{"key":"__proto__"},"curves":{"metric":"toString"}}',
        '#view={"group":"lr","baseline":"gone","chosen":[{}],"curves":{"metric":"loss","split":"<b>","by":7,"thresholds":{"loss":"a"}}}',
    ],
)
@pytest.mark.slow
def test_an_address_that_is_wrong_does_no_harm(sweep, opened, hash):
    page = opened(sweep, hash=hash)
    assert page.locator("#runs-table tbody tr").count() in (12, 3)
    assert page.locator("#curves figcaption b").inner_text() != ""
    assert page.evaluate("state.interval") == "student"


@pytest.mark.slow
def test_the_log_of_a_run_is_a_click_away(sweep, opened, tmp_path, open_page):
    (sweep / "runs" / "run-0.0001-cosine-1" / "log.txt").write_text("it went well")
    links = opened(sweep).locator("#runs-table a")
    assert links.count() == 1  # others have no log
    elsewhere = open_page(write_report(sweep, to=tmp_path / "far" / "away" / "page.html"), alone=True)
    elsewhere.locator("#runs-table a").click()
    assert elsewhere.inner_text("body") == "it went well"


def test_the_audit_of_the_prompts_is_shown_once(sweep, opened):
    audit = {
        "names": ["Tom"],
        "splits": {"heldout": {"prompts": 240, "most_frequent_answer": {"answer": "<b>Tom", "share": 0.0417}}},
        "overlap": {"heldout": {"same_text": 3, "same_name_set": 5}},
        "notes": ["two_name: 3 prompts from rows of two names, 5 generated"],
        "slot_rules": {"listed place": 0.3333},
        **{"rows": 10, "kept": 8, "dropped": {"no answer": [3, 7]}},
    }
    runs = sorted((sweep / "runs").iterdir())
    for run in runs[:-1]:
        (run / "audit.json").write_text(json.dumps(audit))
    (runs[-1] / "audit.json").write_text(json.dumps({**audit, "slot_rules": {"listed place": 0.5}}))
    page = opened(sweep)
    assert page.locator("#trust-audits h3").all_inner_texts()[0] == "Prompts of 11 runs"
    assert page.locator("#trust-audits h3").count() == 2
    page.locator("#trust-audits summary", has_text="which runs").click()
    assert page.locator("#trust-audits details").inner_text().count("run-") == 11
    (row,) = rows(page, "#trust-audits > div:first-child table")
    assert row["most frequent answer"] == "<b>Tom 4.17%"
    assert (row["text also in train"], row["name set also in train"]) == ("3", "5")
    result = page.locator("#trust").inner_text()
    assert (
        "listed place 33.3%" in result
        and "3 prompts from rows of two names" in result
        and "no answer: 2 (row 3, 7)" in result
    )
    assert "12 of 12 runs" in result and "mi_sweeps 0.1.0" in result


@pytest.mark.slow
def test_hostile_text_is_shown_and_never_run(hostile_output, opened, folders):
    page = opened(hostile_output, height=16000)
    draw_parallel(page)
    page.get_by_role("button", name="fold seeds").click()
    assert len(rows(page)) == 2  # what failed and what is to do have one schedule
    page.fill("#filter", "bad")
    assert page.locator("#runs-count").inner_text() == "1 of 4 runs in 1 group"
    for box in page.locator("#runs-table input").all():
        box.check()
    page.locator("#columns-count").click()
    assert folders.hostile in page.locator("#top").inner_text()
    assert folders.hostile in page.locator("#runs-table").inner_text()
    assert page.locator("img").count() == 0
    assert page.title() == "mi-sweeps: demo, later<i>"


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


@pytest.mark.slow
def test_failed_and_missing_cells_are_named(make_output, folders, opened):
    output = make_output(seeds=(0, 1))
    folders.write_run(output, "broken", lr=2e-4, state="failed", error="out of memory", steps=(0, 8))
    folders.write_sweep(output, "more", [folders.point("absent", "absent-first", "first", **{"optim.lr": "3e-4"})])
    page = opened(output)
    top = page.locator("#top").inner_text()
    assert "Failed or stopped: 1 run" in top and "broken" in top and "out of memory" in top
    assert "Not started: 1 run, 1 patch job" in top and "absent" in top
    assert "Worse than at the start" not in top
    page.evaluate("RUNS[1].outcome = 'worse than at the start'; $('top').replaceChildren(); drawHeader()")
    assert re.search(
        r"Worse than at the start: 1 run\n.*-1\b.*held-out win rate 0\.\d+", page.locator("#top").inner_text()
    )
    page.fill("#filter", "status=failed")
    assert [row["run"] for row in rows(page)] == ["broken"]
    page.fill("#filter", "lr=3e-4")
    assert [row["status"] for row in rows(page)] == ["todo"]
    page.fill("#filter", "")
    group_by(page, "lr")
    assert {row["lr"]: row["status"] for row in rows(page)} == {
        "0.0001": "done 2",
        "0.0002": "failed 1",
        "0.0003": "todo 1",
    }
    assert "2 of 4 runs" in page.locator("#trust").inner_text()


@pytest.mark.slow
def test_what_is_pressed_stays_in_place_until_it_is_released(make_output, opened):
    """Or a slow click would miss: pictures that have come near push away what is below them."""
    page = opened(make_output(seeds=(0, 1)))
    box = page.get_by_role("group", name="Group rows by").get_by_label("seed", exact=True)
    page.evaluate("watcher.disconnect()")  # near ones are result by hand
    box.scroll_into_view_if_needed()
    at = box.bounding_box()
    page.mouse.move(at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
    page.mouse.down()
    page.evaluate("pictures.forEach(({ figure }) => watcher.observe(figure))")
    page.wait_for_function("() => pictures.some(({ near, stale }) => near && stale)")
    assert box.bounding_box() == at
    page.mouse.up()
    assert page.evaluate("state.group") == ["seed"]
    page.wait_for_function("() => pictures.every(({ near, stale }) => !near || !stale)")


@pytest.mark.slow
def test_one_run_and_none(make_output, opened, tmp_path):
    page = opened(make_output())
    assert len(rows(page)) == 1
    assert page.locator("#differences-table tr").count() == 0
    assert "Wilson" in page.locator("#curves figcaption").inner_text()
    (tmp_path / "empty").mkdir()
    page = opened(tmp_path / "empty")
    assert page.locator("#runs-count").inner_text() == "0 of 0 runs"


@pytest.mark.slow
def test_200_runs(make_output, opened):
    output = make_output(lrs=[k * 1e-5 for k in range(1, 11)], seeds=range(20), corruptions=())
    page = opened(output)
    assert page.locator("#runs-table tbody tr").count() == 200
    page.get_by_role("button", name="fold seeds").click()
    assert [row["runs"] for row in rows(page)] == ["20"] * 10
    assert len(page.locator("#differences-table thead th").all()) == 2  # values side by side would be too many
    page.locator("#runs-controls").get_by_label("95% interval").select_option("bootstrap")
    frames = load(output)
    last = frames.metrics.query("metric == 'win_rate' and split == 'heldout' and step == 24").merge(frames.runs)
    expected = over_runs(last, ["lr"])[["mean", "low", "high"]].to_numpy()
    shown = [numbers(row["held-out win rate"])[:3] for row in rows(page)]
    assert np.array(shown) == pytest.approx(expected, abs=6e-4)
    assert "percentile bootstrap" in page.locator("#runs-note").inner_text()
    page.fill("#filter", "seed!=3")
    assert "Student's t, for fewer than 20 runs; n 19 runs" in page.locator("#runs-note").inner_text()


@pytest.mark.slow
def test_on_a_phone_nothing_is_wider_than_the_page(hostile_output, opened):
    page = opened(hostile_output, width=375, height=6000)
    draw_parallel(page)
    for summary in page.locator("summary:visible").all():
        summary.click()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= 375


@pytest.mark.slow
def test_the_slider_moves_all_panels(hostile_output, opened):
    page = opened(hostile_output, height=16000)
    page.wait_for_selector("#resid_pre-plot .main-svg")
    shown = "ids => ids.map(id => JSON.stringify([...document.getElementById(id).data].map(trace => trace.z)))"
    before = page.evaluate(shown, ["z-plot", "resid_pre-plot"])
    page.locator("#checkpoint").fill("1")
    changed = f"before => ({shown})(['z-plot', 'resid_pre-plot']).every((now, i) => now !== before[i])"
    page.wait_for_function(changed, arg=before)  # Plotly follows when the slider rests
    assert page.locator("#checkpoint-text").inner_text() == "checkpoint 8 (2 of 4)"
    result = page.locator("figure:has(#z-plot) figcaption").inner_text()
    assert re.search(r"approximate against exact: r -?0\.\d{3} to -?0\.\d{3}, n 16", result)
    drawn = page.evaluate("[...document.querySelectorAll('.plot.js-plotly-plot')].map(plot => plot.id)")
    assert set(drawn) >= {
        *("curves-plot", "lens-plot", "layer-plot", "z-plot", "q-plot"),
        *("resid_pre-plot", "attn_out-plot", "mlp_out-plot"),
    }
    page.locator("#bar").get_by_label("Corruption").select_option("both")
    panels = "[...document.getElementById('z-approximate-plot').data].filter(({coloraxis}) => coloraxis).length"
    assert page.evaluate(panels) == 3  # z, v and pattern
