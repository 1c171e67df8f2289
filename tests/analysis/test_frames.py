"""Tables from an output folder."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mi_sweeps.analysis import columns, folder
from mi_sweeps.analysis.conclusions import conclude
from mi_sweeps.analysis.evidence import of_sites
from mi_sweeps.analysis.figures import pictures
from mi_sweeps.analysis.frames import attribution_by_prompt, by_prompt, load, paths_by_prompt, tabulate
from mi_sweeps.analysis.inference.families import groups
from mi_sweeps.analysis.report import write_report
from mi_sweeps.errors import UserError

TABLES = ("runs", "patches", "metrics", "attribution", "patching", "paths", "measures")


def test_runs_carry_their_settings_and_progress(make_output):
    runs = load(make_output(lrs=(1e-4, 2e-4), seeds=(0, 1))).runs.set_index("run_id")
    run = runs.loc["run-0.0002-constant-1"]
    assert (run["model"], run["task"], run["schedule"], run["sweep"]) == ("mini", "ioi3", "constant", "demo")
    assert (run["lr"], run["seed"], run["batch_size"], run["status"]) == (2e-4, 1, 16, "done")
    assert (run["patch_jobs"], run["setting"]) == ("2/2", "lr 0.0002")
    assert runs["setting"].nunique() == 2  # seeds share a setting


def test_tables_hold_every_row_with_its_run_and_step(make_output):
    frames = load(make_output(seeds=(0, 1), steps=(0, 8)))
    assert len(frames.metrics) == 2 * 2 * 3 * 6  # runs, steps, splits, metrics
    assert len(frames.patching) == 2 * 2 * 2 * (3 * 4 * 10 + 5 * 4 * 4)  # runs, corruptions, steps, sites
    assert set(frames.patching["corruption"]) == {"first", "second"}
    assert set(frames.patching["step"]) == {0, 8}
    assert set(frames.attribution["kind"]) == {"lens", "layer", "head"}
    assert set(frames.patching["run_id"]) == set(frames.runs["run_id"])
    assert frames.patching["head"].dtype == "Int64"


def test_one_name_is_not_read_letter_by_letter(make_output, tmp_path):
    output = make_output(corruptions=("first",), by_prompt=True, steps=(0, 8))
    frames = load(output, "demo")
    assert list(frames.runs["run_id"]) == list(load(output, ["demo"]).runs["run_id"])
    with pytest.raises(UserError, match="no sweep named grid in "):
        load(output, "grid")
    assert set(by_prompt(frames, "z")["site"]) == set(by_prompt(frames, ["z"])["site"])
    assert set(attribution_by_prompt(frames, "head")["kind"]) <= {"head"}
    assert write_report(output, "demo", tmp_path / "page.html").is_file()


@pytest.mark.parametrize(
    ("most", "steps", "every", "unread"),
    [
        (None, [0, 8, 16, 24, 32], 1, 0),
        (20, [0, 8, 16, 24, 32], 1, 0),
        (19, [0, 16, 32], 2, 8),
        (11, [0, 32], 4, 12),
        (7, [32], 5, 16),
        (0, [], 5, 20),
    ],
)
def test_of_too_many_tables_some_checkpoints_are_read(make_output, most, steps, every, unread):
    """Four patch jobs of five checkpoints each; of all of them the same ones, and the last."""
    frames = load(make_output(seeds=(0, 1), steps=(0, 8, 16, 24, 32)), most=most)
    assert sorted(set(frames.patching["step"])) == sorted(set(frames.attribution["step"])) == steps
    assert (frames.every, frames.unread) == (every, unread)
    assert frames.patching["patch_id"].nunique() == (4 if steps else 0)
    assert len(frames.patches) == 4
    assert set(frames.metrics["step"]) == {0, 8, 16, 24, 32}


def test_a_cell_that_never_started_is_todo(make_output, folders):
    output = make_output()
    folders.write_sweep(
        output,
        "more",
        [folders.point("absent", "absent-first", "first", **{"optim.lr": "3e-4", "model": "gpt2"})],
    )
    frames = load(output)
    run = frames.runs.set_index("run_id").loc["absent"]
    assert (run["status"], run["lr"], run["model"], run["patch_jobs"]) == ("todo", 3e-4, "gpt2", "0/1")
    patch = frames.patches.set_index("patch_id").loc["absent-first"]
    assert (patch["status"], patch["corruption"]) == ("todo", "first")


def test_sweeps_limit_what_is_loaded(make_output, folders):
    output = make_output(seeds=(0, 1))
    run_id = "run-0.0001-constant-0"
    folders.write_sweep(output, "small", [folders.point(run_id, f"{run_id}-first", "first")])
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


def test_a_run_that_collapsed_is_done_and_worse_than_at_the_start(make_output, folders):
    output = make_output(seeds=(0, 1))
    folders.write_run(output, "fell", lr=3e-4)
    folders.write_run(output, "falling", lr=3e-4, state="running")
    for run_id in ("fell", "falling"):
        folders.turn(output, run_id)
    runs = load(output).runs.set_index("run_id")
    assert runs["outcome"].dropna().to_dict() == {"fell": "worse than at the start"}
    assert runs.loc["fell", "status"] == "done"


def test_an_empty_folder_gives_empty_tables_with_all_columns(tmp_path):
    frames = load(tmp_path)
    assert all(getattr(frames, name).empty for name in TABLES)
    assert list(frames.patching.columns) == list(columns.PATCHING)
    with pytest.raises(UserError, match="no output folder"):
        load(tmp_path / "nowhere")


def test_a_truncated_table_is_named_in_one_line(make_output):
    output = make_output()
    table = next((output / "runs").glob("*/patches/*/tables/000008.parquet"))
    table.write_bytes(table.read_bytes()[:100])
    with pytest.raises(UserError) as caught:
        load(output)
    assert str(table) in str(caught.value)
    assert "delete it and run the sweep again: only that table is computed again" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_status_is_a_failure_in_the_tables(make_output):
    output = make_output(seeds=(0, 1))
    (output / "runs" / "run-0.0001-constant-0" / "status.json").write_text("{")
    runs = load(output).runs.set_index("run_id")
    assert runs["status"].tolist() == ["failed", "done"]
    assert "status.json: not valid JSON" in runs["error"].iloc[0]


DAMAGE = {
    "run.json": ("{", {"metrics", "patching", "attribution"}),
    "patches/*-first/patch.json": ("[3]", set()),
    "metrics.parquet": ("PAR1", {"metrics"}),
    "patches/*-first/tables/000008.parquet": ("", set()),
}


@pytest.mark.parametrize("damaged", DAMAGE)
def test_what_is_damaged_is_named_and_the_rest_is_there(make_output, damaged):
    """Nobody gets less than all without a word: who does not ask what was left out gets an error."""
    output = make_output(seeds=(0, 1), steps=(0, 8))
    whole = load(output)
    content, gone = DAMAGE[damaged]
    (file,) = output.glob(f"runs/*-0/{damaged}")
    file.write_text(content)
    with pytest.raises(UserError, match=file.name):
        load(output)
    named: list[str] = []
    rest = load(output, damaged=named)
    assert len(named) == 1 and str(file) in named[0]
    for name in ("metrics", "patching", "attribution"):
        table, before = getattr(rest, name), getattr(whole, name)
        runs = before[before["run_id"] != "run-0.0001-constant-0"] if name in gone else before
        if "patch_id" in table and not gone:
            ended = ~before["patch_id"].str.endswith("0-first") | (before["step"].isin([0]) & ("000008" in damaged))
            runs = before[ended]
        pd.testing.assert_frame_equal(table, runs.reset_index(drop=True))


def test_tables_of_old_and_of_now_are_read_together(make_output, folders):
    output = make_output(steps=(8,), corruptions=("first",))
    run_id = "run-0.0001-constant-0"
    now = {"by_prompt": True, "approximate": True, "paths": True}
    folders.write_patch(output, run_id, "now", "second", steps=(8,), **now)
    folders.write_patch(output, run_id, "estimates", "both", steps=(8,), approximate=True, exact=False)
    frames = load(output)
    assert set(frames.attribution["kind"]) == {"lens", "layer", "head"}
    there = frames.patching.groupby("corruption")[["patched", "approximate"]].agg(lambda values: values.notna().all())
    assert there.loc["first"].tolist() == [True, False]
    assert there.loc["second"].tolist() == [True, True]
    assert there.loc["both"].tolist() == [False, True]
    assert frames.patching.groupby("corruption").size().nunique() == 1
    assert set(frames.paths["corruption"]) == {"second"}
    assert list(frames.paths.columns) == list(columns.PATHS)
    to_logits = frames.paths["site"] == "logits"
    assert (frames.paths["source_layer"] < frames.paths["layer"])[~to_logits].all()
    assert frames.paths.loc[to_logits, ["layer", "head"]].isna().all(axis=None)
    # Pairs of layers, sources, heads of q, k and v; and every head to the logits.
    assert (len(frames.paths), to_logits.sum()) == (6 * 4 * (4 + 2 + 2) + 16, 16)
    assert tabulate(folder.read(output), paths=False).paths.empty


def test_every_prompt_of_every_site(make_output):
    frames = load(make_output(steps=(0, 8), by_prompt=True, paths=True))
    rows = by_prompt(frames)
    assert list(rows.columns) == list(columns.BY_PROMPT)
    assert not rows.isna()[["patched", "clean", "corrupted"]].any(axis=None)
    keys = ["patch_id", "step", "site", "layer", "head", "position"]
    means = rows.groupby(keys, dropna=False)[["patched", "clean", "corrupted"]].mean()
    both = frames.patching.merge(means, on=keys, suffixes=("", "_mean"))
    assert len(both) == len(frames.patching)
    for name in ("patched", "clean", "corrupted"):
        pd.testing.assert_series_equal(both[f"{name}_mean"], both[name], check_names=False)
    # Two prompts have no `intro 1`: they keep their numbers elsewhere and have no rows here.
    lacking = rows[rows["position"] == "intro 1"]
    assert sorted(lacking["prompt"].unique()) == list(range(10))
    assert sorted(rows["prompt"].unique()) == list(range(12))
    of_paths = paths_by_prompt(frames, ["q"])
    assert len(of_paths) == 12 * (frames.paths["site"] == "q").sum()
    assert list(of_paths.columns) == list(columns.PATHS_BY_PROMPT)


def test_prompts_of_some_sites_and_checkpoints(make_output):
    frames = load(make_output(steps=(0, 8), by_prompt=True))
    last = replace(frames, patching=frames.patching.query("step == 8 and corruption == 'first'"))
    rows = by_prompt(last, ["z", "v"])
    assert set(rows["site"]) == {"z", "v"}
    assert (set(rows["step"]), set(rows["corruption"])) == ({8}, {"first"})
    assert len(rows) == 2 * 16 * 12


def test_every_prompt_of_attribution(make_output):
    frames = load(make_output(steps=(0, 8), by_prompt=True))
    rows = attribution_by_prompt(frames)
    assert rows.dtypes.astype(str).to_dict() == columns.ATTRIBUTION_BY_PROMPT
    keys = ["patch_id", "step", "kind", "component", "layer", "head"]
    means = rows.groupby(keys, dropna=False)["logit_diff"].agg(["mean", "size"])
    both = frames.attribution.merge(means, on=keys)
    assert len(both) == len(frames.attribution) and (both["size"] == 12).all()
    assert both["mean"].to_numpy() == pytest.approx(both["logit_diff"].to_numpy(), abs=1e-12)
    assert set(rows["prompt"]) == set(range(12))
    last = replace(frames, attribution=frames.attribution.query("step == 8 and corruption == 'first'"))
    heads = attribution_by_prompt(last, ["head"])
    assert (set(heads["kind"]), set(heads["step"]), len(heads)) == ({"head"}, {8}, 16 * 12)


def test_tables_that_tell_prompts_apart_in_patches_alone(make_output):
    """As they were before attribution did."""
    output = make_output(steps=(8,), corruptions=("first",), by_prompt=True)
    (file,) = output.glob("runs/*/patches/*/tables/*")
    rows = pq.read_table(file).to_pylist()
    for row in rows:
        row["by_prompt"] = row["by_prompt"] if row["kind"] == "patch" else None
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(file)), file)
    frames = load(output)
    assert len(frames.attribution) and len(by_prompt(frames)) and attribution_by_prompt(frames).empty


def test_old_tables_do_not_tell_prompts_apart(make_output):
    frames = load(make_output())
    of_prompts = ((by_prompt, columns.BY_PROMPT), (attribution_by_prompt, columns.ATTRIBUTION_BY_PROMPT))
    for read, kinds in of_prompts:
        rows = read(frames)
        assert rows.empty
        assert rows.dtypes.astype(str).to_dict() == kinds


def test_measures_are_a_table_of_their_own(make_output):
    frames = load(make_output(steps=(0, 24), corruptions=("first",), layers=2, heads=2, measures=True))
    table = frames.measures
    assert table.dtypes.astype(str).to_dict() == columns.MEASURES
    assert len(table) == 2 * (1 + 2 * (2 + 2 * 2))
    scores = table[(table["measure"] == "previous_token") & (table["step"] == 24)].set_index(["layer", "head"])
    assert scores["value"].idxmax() == (0, 0) and scores.loc[(0, 0), "value"] > 0.8
    probes = table[table["measure"] == "position_r2"]
    assert probes["head"].isna().all() and set(probes["component"]) == {"resid_pre", "attn_out"}
    assert set(frames.attribution["kind"]) == {"lens", "layer", "head"}
    assert not frames.patching["patched"].isna().any()


def test_tables_of_before_there_were_measures_have_none(make_output):
    assert load(make_output()).measures.empty


def test_a_series_has_its_gaps_and_nothing_of_how_it_was_trained(make_output, make_series):
    make_output(lrs=(1e-4, 2e-4), corruptions=("first",))
    runs = load(make_series(seeds=(1, 2), corruptions=("first",))).runs.set_index("run_id")
    assert runs["missing_steps"].dropna().to_dict() == {"series-2": "16"}
    series = runs.loc[["series-1", "series-2"]]
    assert series[["lr", "weight_decay", "schedule", "steps", "batch_size"]].isna().all(axis=None)
    assert list(series["seed"]) == [1, 2] and list(series["setting"]) == ["model series"] * 2
    assert list(runs["setting"])[:2] == ["model mini, lr 0.0001", "model mini, lr 0.0002"]


def test_what_was_found_before_a_step_was_known_as_a_gap_is_left_out(make_series, folders):
    output = make_series(missing_steps={})
    with_it = load(output)
    assert 16 in set(with_it.metrics["step"]) and 16 in set(with_it.patching["step"])
    folder_of = output / "runs" / "series"
    status = json.loads((folder_of / "status.json").read_text())
    (folder_of / "status.json").write_text(json.dumps(status | {"missing_steps": [16]}))
    frames = load(output)
    for table in (frames.metrics, frames.patching, frames.attribution, frames.measures):
        assert 16 not in set(table["step"])
    assert len(frames.metrics) == len(with_it.metrics) * 3 / 4
    assert frames.runs["missing_steps"].tolist() == ["16"]


def asked_of(output, patch_id, task):
    """Has a patch job of `make_output` the prompts of another task."""
    (file,) = output.glob(f"runs/*/patches/{patch_id}/patch.json")
    about = json.loads(file.read_text())
    about["config"]["patching"] |= {"task": task, "split": "heldout", "also": []}
    about["config"]["task"] = {"name": "ioi3"}
    file.write_text(json.dumps(about))


def test_patch_jobs_on_another_task_s_prompts_are_never_with_the_run_s_own(make_output):
    output = make_output(seeds=(0, 1), corruptions=("first", "ioi2-first"), by_prompt=True)
    for seed in (0, 1):
        asked_of(output, f"run-0.0001-constant-{seed}-ioi2-first", {"name": "ioi2", "n_names": 2})
    found = folder.read(output)
    frames = load(output)
    of_task = dict(zip(frames.patches["patch_id"], frames.patches["task"].fillna("own"), strict=True))
    assert sorted(of_task.values()) == ["ioi2", "ioi2", "own", "own"]
    assert frames.patches["patching"].unique().tolist() == ["full"], (
        "a setting for each would part what belongs together"
    )
    for (_, _, corruption), ids in groups(frames.patches, frames.runs):
        assert {of_task[id] for id in ids} == {"ioi2" if corruption == "ioi2-first" else "own"}
    every = conclude(found, frames).families
    assert {one.family.corruption for one in every} == {"first", "ioi2-first"}
    for one in every:
        assert len({of_task[job.patch.patch_id] for job in one.family.jobs}) == 1
    for corruption in ("first", "ioi2-first"):
        for family in of_sites(frames, corruption).values():
            assert {job.patch.corruption for job in family.jobs} == {corruption}
    names = [name for name, _ in pictures(frames)]
    assert {"heads-first", "heads-ioi2-first"} <= set(names)


def test_two_tasks_of_one_name_are_two_settings(make_output):
    output = make_output(seeds=(0, 1), corruptions=("ioi2-first",))
    for seed in (0, 1):
        asked_of(output, f"run-0.0001-constant-{seed}-ioi2-first", {"name": "ioi2", "prompts": {"heldout": 240 + seed}})
    assert load(output).patches["patching"].tolist() == ["full, heldout 240", "full, heldout 241"]


def test_patch_jobs_of_before_are_of_the_same_kind(make_output, folders):
    """What came later is not asked for by a job of then, and which checkpoints it has makes it no other job."""
    output = make_output(seeds=(0, 1), corruptions=("first",))
    older, newer = sorted(output.glob("runs/*/patches/*/patch.json"))
    for file, more in ((older, {"steps": [0, 8]}), (newer, {"steps": None, "looks": None, "edges": None})):
        about = json.loads(file.read_text())
        about.pop("checksum", None)
        about["config"]["patching"] |= more
        file.write_text(json.dumps(about))
    assert load(output).patches["patching"].nunique() == 1
