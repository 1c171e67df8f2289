"""Tables from an output folder, and measures worked out by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from mi_sweeps.analysis import frames as frames_of
from mi_sweeps.analysis.frames import band, export, first_step, load, recovered, t_95
from mi_sweeps.errors import UserError

TABLES = ("runs", "patches", "metrics", "attribution", "patching")


def test_runs_carry_their_settings_and_progress(make_output):
    runs = load(make_output(lrs=(1e-4, 2e-4), seeds=(0, 1))).runs.set_index("run_id")
    run = runs.loc["run-0.0002-constant-1"]
    assert (run["model"], run["task"], run["schedule"], run["sweep"]) == ("mini", "ioi3", "constant", "demo")
    assert (run["lr"], run["seed"], run["batch_size"], run["status"]) == (2e-4, 1, 16, "done")
    assert (run["patched"], run["cell"]) == ("2/2", "lr 0.0002")
    assert runs["cell"].nunique() == 2  # seeds share a cell


def test_tables_hold_every_row_with_its_run_and_step(make_output):
    frames = load(make_output(seeds=(0, 1), steps=(0, 8)))
    assert len(frames.metrics) == 2 * 2 * 3 * 6  # runs, steps, splits, metrics
    assert len(frames.patching) == 2 * 2 * 2 * (3 * 4 * 10 + 5 * 4 * 4)  # runs, corruptions, steps, sites
    assert set(frames.patching["corruption"]) == {"first", "second"}
    assert set(frames.patching["step"]) == {0, 8}
    assert set(frames.attribution["kind"]) == {"lens", "layer", "head"}
    assert set(frames.patching["run_id"]) == set(frames.runs["run_id"])
    assert frames.patching["head"].dtype == "Int64"


def test_a_cell_that_never_started_is_todo(make_output, folders):
    output = make_output()
    folders.write_sweep(
        output,
        "more",
        [folders.cell("absent", "absent-first", "first", **{"optim.lr": "3e-4", "model": "gpt2"})],
    )
    frames = load(output)
    run = frames.runs.set_index("run_id").loc["absent"]
    assert (run["status"], run["lr"], run["model"], run["patched"]) == ("todo", 3e-4, "gpt2", "0/1")
    patch = frames.patches.set_index("patch_id").loc["absent-first"]
    assert (patch["status"], patch["corruption"]) == ("todo", "first")


def test_sweeps_limit_what_is_loaded(make_output, folders):
    output = make_output(seeds=(0, 1))
    run_id = "run-0.0001-constant-0"
    folders.write_sweep(output, "small", [folders.cell(run_id, f"{run_id}-first", "first")])
    folders.write_run(output, "by-hand")
    everything, small = load(output), load(output, ["small"])
    assert "by-hand" in set(everything.runs["run_id"])
    assert everything.runs.set_index("run_id").loc[run_id, "sweep"] == "demo, small"
    assert list(small.runs["run_id"]) == [run_id]
    assert set(small.patching["corruption"]) == {"first"}
    with pytest.raises(UserError, match="no sweep named lost .*demo, small"):
        load(output, ["lost"])


def test_a_failed_run_keeps_its_error(make_output, folders):
    output = make_output()
    folders.write_run(output, "bad", state="failed", error="CUDA out of memory")
    run = load(output).runs.set_index("run_id").loc["bad"]
    assert (run["status"], run["error"]) == ("failed", "CUDA out of memory")


def test_an_empty_folder_gives_empty_tables_with_all_columns(tmp_path):
    frames = load(tmp_path)
    assert all(getattr(frames, name).empty for name in TABLES)
    assert list(frames.patching.columns) == list(frames_of.PATCHING)
    with pytest.raises(UserError, match="no output folder"):
        load(tmp_path / "nowhere")


def test_a_truncated_table_is_named_in_one_line(make_output):
    output = make_output()
    table = next((output / "runs").glob("*/patches/*/tables/000008.parquet"))
    table.write_bytes(table.read_bytes()[:100])
    with pytest.raises(UserError) as caught:
        load(output)
    assert str(table) in str(caught.value)
    assert "delete it and run the sweep again: only that table is made anew" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_json_file_is_named(make_output):
    output = make_output()
    status = next((output / "runs").glob("*/status.json"))
    status.write_text("{")
    with pytest.raises(UserError, match="status.json"):
        load(output)


@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_export_reads_back_as_it_was(make_output, tmp_path, format):
    frames = load(make_output())
    files = export(frames, tmp_path / "tables", format)
    assert sorted(file.name for file in (tmp_path / "tables").iterdir()) == sorted(
        f"{name}.{format}" for name in TABLES
    )
    for name, file in zip(TABLES, files, strict=True):
        table = getattr(frames, name)
        again = pd.read_parquet(file) if format == "parquet" else pd.read_csv(file)
        kinds = table.dtypes.to_dict()
        pd.testing.assert_frame_equal(again.astype(kinds), table)


def test_export_refuses_other_formats(make_output, tmp_path):
    with pytest.raises(UserError, match="parquet or csv"):
        export(load(make_output()), tmp_path, "xlsx")


def test_recovered_by_hand():
    patching = pd.DataFrame(
        {
            "patched": [-1.0, 0.5, 3.0, 0.2],
            "clean": [3.0, 3.0, 3.0, 0.05],
            "corrupted": [-1.0, -1.0, -1.0, 0.0],
        }
    )
    values = recovered(patching).tolist()
    assert values[:3] == [0.0, 0.375, 1.0]
    assert math.isnan(values[3])  # clean - corrupted = 0.05 logits


def test_first_step_by_hand():
    rows = [
        *(("early", 0, 0.3), ("early", 8, 0.9), ("early", 16, 0.85), ("early", 24, 0.95)),
        *(("never", 0, 0.3), ("never", 8, 0.89)),
    ]
    metrics = pd.DataFrame(rows, columns=["run_id", "step", "value"]).assign(metric="win_rate", split="heldout")
    steps = first_step(metrics)
    assert steps["early"] == 8
    assert steps["never"] is pd.NA
    assert first_step(metrics, threshold=0.95)["early"] == 24


def test_band_by_hand():
    # Mean 2, standard deviation 1, n 3: 2 ± 4.303 / √3. One value alone has no interval.
    values = pd.DataFrame({"lr": [1, 1, 1, 2], "value": [1.0, 2.0, 3.0, 5.0]})
    bands = band(values, ["lr"]).set_index("lr")
    assert bands.loc[1, "mean"] == 2
    assert bands.loc[1, "high"] == pytest.approx(2 + 4.303 / math.sqrt(3))
    assert bands.loc[1, "low"] == pytest.approx(2 - 4.303 / math.sqrt(3))
    assert bands["n"].tolist() == [3, 1]
    assert math.isnan(bands.loc[2, "low"])


def test_t_reaches_the_normal_distribution():
    assert t_95(3) == 4.303
    assert t_95(61) == pytest.approx(2.0003, abs=0.002)
    assert t_95(100_000) == pytest.approx(1.96, abs=1e-3)
