"""Tables of further measurements are read whole, or refused in one line."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from mi_sweeps.analysis import attention, derived, folder, measured, mib
from mi_sweeps.analysis.conclusions import Conclusions
from mi_sweeps.analysis.export import export
from mi_sweeps.analysis.frames import load
from mi_sweeps.errors import UserError


def without(file, *columns):
    table = pq.read_table(file)
    pq.write_table(table.drop_columns(list(columns)).replace_schema_metadata(None), file)


@pytest.mark.parametrize(
    ("name", "column"), [("circuits", "null_sets"), ("edges", "approximate"), ("edges", "by_prompt")]
)
@pytest.mark.slow
def test_a_file_of_before_a_column_existed_is_refused_in_one_line(measured_circuit, tmp_path, name, column):
    output, patch = measured_circuit(prompts=True)
    without(patch.table(8, name), column)
    with pytest.raises(UserError, match=f"is of an older version, without column {column}: delete it and run"):
        export(output, tmp_path / "tables")
    damaged: list[str] = []
    export(output, tmp_path / "tables", damaged=damaged)
    (line,) = damaged
    assert str(patch.table(8, name)) in line and "\n" not in line


def test_looks_without_a_newer_column_are_left_out_and_the_rest_is_read(make_output, folders):
    output = make_output(seeds=(0, 1), corruptions=("first",), steps=(0, 8), by_prompt=True)
    folders.write_looks(output)
    file = next(output.glob("runs/*-1/patches/*/tables/000008.looks.parquet"))
    without(file, "uniform_by_prompt")
    damaged: list[str] = []
    result = derived.findings(load(output), damaged)
    assert len(damaged) == 1 and "without column uniform_by_prompt" in damaged[0]
    assert {"learned", "heads"} <= set(result["question"])


def test_patterns_and_curves_of_attention_of_before_a_column_existed_are_refused_in_one_line(make_output, folders):
    output = make_output(seeds=(0,), corruptions=("first",), steps=(0, 8), by_prompt=True)
    folders.write_looks(output)
    folders.write_patterns(output)
    (tables,) = output.glob("runs/*/patches/*/tables")
    outdated = [(tables / "000008.looks.parquet", "uniform"), (tables / "000000.patterns.parquet", "side")]
    for file, column in outdated:
        without(file, column)
    frames, damaged = load(output), []
    assert attention.payload(frames.output, frames, Conclusions(), 1e9, damaged)["looks"][0]["steps"] == [0]
    for file, column in outdated:
        line = f"{file} is of an older version, without column {column}: delete it and run the sweep again: only that"
        assert sum(result.startswith(line) for result in damaged) == 1, damaged
        with pytest.raises(UserError, match="of an older version"):
            attention.payload(frames.output, frames, Conclusions(), 1e9)


@pytest.mark.parametrize(("column", "lacks"), [("approximate", "column approximate"), (None, "its model's sizes")])
def test_importances_of_before_a_column_existed_are_refused_in_one_line(measured_circuit, tmp_path, column, lacks):
    output, patch = measured_circuit()
    if column:
        without(patch.table(8, "edges"), column)
    else:
        without(patch.table(8, "edges"))
    with pytest.raises(UserError, match=f"is of an older version, without {lacks}: delete it and run the sweep again"):
        mib.export(output, tmp_path / "to")
    damaged: list[str] = []
    (file,) = mib.export(output, tmp_path / "to", damaged=damaged)
    assert file.name == "000008.nodes.json" and len(damaged) == 1 and "\n" not in damaged[0]


def test_a_patch_job_that_had_only_just_begun_stops_nothing(measured_circuit, tmp_path):
    """While a sweep runs, tables come after the folder was read."""
    output, patch = measured_circuit()
    file = patch.path / "patch.json"
    about = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in about.items() if key != "prompts"}))
    assert (
        list(measured.each([(folder.find(output, patch.patch_id).runs[0].patches[0], 8)], "edges", ["by_prompt"])) == []
    )
    assert export(output, tmp_path / "tables")
