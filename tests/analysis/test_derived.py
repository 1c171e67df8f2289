"""Findings: sentences that inference warrants, with their evidence."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest

from mi_sweeps.analysis import looks
from mi_sweeps.analysis.columns import typed
from mi_sweeps.analysis.derived import findings
from mi_sweeps.analysis.findings.kept import kept
from mi_sweeps.analysis.findings.learned import learned
from mi_sweeps.analysis.findings.looked import looked
from mi_sweeps.analysis.findings.onsets import onsets
from mi_sweeps.analysis.findings.questions import QUESTIONS
from mi_sweeps.analysis.frames import load
from mi_sweeps.analysis.inference import trajectories
from mi_sweeps.analysis.inference.families import families, jobs
from mi_sweeps.analysis.inference.onset_rows import ONSETS
from mi_sweeps.analysis.inference.retention import RETENTION


@pytest.fixture
def result(make_output):
    return findings(load(make_output(steps=(0, 8, 16), by_prompt=True)))


def test_each_statement_comes_with_its_numbers_and_runs(result):
    asked = list(result["question"].unique())
    assert asked == [question for question in QUESTIONS if question in asked]
    assert {"learned", "heads", "subjects", "transformed"} <= set(asked)
    assert result["statement"].str.endswith(".").all()
    assert result["run_ids"].str.split().map(len).tolist() == result["runs"].tolist()
    assert (result["runs"] > 0).all()
    heads = result[result["table"] == "courses"]
    assert len(heads) and (heads["low"] < heads["estimate"]).all() and (heads["estimate"] < heads["high"]).all()
    for row in heads.itertuples():
        assert f"{row.estimate:.2f}" in row.statement and f"the {row.corruption} corruption" in row.statement
    assert set(heads["verdict"]) <= {
        *("formed", "grew", "from the start", "matters", "changed sign", "lost", "outgrown"),
    }


def test_tables_without_values_by_prompt_give_no_findings_on_heads(make_output):
    result = findings(load(make_output(steps=(0, 8))))
    assert "heads" not in set(result["question"]) and "learned" in set(result["question"])


def test_only_runs_that_have_the_numbers_are_named(make_output, folders):
    output = make_output(seeds=(0, 1), corruptions=("first",), steps=(0, 24), by_prompt=True)
    folders.write_run(output, "run-0.0001-constant-2", seed=2, steps=(0, 24), state="failed", error="no memory")
    file = output / "sweeps" / "demo" / "sweep.json"
    sweep = json.loads(file.read_text())
    never = folders.point("run-0.0001-constant-2", "never", "first", seed="2")
    file.write_text(json.dumps(sweep | {"points": [*sweep["points"], never]}))
    result = findings(load(output)).set_index("question")
    assert (result.loc["seeds", "runs"] == 2).all() and "constant-2" not in str(result.loc["seeds", "run_ids"])
    assert result.loc["learned", "runs"] == 3


def test_findings_of_several_patch_jobs_on_the_same_runs_name_their_patching(make_output, folders):
    output = make_output(corruptions=("first",), steps=(0, 8), by_prompt=True)
    folders.write_patch(
        output, "run-0.0001-constant-0", "again", "first", steps=(0, 8), seed=5, name="heads", by_prompt=True
    )
    folders.write_sweep(output, "again", [folders.point("run-0.0001-constant-0", "again", "first", seed="0")])
    result = findings(load(output))
    of_jobs = result[result["patching"].notna()]
    assert set(of_jobs["patching"]) == {"full", "heads"} and not result["statement"].duplicated().any()
    assert all(f"patching {row.patching}" in row.statement for row in of_jobs.itertuples())


def test_findings_on_curves_are_about_head_outputs_only(make_output):
    result = findings(load(make_output(steps=(0, 16, 24), by_prompt=True)))
    sudden = result[result["question"] == "sudden"]
    assert not sudden["statement"].duplicated().any()
    gains = sudden[sudden["statement"].str.contains("their gain of patching z")]
    assert list(gains["corruption"]) == ["first", "second"], "undecided heads share a sentence"
    assert gains["statement"].str.match(r"Of \d+ heads \((\d\.\d, )+\d\.\d\), their gain of patching z under").all()
    (clean,) = sudden[sudden["statement"].str.contains("logit difference of clean")].itertuples()
    assert clean.corruption == "first second" and "of the first and second corruption cannot be said" in clean.statement


def test_heads_with_an_undecided_onset_share_a_sentence():
    row = {
        "setting": "all",
        "patching": "full",
        "corruption": "second",
        "against": "first",
        "measure": "onset",
        "runs": 5,
    }
    places = [(0, 1, "cannot tell"), (2, 1, "later"), (3, 0, "cannot tell"), (3, 3, "in neither")]
    rows = [row | {"layer": layer, "head": head, "answer": answer} for layer, head, answer in places]
    later, rest = onsets(typed(rows, ONSETS))
    assert later.statement.startswith("Head 2.1 comes to matter later under the second than under the first corruption")
    assert rest.statement.startswith("For 2 heads (0.1, 3.0) it is undecided whether they come to matter earlier")
    assert rest.verdict == "cannot tell" and rest.is_weak and not later.is_weak


@pytest.mark.parametrize(("runs", "end"), [(6, "(6 runs). An answer needs 7 runs."), (7, "(7 runs).")])
def test_an_undecided_onset_says_how_many_runs_an_answer_for_all_heads_needs(runs, end):
    row = {"setting": "all", "patching": "full", "corruption": "second", "against": "first", "measure": "onset"}
    rows = [row | {"layer": 0, "head": head, "answer": "cannot tell", "runs": runs} for head in (1, 2)]
    (found,) = onsets(typed(rows, ONSETS))
    assert found.statement.endswith(end)


def test_a_finding_says_where_other_runs_go_further(make_output, folders):
    output = make_output(seeds=(0, 1), steps=(0, 16, 24), by_prompt=True)
    run = output / "runs" / "run-0.0001-constant-1"
    for file in run.glob("patches/*/tables/000024*"):
        file.unlink()
    result = findings(load(output))
    further = result["scope"].str.contains("up to checkpoint 16, the last that all of them have", regex=False)
    of_table = result.groupby("table")
    for table in ("subjects", "transformations", "verdicts"):
        assert further[of_table.groups[table]].all(), table
    curves = result.loc[of_table.groups["transitions"]]
    is_gain = curves["statement"].str.contains("gain of patching")
    assert (further[curves.index] == is_gain).all(), "a run's own curve goes on to its last checkpoint"
    assert not further[of_table.groups["metrics"]].any()
    metrics = pd.read_parquet(run / "metrics.parquet")
    metrics[metrics["step"] < 24].to_parquet(run / "metrics.parquet")
    (one,) = findings(load(output)).query("question == 'learned'").itertuples()
    assert "up to checkpoint 16, the last that all of them have" in one.scope


def test_findings_report_on_edges(measured_circuit, folders):
    """Four edges of a known circuit are all that carry, and 10% of the edges hold them."""
    output, patch = measured_circuit(prompts=True)
    result = findings(load(output)).query("question == 'circuits'").set_index("table")
    effects = result.loc["edge_effects"]
    assert effects["verdict"] == "matters" and "4 of 75 edges matter" in effects["statement"]
    assert effects["low"] <= effects["estimate"] <= effects["high"] and effects["n"] == len(patch.about["prompts"])
    sets = result.loc["edge_circuits"]
    assert sets["verdict"] == "faithful" and "faithful has 7 edges (10%): F 1.00" in sets["statement"]
    bound = result.loc["edge_bounds"]
    assert bound["verdict"] == "all patched" and "all 75 edges were patched" in bound["statement"]
    assert (result.loc[["edge_effects", "edge_circuits", "edge_bounds"], "run_ids"] == patch.run_id).all()
    output, _ = measured_circuit(prompts=True, exact=2, sample=40)
    bound = findings(load(output)).set_index("table").loc["edge_bounds"]
    assert "of the 73 that an estimate ranks lower at most 3 have a larger effect" in bound["statement"]
    assert bound["estimate"] == 3 and bound["verdict"] == "bounded"


@pytest.mark.parametrize(
    ("turned", "verdict", "said"),
    [(False, "learned", "first reached"), (True, "lost", "at the end 1 run is below it again")],
)
def test_what_was_learned_and_lost_is_not_learned(make_output, folders, turned, verdict, said):
    output = make_output(lrs=(3e-4,), corruptions=())
    if turned:
        folders.turn(output, "run-0.0003-constant-0")
    (one,) = findings(load(output)).query("question == 'learned'").itertuples()
    assert one.verdict == verdict and said in one.statement


@pytest.mark.parametrize(("first", "verdict"), [(0, "from the start"), (8, "learned")])
def test_what_was_there_at_the_first_checkpoint_may_have_been_reached_before(make_output, first, verdict):
    frames = load(make_output(lrs=(3e-4,), corruptions=()))
    metrics = frames.metrics[frames.metrics["step"] >= first].assign(value=0.95)
    (one,) = learned(replace(frames, metrics=metrics))
    assert one.verdict == verdict
    assert f"; 90% was already reached at checkpoint {first}, the first that was examined" in one.statement


def test_a_setting_that_only_diverged_says_so(make_output, folders):
    output = make_output(corruptions=())
    for seed in range(2):
        folders.write_run(output, f"apart-{seed}", lr=1e-3, seed=seed, diverged=11, steps=(0, 8))
    folders.write_run(output, "alone", lr=2e-3, diverged=11, steps=(0, 8))
    result = findings(load(output)).query("question == 'learned'").set_index("setting")["statement"]
    ends = {setting: ("all 2 runs diverged" in said, "the run diverged" in said) for setting, said in result.items()}
    assert sorted(ends.values()) == [(False, False), (False, True), (True, False)]


def test_one_checkpoint_goes_nowhere(make_output):
    (one,) = findings(load(make_output(corruptions=(), steps=(8,)))).query("question == 'learned'").itertuples()
    assert one.statement.startswith("Held-out win rate is ")


def test_attention_on_the_same_prompts_is_one_finding_that_names_them():
    row = {
        **{"setting": "all", "patching": "looks", "step": 8, "side": "clean", "query": "end", "layer": 2, "head": 1},
        **{"key": "subject 1", "attention": 0.4, "low": 0.3, "high": 0.5, "uniform": 0.05, "change": 0.3},
        **{"change_low": 0.2, "change_high": 0.4, "against_start": "more", "n": 12, "runs": 1, "other_seeds": False},
    }
    rows = [
        row | {"corruption": corruption, "attention": value}
        for corruption, value in (("first", 0.4), ("second", 0.4), ("ioi2-first", 0.2))
    ]
    start = [one | {"step": 2, "against_start": "alike", "change": 0.0} for one in rows]
    result = list(looked(typed(rows + start, looks.ATTENTION)))
    assert [one.corruption for one in result] == ["first second", "ioi2-first"]
    assert (
        "the first and second corruption" in result[0].statement and "the ioi2-first corruption" in result[1].statement
    )
    assert all("since checkpoint 2" in one.statement for one in result)


def test_a_run_that_stopped_is_among_those_that_kept_a_task():
    row = {
        **{"setting": "all", "patching": "full", "corruption": "ioi2-first", "task": "ioi2", "since": 0, "n": 240},
        **{"what": "win rate", "before": 0.9, "after": 0.9, "difference": 0.0, "low": -0.01, "high": 0.01, "runs": 1},
    }
    of_runs = [("a", 8, "kept"), ("a", 16, "kept"), ("b", 8, "lost")]
    rows = [row | {"run_id": run_id, "step": step, "verdict": verdict} for run_id, step, verdict in of_runs]
    (one,) = kept(typed(pd.DataFrame(rows), RETENTION))
    assert one.verdict == "lost by some" and "kept in 1, lost in 1 of 2 runs" in one.statement


def test_a_diverged_run_is_in_no_finding_and_each_says_so(make_output, folders):
    """Nor can it be the fifth seed that an answer on a curve needs."""
    steps = (0, 8, 16, 24)
    output = make_output(seeds=range(4), steps=steps, layers=2, heads=2, corruptions=("first",), by_prompt=True)
    folders.write_run(output, "stopped", seed=4, steps=steps, diverged=22)
    folders.write_patch(output, "stopped", "stopped-first", seed=4, steps=steps, layers=2, heads=2, by_prompt=True)
    frames = load(output)
    found = findings(frames)
    assert {"learned", "heads", "sudden", "seeds"} <= set(found["question"])
    said = found["statement"] + found["scope"]
    assert (said.str.count("1 run that diverged is left out") == 1).all()
    assert found["runs"].max() == 4 and not found["run_ids"].str.contains("stopped").any()
    curves = trajectories.of_frames(frames)["transitions"]
    assert curves["curve"].nunique() > 1
    assert (curves["run_id"] != "stopped").all() and curves["runs"].max() == 4


def test_a_run_of_its_own_does_not_tell_of_others(make_output, folders):
    output = make_output(seeds=(0, 1), steps=(0, 8), layers=2, heads=2, corruptions=("first",), by_prompt=True)
    folders.write_run(output, "stopped", seed=2, steps=(0, 8), diverged=7)
    frames = load(output)

    def left_out(*seeds):
        own = [f"run-0.0001-constant-{seed}-first" for seed in seeds]
        return next(families(jobs(frames.output, frames.runs, own))).left_out

    assert (left_out(0), left_out(1), left_out(0, 1)) == (0, 0, 1)
    folders.write_run(output, "run-0.0001-constant-1", seed=1, steps=(0, 8), diverged=7)
    frames = load(output)
    assert (left_out(0), left_out(1)) == (2, 0)
