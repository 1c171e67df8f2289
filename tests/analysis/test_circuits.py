"""Circuits of a real patch job as tables, in the export too."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mi_sweeps.analysis import circuits, faithfulness, frames, measured
from mi_sweeps.analysis.export import export
from mi_sweeps.jobs.execute import execute
from mi_sweeps.sweeps.grid import expand


@pytest.fixture(scope="module")
def loaded(small, tmp_path_factory):
    """Two runs that differ in their seed, with circuits at both ends."""
    given = [
        "patching=circuits",
        "patching.prompts=12",
        "patching.circuits.random=6",
        "patching.circuits.sizes=[20,100]",
    ]
    given += ["patching.circuits.at=[0,4]", "patching.circuits.given=[a2.h1,m0]", "patching.circuits.size=10"]
    given += ["patching.circuits.ablation=corrupted"]  # so that there is a gap
    output = tmp_path_factory.mktemp("circuits") / "outputs"
    # Fast enough that they end as different models.
    own = [word for word in small if not word.startswith(("patching=", "patching.prompts="))]
    assert not execute(expand([*own, *given, f"output={output}", "seed=0,1", "optim.lr=1e-3"])).failed
    return frames.load(output)


@pytest.fixture(scope="module")
def table(loaded):
    return circuits.faithfulness(loaded)


@pytest.mark.slow
def test_faithfulness_is_the_ratio_of_what_was_measured(loaded, table):
    raw = measured.read(loaded.output, "circuits", ["by_prompt"])
    expected = []
    for _, rows in raw[raw["step"] == 4].groupby("patch_id"):
        whole = rows[rows["kind"] == "whole"].set_index("set")["by_prompt"]
        (own,) = rows[rows["kind"] == "given"]["by_prompt"]
        m, high, low = (np.nanmean(np.where(np.isnan(own), np.nan, one)) for one in (own, whole["all"], whole["none"]))
        expected.append((m - low) / (high - low))
    (row,) = table[(table["kind"] == "given") & (table["step"] == 4)].to_dict("records")
    assert len(expected) == 2 and expected[0] != expected[1]
    assert row["value"] == pytest.approx(np.mean(expected), rel=1e-4)
    assert (row["runs"], row["n"], row["nodes"]) == (2, 6, 2.0) and 0 <= row["percentile"] <= 100


def test_every_circuit_has_a_row_and_a_verdict(table):
    kinds = table.groupby(["step", "kind"]).size()
    # Sizes 10, 20 and 100 in two orders; two areas of each order.
    assert kinds.loc[4].to_dict() == {"circuit": 6, "exchange": 2, "given": 1, "cpr": 2, "cmd": 2}
    everything = table[(table["kind"] == "circuit") & (table["size"] == 100) & (table["step"] == 4)]
    assert everything["value"].tolist() == [1.0, 1.0] and set(everything["verdict"]) <= {"faithful", "undecided"}
    assert table[table["kind"] == "exchange"]["source_step"].tolist() == [0, 4, 0, 4]
    judged = table[~table["kind"].isin(["cpr", "cmd"])]
    assert set(judged["verdict"]) <= {"faithful", "not faithful", "undecided", "undefined"}
    undefined = judged["verdict"] == "undefined"
    assert judged[undefined][["value", "low", "percentile"]].isna().all().all()


def test_members_are_judged_run_by_run_and_all_is_exported(loaded, table, tmp_path):
    rows = circuits.completeness(loaded)
    last = rows[rows["step"] == 4]
    assert last["kind"].tolist() == ["completeness", "member", "member", "minimality"] * 2, "2 of 20 nodes"
    assert set(last["verdict"]) <= {
        *("complete", "not complete", "needed", "not needed", "minimal", "not minimal", "undecided", "undefined")
    }
    files = {file.stem: file for file in export(loaded.output.path, tmp_path)}
    pd.testing.assert_frame_equal(pd.read_parquet(files["faithfulness"]).astype(table.dtypes), table)
    assert len(pd.read_parquet(files["completeness"])) == len(rows)


def test_pictures_show_faithfulness_by_size_and_the_matrix_of_checkpoints(loaded, table):
    drawn = {name: draw() for name, _, draw in faithfulness.pictures(loaded)}
    assert list(drawn) == ["circuits", "exchange"]
    assert [axis.get_title() for axis in drawn["circuits"].axes] == ["checkpoint 0", "checkpoint 4"]
    (line,) = [line for line in drawn["circuits"].axes[-1].lines if line.get_marker() == "o"]
    own = table[(table["kind"] == "circuit") & (table["order"] == "absolute") & (table["step"] == 4)]
    assert line.get_ydata().tolist() == own.sort_values("size")["value"].tolist()
    assert set(line.get_ydata()) <= set(drawn["circuits"].numbers["value"])
    exchanged = table[(table["kind"] == "exchange") & table["value"].notna()]
    written = sorted(text.get_text() for text in drawn["exchange"].axes[0].texts)
    assert written == sorted(f"{value:.2f}" for value in exchanged["value"])
    assert written == sorted(f"{value:.2f}" for value in drawn["exchange"].numbers["value"].dropna())
