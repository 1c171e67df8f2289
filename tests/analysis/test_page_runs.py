"""The table of runs on the page: sorting, filter, groups, columns, and what failed."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mi_sweeps.analysis.frames import load
from mi_sweeps.analysis.intervals import over_runs
from mi_sweeps.analysis.summaries import band
from tests.analysis.pages import change, group_by, numbers, rows


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


@pytest.mark.slow
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
    for part in ("lr=5e-5 matches 6 runs", "seed=7 matches none", "0, 1, 2", "cosine matches 6 runs"):
        assert part in result.inner_text()
    page.fill("#filter", "lr=3e-5")
    assert "lr=3e-5 matches none" in result.inner_text() and "5e-05, 0.0001" in result.inner_text()
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


@pytest.mark.slow
def test_seeds_are_folded_by_one_button_and_unfolded_by_the_same(sweep, opened):
    page = opened(sweep)
    page.get_by_role("button", name="fold seeds").click()
    assert len(rows(page)) == 4
    assert page.locator("#runs-count").inner_text() == "12 of 12 runs in 4 groups"
    assert {row["seed"] for row in rows(page)} == {"0, 1, 2"}
    page.get_by_role("button", name="fold seeds").click()
    assert len(rows(page)) == 12


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_runs_that_ended_worse_than_they_began_are_named_first(make_output, folders, opened):
    output = make_output(seeds=(0, 1), corruptions=())
    folders.write_run(output, "fell", seed=2)
    folders.turn(output, "fell")
    notice = opened(output).locator("#top .notice")
    assert notice.count() == 1
    assert " ".join(notice.inner_text().split()).startswith("Worse than at the start: 1 run fell")


@pytest.mark.slow
def test_two_runs_of_one_setting_and_seed_are_distinguished_by_their_ids(make_output, folders, opened):
    output = make_output(seeds=(0,), corruptions=())
    for name in ("0123456789ab", "fedcba987654"):
        folders.write_run(output, name, seed=2, diverged=11)
    result = opened(output).evaluate("RUNS.map(distinctText)")
    same = sorted(text for text in result if "seed 2" in text)
    assert len(same) == 2 and "run 0123" in same[0] and "run fedc" in same[1]


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
