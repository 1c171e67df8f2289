"""What curves over checkpoints did, as tables for an output folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mi_sweeps.analysis import figures
from mi_sweeps.analysis.columns import RUNS, typed
from mi_sweeps.analysis.folder import RunRecord, read
from mi_sweeps.analysis.frames import Frames, load
from mi_sweeps.analysis.inference.families import family as family_of
from mi_sweeps.analysis.inference.trajectories import Trajectories, measured, of_frames
from mi_sweeps.analysis.prompts import at_steps
from mi_sweeps.analysis.transitions import draw, enough, main
from mi_sweeps.circuits.tables import TABLES as FURTHER
from mi_sweeps.errors import UserError

from .planted import planted

STEPS = tuple(range(0, 80, 8))


@pytest.fixture(scope="module")
def family():
    """Of six runs in which head 0.0 forms between 16 and 24, 0.1 is there from the start, and 0.2 never."""
    formed = np.array([0, 0, 0, 0.9, 0.9, 0.9])
    return planted(np.stack([formed, np.full(6, 0.8), np.zeros(6)], axis=1), runs=6)


def changes():
    runs = typed([{"run_id": f"r{at}", "setting": "all"} for at in range(6)], RUNS)
    nothing = pd.DataFrame(columns=["run_id", "step", "split", "metric", "value", "n"])
    return Trajectories({}, dict(zip(runs["run_id"], runs["setting"], strict=True)), nothing)


def test_onsets_of_a_setting_are_by_head(family):
    found = changes()
    found.add(("all", "heads", "first"), family)
    rows = found.onsets().set_index("head")
    formed, start, never = (rows.loc[head] for head in range(3))
    assert (formed["after"], formed["by"], formed["formed"]) == (16, 24, 6)
    assert (formed["low_these_prompts"], formed["high_these_prompts"]) == (16, 24)
    assert (start["after"], start["by"], start["from_the_start"]) == (-np.inf, 0, 6)
    assert (never["by"], never["never"], never["formed"]) == (np.inf, 6, 0)


def test_onsets_are_at_the_checkpoints_that_all_runs_have(family):
    """One run was examined at fewer: its third checkpoint is not the third of the others."""
    few, *others = family.jobs
    sites = {"z": at_steps(few.sites["z"], [0, 16, 24, 32, 40])}
    found = changes()
    found.add(("all", "heads", "first"), family_of("z", [replace(few, sites=sites), *others]))
    formed = found.onsets().set_index("head").loc[0]
    assert (formed["after"], formed["by"], formed["formed"]) == (16, 24, 6)
    assert (formed["low_these_prompts"], formed["high_these_prompts"]) == (16, 24)


def test_one_corruption_is_compared_with_the_other_run_by_run():
    """Seven runs are the fewest for two heads at once."""
    found = changes()
    for corruption, formed in (("first", [0, 0, 0, 0.9, 0.9, 0.9]), ("second", [0, 0, 0, 0, 0.9, 0.9])):
        effects = np.stack([formed, np.full(6, 0.8), np.zeros(6)], axis=1)
        found.add(("all", "heads", corruption), planted(effects, runs=7))
    rows = found.onsets()
    rows = rows[rows["against"].notna() & (rows["measure"] == "onset")].set_index("head")
    assert (rows["corruption"] == "second").all() and (rows["against"] == "first").all()
    assert rows.loc[0, "answer_these_prompts"] == "same within one checkpoint"
    assert (rows.loc[0, "low_these_prompts"], rows.loc[0, "runs"]) == (1, 7)
    assert rows.loc[1, "answer"] == "same within one checkpoint"
    assert 2 not in rows.index  # it has an onset under neither


def test_every_curve_has_a_row_a_run_and_one_of_the_cell(make_output):
    output = make_output(seeds=range(5), corruptions=("first",), steps=STEPS, by_prompt=True, layers=2, heads=2)
    transitions = of_frames(load(output))["transitions"]
    whole = transitions[transitions["run_id"].isna()].set_index("curve")
    for curve in ("log p", "logit_diff_first", "logit difference"):
        of_runs = transitions[(transitions["curve"] == curve) & transitions["run_id"].notna()]
        assert len(of_runs) == 5 and whole.loc[curve, "runs"] == 5
        assert (of_runs["answer"] == whole.loc[curve, "answer"]).sum() == whole.loc[curve, "agreeing"]
        assert (of_runs["t50"].between(*STEPS[:: len(STEPS) - 1])).all()
    assert not transitions["curve"].str.startswith("win_rate").any()


def test_where_heads_that_matter_look_is_a_curve(make_output):
    """From the end at the answer, in clean prompts; and not at what every prompt has."""
    output = make_output(seeds=(0,), corruptions=("first",), steps=STEPS, by_prompt=True, layers=2, heads=2)
    (patch,) = read(output).patches
    for step in STEPS:
        rows = [
            {"side": side, "layer": layer, "head": head, "query": "end", "key": key, "n": 12,
             "by_prompt": np.full(12, step / 80 if (side, key) == ("clean", "answer") else 0.5)}
            for side in ("clean", "corrupted") for layer in range(2) for head in range(2) for key in ("answer", "other")
        ]  # fmt: skip
        pq.write_table(pa.Table.from_pylist(rows, FURTHER["looks"]), patch.table(step, "looks"))
    transitions = of_frames(load(output))["transitions"]
    looked = transitions[(transitions["curve"] == "attention") & transitions["run_id"].notna()]
    gains = transitions[(transitions["curve"] == "gain") & (transitions["site"] == "z") & transitions["run_id"].notna()]
    assert len(looked) and set(looked["key"]) == {"answer"} and (looked["answer"] == "gradual").all()
    assert np.allclose(looked["change"], 0.9)
    assert set(zip(looked["layer"], looked["head"], strict=True)) == set(
        zip(gains["layer"], gains["head"], strict=True)
    )


def test_the_picture_has_a_plot_a_corruption_with_what_was_fitted(make_output):
    frames = load(make_output(seeds=(0, 1), steps=STEPS, by_prompt=True, layers=1, heads=1))
    assert "transitions" in dict(figures.pictures(frames))
    first, second = draw(frames).axes
    fitted = [line for line in first.get_lines() if line.get_linestyle() == "-" and len(line.get_xdata()) == len(STEPS)]
    assert len(fitted) == 2 and first.get_title() == "first: cannot tell" and second.get_title().startswith("second")
    assert not enough(replace(frames, patching=frames.patching[frames.patching["step"] < 64]))


def test_the_command_prints_what_each_cell_did(make_output, capsys):
    main([str(make_output(seeds=(0, 1), by_prompt=True))])
    printed = capsys.readouterr().out
    assert "log p" in printed and "cannot tell" in printed and "2 of 2" in printed
    assert "first" in printed and "onset against first" in printed
    with pytest.raises(SystemExit, match="no sweep named nothing"):
        main([str(make_output(seeds=(), sweep="other")), "nothing"])


def test_a_win_rate_is_refused(make_output):
    with pytest.raises(UserError, match="win_rate_place_1 counts prompts that pass a threshold"):
        measured(load(make_output()).metrics, "win_rate_place_1")


def test_signs_are_counted_at_the_ends_of_epochs():
    """One head of each run changes its sign between 16 and 24, where the first of two epochs ends."""
    turned = np.stack([[-0.9, -0.9, -0.9, 0.9, 0.9, 0.9], np.full(6, 0.5)], axis=1)
    found = changes()
    config = {"task": {"prompts": {"train": 320}}, "train": {"batch_size": 16}}
    runs = {f"r{at}": RunRecord(f"r{at}", (), Path("."), {"config": config}, {}, {}, ()) for at in range(6)}
    found = Trajectories(runs, found.settings, found.metrics)
    found.add(("all", "heads", "first"), planted(turned, runs=6))
    (row,) = found.sign_changes().to_dict("records")
    assert (row["site"], row["observed"], row["n"], row["epoch_ends"], row["runs"]) == ("z", 6, 6, 2, 6)
    assert 0.2 < row["p"] < 0.4 and row["expected"] < 4  # runs that turn together are one event


def test_no_tables_make_empty_ones():
    nothing = pd.DataFrame(columns=["run_id", "step", "split", "metric", "value", "n"])
    frames = Frames(typed([], RUNS), pd.DataFrame(), nothing, *[pd.DataFrame()] * 4, output=None)
    assert [len(table) for table in of_frames(frames).values()] == [0, 0, 0]
