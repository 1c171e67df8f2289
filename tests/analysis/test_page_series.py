"""Series on the page, next to fine-tunes."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from mi_sweeps.analysis.report import write_report
from tests.analysis.pages import draw, rows

pytestmark = pytest.mark.slow


def data_of(file):
    return json.loads(file.read_text().split('id="data">')[1].split("</script>")[0])


def logs(output, run_id, *metrics):
    """Adds what a trainer logged at every step."""
    file = output / "runs" / run_id / "metrics.parquet"
    found = pd.read_parquet(file)
    theirs = [(step, "trainer", metric, 3 - step / 10, 0) for step in range(25) for metric in metrics]
    pd.concat([pd.DataFrame(theirs, columns=found.columns), found]).to_parquet(file)


def traces(page, plot):
    draw(page, plot.removeprefix("#"))
    page.wait_for_selector(f"{plot} .main-svg")
    page.wait_for_function(
        "id => pictures.some(({plot, near, stale}) => `#${plot.id}` === id && near && !stale)", arg=plot
    )
    found = "({ name, mode, fill, x, y }) => ({ name, mode, fill, x: [...x], y: [...y] })"
    return page.evaluate(f"plot => document.querySelector(plot).data.map({found})", plot)


def test_the_data_has_gaps_with_reasons_and_nothing_of_training(make_output, make_series, report):
    make_output(corruptions=("first",))
    output = make_series(corruptions=("first",))
    logs(output, "series", "loss")
    data = data_of(report(output))
    assert data["missing"] == [None, {"steps": [16], "lines": ["16: /their/run/checkpoint-16: not there"]}]
    assert data["runs"]["missing_steps"] == [None, "16"] and data["runs"]["lr"] == [1e-4, None]
    series = {(one["split"], one["metric"]): one for one in data["series"] if one["run"] == 1}
    assert data["steps"][series["heldout", "win_rate"]["steps"]] == [0, 8, 24]
    assert data["steps"][series["trainer", "loss"]["steps"]] == list(range(25))  # it is of no checkpoint
    assert "optim.lr" in data["config"]["differs"]


def test_lines_are_broken_at_missing_steps_and_training_is_not_shown(make_output, make_series, open_page, report):
    make_output(lrs=(1e-4, 2e-4), corruptions=("first",), by_prompt=True)
    output = make_series(seeds=(1, 2), corruptions=("first",), by_prompt=True)
    logs(output, "series-2", "loss", "learning_rate")
    page = open_page(report(output))
    table = {row["run"]: row for row in rows(page)}
    assert [table[name]["missing steps"] for name in ("series-1", "series-2")] == ["", "16"]
    assert table["series-1"]["lr"] == "" and table["series-1"]["seed"] == "1"
    assert table["series-2"]["first step at 0.9"] == "24 (no checkpoint at 16)"
    assert "schedule constant" not in page.locator("#runs-same").inner_text().split(". ")[0]
    assert "at 16: /their/run/checkpoint-16: not there" in page.locator("#top").inner_text()

    drawn = traces(page, "#curves-plot")
    mean, band = (next(one for one in drawn if one["name"] == "model series" and key(one)) for key in (
        lambda one: one["mode"] == "lines+markers", lambda one: one["fill"] == "toself"))  # fmt: skip
    assert mean["x"] == [0, 8, 16, 24] and mean["y"][2] is None and None not in mean["y"][:2]
    assert None in band["x"] and 16 not in band["x"]
    single = [one["y"] for one in drawn if one["name"] == "model series" and one["mode"] == "lines" and not one["fill"]]
    assert sorted(None in values for values in single) == [False, True]  # the other seed is there
    result = page.locator("#curves-pictures figcaption").inner_text()
    assert "run series-2, seed 2: 16: /their/run/checkpoint-16: not there" in result

    page.locator("#curves-controls label:has-text('Metric') select").select_option("loss")
    page.locator("#curves-controls label:has-text('Split') select").select_option("trainer")
    result = page.locator("#curves-pictures figcaption").inner_text()
    assert "Loss logged by its own trainer" in result and "no checkpoint" not in result and "0 prompts" not in result
    (curve,) = [one for one in traces(page, "#curves-plot") if one["mode"] == "lines+markers"]
    assert curve["x"] == list(range(25)) and None not in curve["y"]

    page.locator("#bar label:has-text('Run') select").first.select_option("run_id:series-2")
    for plot in ("#heads-plot", "#attn-lines-plot"):
        lines = [one for one in traces(page, plot) if one["mode"] == "lines+markers"]
        assert lines and all(one["y"][one["x"].index(16)] is None for one in lines)
    text = page.locator("body").inner_text()
    assert "seed null" not in text and "fine-tune" not in text


def test_checkpoints_far_apart_have_a_log_axis(make_series, open_page, report):
    steps = (0, 1, 2, 4, 64, 512, *range(1000, 9000, 1000))
    output = make_series(corruptions=("first",), steps=steps, missing_steps={}, by_prompt=True)
    page = open_page(report(output))
    assert not {"seed", "lr", "schedule"} & set(rows(page)[0])
    for plot in ("#curves-plot", "#attn-lines-plot"):
        assert max(x for one in traces(page, plot) for x in one["x"] if x) == 8001
        axis = page.evaluate("plot => document.querySelector(plot).layout.xaxis", plot)
        assert axis["type"] == "log" and axis["ticktext"][0] == "0" and "512" in axis["ticktext"]
    page.locator("#curves-controls").get_by_label("step", exact=True).uncheck()
    assert max(x for one in traces(page, "#curves-plot") for x in one["x"] if x) == 8000


def test_two_networks_of_one_name_are_never_one_group(make_series):
    output = make_series(seeds=(1, 2), corruptions=("first",), missing_steps={}, by_prompt=True)
    groups = lambda: {tuple(one["runs"]) for one in data_of(write_report(output))["families"]}  # noqa: E731
    assert groups() == {(0,), (1,), (0, 1)}
    for seed, parameters in ((1, 70), (2, 160)):
        file = output / "runs" / f"series-{seed}" / "run.json"
        about = json.loads(file.read_text())
        file.write_text(json.dumps({**about, "model": {"architecture": "GPTNeoX", "parameters": parameters}}))
    assert groups() == {(0,), (1,)}
