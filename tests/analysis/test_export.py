"""All tables as files."""

from __future__ import annotations

import pandas as pd
import pytest

import mi_sweeps as mi
from mi_sweeps.analysis import export as exporting
from mi_sweeps.analysis.agreement import tables as agreement
from mi_sweeps.analysis.derived import findings
from mi_sweeps.analysis.export import export
from mi_sweeps.analysis.frames import attribution_by_prompt, by_prompt, load, paths_by_prompt
from mi_sweeps.analysis.inference import trajectories
from mi_sweeps.analysis.inference.changes import head_changes, transformations
from mi_sweeps.analysis.inference.retention import retention
from mi_sweeps.analysis.inference.tables import courses_of, verdicts
from mi_sweeps.circuits.tables import TABLES as FURTHER
from mi_sweeps.errors import UserError

TABLES = (
    *("runs", "patches", "metrics", "attribution", "patching", "paths", "measures"),
    *("verdicts", "courses", "transformations", "head_changes"),
)
MADE = {
    **{"verdicts": verdicts, "courses": courses_of, "findings": findings},
    **{"transformations": transformations, "head_changes": head_changes, "retention": retention},
}
GATHERED = (*trajectories.TABLES, "retention", *agreement.TABLES, "findings")


@pytest.mark.slow
def test_export_removes_what_an_earlier_one_has_left_and_no_file_of_others(make_output, tmp_path):
    output = make_output(by_prompt=True, steps=(8,))
    tables = tmp_path / "tables"
    export(output, tables, format="csv", by_prompt=True)
    (tables / "by_prompt.parquet").write_bytes(b"mine")
    (tables / "metrics.csv").write_text("run_id,value\nmine,1\n")
    (tables / "notes.csv").write_text("run_id\n")
    files = export(output, tables)
    mine = {tables / name for name in ("by_prompt.parquet", "metrics.csv", "notes.csv")}
    assert set(tables.iterdir()) == {*files, *mine}
    assert (tables / "by_prompt.parquet").read_bytes() == b"mine"
    export(output, tables, by_prompt=True)
    export(output, tables)
    assert not list(tables.glob("*by_prompt.parquet"))


@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_export_names_the_diverged_runs_left_out_of_means(make_output, folders, tmp_path, format):
    output = make_output(seeds=(0, 1), steps=(8,), layers=2, heads=2, corruptions=("second",))
    folders.write_run(output, "007", seed=2, steps=(8,), diverged=11)
    folders.write_run(output, "alone", seed=0, lr=1.0, steps=(8,), diverged=11)
    assert exporting.left_out(export(output, tmp_path / "tables", format=format)) == ["007"]


@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_export_writes_prompts_when_asked(make_output, tmp_path, format):
    output = make_output(steps=(0, 8), by_prompt=True, paths=True)
    frames = load(output)
    files = export(output, tmp_path / "tables", format=format, by_prompt=True)
    of_prompts = ("by_prompt", "paths_by_prompt", "attribution_by_prompt")
    assert [file.stem for file in files] == [*TABLES, *GATHERED, *of_prompts]
    written = (by_prompt(frames), paths_by_prompt(frames), attribution_by_prompt(frames))
    for table, file in zip(written, files[-3:], strict=True):
        assert len(table)
        again = pd.read_parquet(file) if format == "parquet" else pd.read_csv(file)
        pd.testing.assert_frame_equal(again.astype(table.dtypes.to_dict()), table)


@pytest.mark.parametrize("format", ["parquet", "csv"])
def test_export_reads_back_as_it_was(make_output, tmp_path, format, monkeypatch):
    """Whether all tables of patch jobs are in memory together or three at a time."""
    monkeypatch.setattr(exporting, "AT_ONCE", 3)
    output = make_output(measures=True)
    frames = load(output)
    files = export(output, tmp_path / "tables", format=format)
    assert sorted(file.name for file in (tmp_path / "tables").iterdir()) == sorted(
        f"{name}.{format}" for name in (*TABLES, *GATHERED)
    )
    made = {name: table(frames) for name, table in MADE.items()}
    made |= trajectories.of_frames(frames) | agreement.of_frames(frames)
    for name, file in zip((*TABLES, *GATHERED), files, strict=True):
        table = made[name] if name in made else getattr(frames, name)
        again = pd.read_parquet(file) if format == "parquet" else pd.read_csv(file)
        kinds = table.dtypes.to_dict()
        pd.testing.assert_frame_equal(again.astype(kinds), table)


@pytest.mark.slow
def test_python_has_every_table_that_export_writes(measured_circuit, folders, tmp_path):
    """As it is written; a new one needs a property of its own."""
    for name in exporting.EXPORTED:
        assert name in FURTHER or hasattr(mi.Output, name), f"mi_sweeps/api/tables.py: {name}"
    output, _ = measured_circuit(prompts=True)
    folders.write_looks(output)
    out = mi.open(output)
    written = export(output, tmp_path / "tables", by_prompt=True)
    there = {file.stem for file in written}
    assert {"attention", "faithfulness", "completeness", "edge_effects", "edge_circuits", "edge_bounds"} <= there
    for file in written:
        table = out.measured(file.stem) if file.stem in FURTHER else getattr(out, file.stem)
        table = table() if callable(table) else table
        pd.testing.assert_frame_equal(pd.read_parquet(file).astype(table.dtypes.to_dict()), table)
    assert len(out.edge_effects) and len(out.faithfulness) and len(out.attention)
    assert out.edge_bounds is out.edge_bounds, "read once"


def test_export_refuses_other_formats(make_output, tmp_path):
    with pytest.raises(UserError, match="parquet or csv"):
        export(make_output(), tmp_path, format="xlsx")
