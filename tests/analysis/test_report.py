"""The page: one file, no network, all text escaped, and panels that move together."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from unittest.mock import ANY

import numpy as np
import pandas as pd
import pytest

from mi_sweeps.analysis import folder, report
from mi_sweeps.analysis.approximate import correlations
from mi_sweeps.analysis.frames import load, tabulate
from mi_sweeps.analysis.report import place, write_report
from mi_sweeps.analysis.spikes import expected
from mi_sweeps.analysis.summaries import recovered
from mi_sweeps.errors import UserError


class Page(HTMLParser):
    """The tags of a page with their attributes, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data

    @property
    def data(self):
        return json.loads(self.scripts[0])


def test_the_page_is_one_file_that_loads_nothing(hostile_output):
    file = write_report(hostile_output)
    assert file == hostile_output / "report.html"
    page = Page(file.read_text())
    assert [dict(attributes).get("type") for tag, attributes in page.tags if tag == "script"] == [
        "application/json", None, None,
    ]  # fmt: skip
    assert not [tag for tag, _ in page.tags if tag in ("img", "link", "iframe", "object")]
    loads = [attributes[key] for _, attributes in page.tags for key in ("src", "href") if key in attributes]
    assert all(target.startswith("#") for target in loads)
    policy = next(attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'")


@pytest.mark.slow
def test_hostile_text_is_data_and_never_markup(hostile_output, folders):
    text = write_report(hostile_output).read_text()
    assert "<img" not in text.split('id="data">')[1].split("</script>")[0]
    data = Page(text).data
    assert folders.hostile in data["runs"]["error"]
    assert folders.hostile in data["runs"]["schedule"]
    assert any(prompt["clean"] == folders.hostile for prompts in data["prompts"] for prompt in prompts)
    assert "<title>mi-sweeps: demo, later&lt;i&gt;</title>" in text
    assert text.count("mi-sweeps run sweep=demo") == 1  # the data is there once


def test_the_page_says_what_the_tables_say(make_output):
    output = make_output(steps=(0, 24))
    data = Page(write_report(output).read_text()).data
    block = next(block for block in data["blocks"] if block["corruption"] == "second")
    site = block["sites"]["z"]
    layout = data["layouts"][site["layout"]]
    assert (layout["axis"], layout["layers"], layout["columns"]) == ("head", [0, 1, 2, 3], [0, 1, 2, 3])
    assert data["steps"][site["steps"]] == [0, 24]
    patching = load(output).patching
    row = patching.query("corruption == 'second' and step == 24 and site == 'z' and layer == 3 and head == 1")
    shown = site["change"][1][3 * 4 + 1] / (site["clean"][1] - site["corrupted"][1])
    assert shown == pytest.approx(recovered(row).iloc[0], abs=1e-4)
    positions = data["layouts"][block["sites"]["resid_pre"]["layout"]]["columns"]
    assert positions[:2] + positions[-1:] == ["intro 1", "name 1", "end"]  # in reading order
    assert block["layer"]["components"][-2:] == ["embed", "bias"]
    assert block["layer"]["components"][:2] == ["attn 0", "mlp 0"]


def test_estimates_alone_are_shown_by_that_name(make_output, folders):
    output = make_output(steps=(0, 24), corruptions=("first",), approximate=True)
    folders.write_patch(
        output, "run-0.0001-constant-0", "estimates", "both", steps=(0, 24), approximate=True, exact=False
    )
    data = Page(write_report(output).read_text()).data
    both, estimates = data["blocks"]
    assert {"z", "resid_pre"} <= set(both["sites"])
    assert all(site.endswith(" (approximate)") for site in estimates["sites"])
    frames = load(output)
    found = correlations(frames.patching).query("site == 'z'")
    assert both["sites"]["z"]["r"] == [None, pytest.approx(found["r"].iloc[-1], abs=6e-4)]
    assert "r" not in estimates["sites"]["z (approximate)"]
    site = estimates["sites"]["z (approximate)"]
    row = frames.patching.query("corruption == 'both' and step == 24 and site == 'z' and layer == 3 and head == 1")
    shown = site["corrupted"][1] + site["change"][1][3 * 4 + 1]
    assert shown * data["unit"] == pytest.approx(row["approximate"].iloc[0], abs=2e-4)


@pytest.mark.slow
def test_a_position_that_some_prompts_lack_has_its_own_denominator(make_output):
    output = make_output(steps=(0, 24), corruptions=("first",), by_prompt=True)
    data = Page(write_report(output).read_text()).data
    block = data["blocks"][0]
    assert block["n"] == 12
    site = block["sites"]["resid_pre"]
    columns = data["layouts"][site["layout"]]["columns"]
    patching = load(output).patching.query("step == 24 and site == 'resid_pre' and layer == 2")
    for row in patching.assign(recovered=recovered(patching)).itertuples():
        at = columns.index(row.position)
        shown = site["change"][1][2 * len(columns) + at] / site["room"][1][at]
        assert shown == pytest.approx(row.recovered, abs=1e-4)
    assert patching["n"].nunique() == 2
    whole = patching[patching["position"] == "end"].iloc[0]
    assert site["clean"][1] * data["unit"] == pytest.approx(whole["clean"], abs=1e-4)
    assert "room" not in block["sites"]["z"]


@pytest.mark.slow
def test_estimates_and_paths_cost_the_page_little(make_output, tmp_path):
    before = len(json.dumps(Page(write_report(make_output(by_prompt=True)).read_text()).data))
    shutil.rmtree(tmp_path / "outputs")
    output = make_output(by_prompt=True, approximate=True, paths=True)
    assert len(json.dumps(Page(write_report(output).read_text()).data)) < 1.1 * before


@pytest.mark.slow
def test_a_page_that_would_be_too_large_shows_fewer_checkpoints_and_says_so(make_output):
    output = folder.read(make_output(seeds=(0, 1), steps=range(0, 200, 8)))
    frames = tabulate(output)
    full = report.page(output, frames)
    limit = len(full.encode()) - 50_000
    small = report.page(output, frames, limit)
    assert len(small.encode()) <= limit
    data = Page(small).data
    steps = data["steps"][data["blocks"][0]["sites"]["z"]["steps"]]
    assert steps[0] == 0 and steps[-1] == 192 and len(steps) < 25
    assert re.search(r"one checkpoint in \d", data["note"])
    assert Page(full).data["note"] == ""


@pytest.mark.slow
def test_a_page_of_one_long_run_is_kept_small_too(make_output):
    output = folder.read(make_output(steps=range(0, 200, 8), corruptions=("first",), measures=True))
    frames = tabulate(output)
    limit = len(report.page(output, frames).encode()) - 15_000
    small = report.page(output, frames, limit)
    assert len(small.encode()) <= limit
    data = Page(small).data
    (block,) = data["blocks"]
    for part in (block["sites"]["z"], block["lens"], block["measure:ablated_loss"]):
        steps = data["steps"][part["steps"]]
        assert steps[0] == 0 and steps[-1] == 192 and len(steps) < 25
    assert re.search(r"shown for 1 run, at one checkpoint in \d", data["note"])


def test_of_a_large_sweep_some_checkpoints_are_read_and_the_page_says_so(make_output, monkeypatch):
    output = make_output(seeds=(0, 1), steps=range(0, 40, 8))
    monkeypatch.setattr(report, "MOST", 12)
    data = Page(write_report(output).read_text()).data
    assert len(data["blocks"]) == 4
    assert all(data["steps"][block["sites"]["z"]["steps"]] == [0, 16, 32] for block in data["blocks"])
    assert "shown for 2 runs, at one checkpoint in 2 and the last" in data["note"]


def test_what_is_not_finite_is_missing(make_output):
    output = make_output(steps=(0, 24), corruptions=("first",))
    (file,) = output.glob("runs/*/metrics.parquet")
    metrics = pd.read_parquet(file)
    metrics.loc[(metrics["metric"] == "loss") & (metrics["step"] == 24), "value"] = np.inf
    metrics.loc[(metrics["metric"] == "win_rate") & (metrics["step"] == 24), "value"] = -np.inf
    metrics.to_parquet(file)
    (table,) = output.glob("runs/*/patches/*/tables/000024.parquet")
    rows = pd.read_parquet(table)
    rows.assign(patched=np.inf, logit_diff=-np.inf).to_parquet(table)
    (run,) = (output / "runs").iterdir()
    (run / "audit.json").write_text('{"splits": {}, "share": NaN}')
    about = json.loads((run / "run.json").read_text())
    about["config"]["train"]["diverged"] = np.inf
    (run / "run.json").write_text(json.dumps(about))
    data = Page(write_report(output).read_text()).data
    assert (data["config"]["same"]["train.diverged"], data["audits"][0]["audit"]["share"]) == ("inf", "NaN")
    losses = [series["value"] for series in data["series"] if series["metric"] == "loss"]
    assert losses and all(first > 0 and last is None for first, last in losses)
    assert data["runs"]["win_rate"] == [None]
    assert set(data["blocks"][0]["sites"]["z"]["change"][1]) == {None}
    assert data["blocks"][0]["lens"]["value"][1][0] is None


def test_an_empty_folder_makes_a_page(tmp_path):
    assert Page(write_report(tmp_path, to=tmp_path / "new" / "page.html").read_text()).data["blocks"] == []


def test_a_folder_in_the_page_s_place_is_refused_in_one_line(make_output, tmp_path):
    with pytest.raises(UserError) as result:
        write_report(make_output(steps=(0,)), to=tmp_path)
    assert str(result.value).startswith(f"{tmp_path}: is a folder; ") and f"{tmp_path / 'report.html'}" in str(
        result.value
    )


def test_pages_of_different_sweeps_are_different_files(tmp_path):
    assert place(tmp_path, ()) == tmp_path / "report.html"
    assert place(tmp_path, ["b", "a", "b"]) == place(tmp_path, ["a", "b"]) == tmp_path / "report-a+b.html"
    assert place(tmp_path, "ab") == tmp_path / "report-ab.html"
    assert len({place(tmp_path, names) for names in ((), ["a"], ["b"], ["a", "b"], ["a-b"])}) == 5
    with pytest.raises(UserError, match="50 sweeps have too long a file name together; give a file with --to"):
        place(tmp_path, [f"sweep{number}" for number in range(50)])


@pytest.mark.slow
def test_losses_of_batches_are_thinned_and_their_spikes_are_kept(make_output, open_page):
    output = make_output(steps=(0, 24))
    run = next((output / "runs").iterdir())
    losses = np.exp(-np.arange(1000) / 300)
    losses[[333, 700]] *= 20
    rows = [
        {"step": step, "split": "batch", "metric": "loss", "value": loss, "n": 8} for step, loss in enumerate(losses)
    ]
    before = pd.read_parquet(run / "metrics.parquet")
    pd.concat([before, pd.DataFrame(rows)]).to_parquet(run / "metrics.parquet")
    file = write_report(output)
    data = Page(file.read_text()).data
    (batch,) = [series for series in data["series"] if series["split"] == "batch"]
    assert data["steps"][batch["steps"]] == list(range(0, 1000, 5))
    assert batch["value"] == pytest.approx(losses[::5], rel=1e-4)
    assert batch["spikes"] == [[step, pytest.approx(losses[step], rel=1e-4)] for step in (333, 700)]
    assert batch["expected_spikes"] == pytest.approx(expected(losses), abs=1e-3)
    assert not any("spikes" in series for series in data["series"] if series["split"] != "batch")
    result = open_page(file).evaluate("curvesNote(curvesOf('loss', 'batch'), [], { keys: [], legend: {} })")
    assert "2 found, 0.0 expected of independent noise of the run's own spread" in result


@pytest.mark.slow
def test_measures_are_lines_of_the_page(make_output, open_page):
    output = make_output(steps=(0, 24))
    for table in output.glob("runs/*/patches/*/tables/*.parquet"):
        step = int(table.stem)
        measured = [
            {"kind": "measure", "measure": "previous_token", "component": "head", "layer": 1, "head": 2, "value": 0.25},
            {"kind": "measure", "measure": "position_r2", "component": "resid_pre", "layer": 0, "value": step / 24},
            {"kind": "measure", "measure": "ablated_loss", "component": "none", "value": 1.5 - step / 24},
        ]
        frame = pd.concat([pd.read_parquet(table), pd.DataFrame(measured).assign(n=64)])
        frame.to_parquet(table)
    file = write_report(output)
    block = Page(file.read_text()).data["blocks"][0]
    assert block["measure:previous_token"]["components"] == ["head 1.2"]
    assert block["measure:position_r2"] == {
        "components": ["resid_pre 0"],
        "steps": ANY,
        "value": [[0], [10000]],
        "n": 64,
    }
    assert block["measure:ablated_loss"]["components"] == ["none"]
    page = open_page(file)
    page.wait_for_selector("#measures-title")
    assert page.locator("#measures-title").is_visible()
    page.locator("#position_r2-plot").scroll_into_view_if_needed()
    page.wait_for_selector("#position_r2-plot .main-svg")
    drawn = page.evaluate("document.getElementById('position_r2-plot').data[0]")
    assert (list(drawn["x"]), list(drawn["y"])) == ([0, 24], [0, 1])
    caption = page.locator("figure:has(#position_r2-plot) figcaption").inner_text()
    assert "Linear probe of position" in caption
