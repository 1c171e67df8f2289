"""Where heads look, with intervals, on tables with a planted truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from mi_sweeps.analysis import looks
from mi_sweeps.analysis.export import export
from mi_sweeps.analysis.folder import read
from mi_sweeps.analysis.frames import rows_of_prompts, tabulate
from mi_sweeps.circuits.tables import TABLES

STEPS, HEADS, PROMPTS = (0, 8, 16), 3, 12


@pytest.fixture
def output(make_output):
    """Three seeds. Head 0.0 comes to look at the answer, and so more where it writes more of it; head 0.1 looks at all
    alike, head 0.2 always at the answer. Prompt 11 has no answer; its other keys are as for the rest, nearly."""
    folder = make_output(seeds=(0, 1, 2), corruptions=("first",), by_prompt=True, steps=STEPS, layers=1, heads=HEADS)
    for patch in read(folder).patches:
        random = np.random.default_rng(int(patch.run_id[-1]))
        for step in STEPS:
            (written,) = rows_of_prompts([(patch, step)], "attribution_by_prompt", None, ("kind", ["head"]))
            own = written[written["head"] == 0].sort_values("prompt")["logit_diff"].to_numpy()
            rows = []
            for head in range(HEADS):
                uniform = np.linspace(0.04, 0.08, PROMPTS)
                answer = {0: 0.06 + 0.03 * step, 1: uniform, 2: 0.8}[head] + 0.002 * random.normal(size=PROMPTS) * (
                    head != 1
                )
                if head == 0:
                    answer += 0.1 * (own - own.mean())
                answer[11] = uniform[11] = np.nan
                for key, paid, alike in (
                    ("answer", answer, uniform),
                    ("other", *(1 - np.nan_to_num(one, nan=0.95 * np.nanmean(one)) for one in (answer, uniform))),
                ):
                    row = {"side": "clean", "layer": 0, "head": head, "query": "end", "key": key}
                    rows.append(
                        row
                        | {
                            "attention": np.nanmean(paid),
                            "uniform": np.nanmean(alike),
                            "n": int((~np.isnan(paid)).sum()),
                        }
                        | {"by_prompt": paid, "uniform_by_prompt": alike}
                    )
            pq.write_table(pa.Table.from_pylist(rows, TABLES["looks"]), patch.table(step, "looks"))
    return folder


def rows_of(output):
    found = read(output)
    frames = tabulate(found, most=0)
    (rows,) = looks.of_output(found, frames.runs, frames.patches)
    return rows


def test_changes_from_the_first_checkpoint_and_from_uniform_attention(output):
    rows = rows_of(output)
    assert (rows["setting"].nunique(), rows["corruption"].iloc[0], rows["runs"].unique().tolist()) == (1, "first", [3])
    assert rows["other_seeds"].all()
    result = rows[rows["key"] == "answer"].set_index(["head", "step"])
    assert result["against_start"].unstack().to_numpy().tolist() == [
        ["alike", "more", "more"], ["alike", "alike", "alike"], ["alike", "alike", "alike"],
    ]  # fmt: skip
    assert result["against_uniform"].unstack().to_numpy().tolist() == [
        ["alike", "more", "more"], ["alike", "alike", "alike"], ["more", "more", "more"],
    ]  # fmt: skip
    change = result.loc[(0, 16)]
    assert change["change_low"] < 0.48 < change["change_high"] and change["attention"] == pytest.approx(0.54, abs=0.02)
    assert (result["n"] == 11).all() and (rows[rows["key"] == "other"]["n"] == 12).all()
    assert result["uniform"].to_numpy() == pytest.approx(np.linspace(0.04, 0.08, PROMPTS)[:11].mean(), abs=1e-6)
    other = rows[rows["key"] == "other"].set_index(["head", "step"])
    assert other.loc[(0, 16), "against_start"] == "less"


def test_attention_is_set_against_what_heads_write_on_the_same_prompts(output):
    result = rows_of(output).query("key == 'answer'").set_index(["head", "step"]).sort_index()
    assert (result.loc[0, "correlation"] > 0.5).all() and (result.loc[0, "correlation_low"] > 0).all()
    assert result.loc[1:, "correlation_low"].dropna().lt(0).all()


def test_a_key_that_one_run_lacks_is_of_the_others(output):
    patch = next(iter(read(output).patches))
    for step in STEPS:
        file = patch.table(step, "looks")
        rows = pq.read_table(file)
        pq.write_table(rows.filter(pc.not_equal(rows["key"], "other")), file)
    runs = rows_of(output).groupby("key")["runs"].unique()
    assert (runs["answer"].tolist(), runs["other"].tolist()) == ([3], [2])


def test_the_command_says_what_changed_most(output, capsys):
    assert looks.main([str(output)]) == 0
    shown = capsys.readouterr().out
    line = next(line for line in shown.splitlines() if line.strip().startswith("0.0"))
    assert "answer" in line and "0.54" in line and "95% for other prompts and other seeds" in shown
    assert "6 heads x keys at checkpoint 16 against checkpoint 0: 1 more, 1 less, 4 alike, 0 undecided" in shown


def test_the_table_is_exported_where_heads_were_looked_at(output, tmp_path):
    files = {file.name: file for file in export(output, tmp_path / "tables")}
    assert (
        pd.read_parquet(files["attention.parquet"])["against_start"].tolist()
        == rows_of(output)["against_start"].tolist()
    )
    assert len(pd.read_parquet(files["looks.parquet"])) == 3 * len(STEPS) * HEADS * 2


def test_a_folder_without_the_table_is_an_error(make_output, capsys):
    assert looks.main([str(make_output(corruptions=("first",)))]) == 2
    assert "patching.looks=true" in capsys.readouterr().err
