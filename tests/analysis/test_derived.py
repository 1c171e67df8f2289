"""What was found, in words: only what inference warrants, with what it stands on."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from mi_sweeps.analysis import looks
from mi_sweeps.analysis.derived import findings
from mi_sweeps.analysis.findings.kept import kept
from mi_sweeps.analysis.findings.looked import looked
from mi_sweeps.analysis.findings.questions import QUESTIONS
from mi_sweeps.analysis.frames import load, typed
from mi_sweeps.analysis.inference.retention import RETENTION


@pytest.fixture
def told(make_output):
    return findings(load(make_output(steps=(0, 8, 16), by_prompt=True)))


def test_each_statement_comes_with_its_numbers_and_runs(told):
    asked = list(told["question"].unique())
    assert asked == [question for question in QUESTIONS if question in asked]
    assert {"learned", "heads", "subjects", "transformed"} <= set(asked)
    assert told["statement"].str.endswith(".").all()
    assert told["run_ids"].str.split().map(len).tolist() == told["runs"].tolist()
    heads = told[told["table"] == "courses"]
    assert len(heads) and (heads["low"] < heads["estimate"]).all() and (heads["estimate"] < heads["high"]).all()
    for row in heads.itertuples():
        assert f"{row.estimate:.2f}" in row.statement and f"corruption {row.corruption}" in row.statement
    assert set(heads["verdict"]) <= {
        *("formed", "grew", "from the start", "matters", "changed sign", "lost", "outgrown"),
    }


def test_nothing_is_said_of_heads_where_tables_do_not_tell_prompts_apart(make_output):
    told = findings(load(make_output(steps=(0, 8))))
    assert "heads" not in set(told["question"]) and "learned" in set(told["question"])


def test_only_runs_that_have_the_numbers_are_named(make_output, folders):
    output = make_output(seeds=(0, 1), corruptions=("first",), steps=(0, 24), by_prompt=True)
    folders.write_run(output, "run-0.0001-constant-2", seed=2, steps=(0, 24), state="failed", error="no memory")
    file = output / "sweeps" / "demo" / "sweep.json"
    sweep = json.loads(file.read_text())
    never = folders.cell("run-0.0001-constant-2", "never", "first", seed="2")
    file.write_text(json.dumps(sweep | {"cells": [*sweep["cells"], never]}))
    told = findings(load(output)).set_index("question")
    assert (told.loc["seeds", "runs"] == 2).all() and "constant-2" not in str(told.loc["seeds", "run_ids"])
    assert told.loc["learned", "runs"] == 3


def test_what_several_patch_jobs_say_of_the_same_runs_is_told_apart(make_output, folders):
    output = make_output(corruptions=("first",), steps=(0, 8), by_prompt=True)
    folders.write_patch(
        output, "run-0.0001-constant-0", "again", "first", steps=(0, 8), seed=5, name="heads", by_prompt=True
    )
    folders.write_sweep(output, "again", [folders.cell("run-0.0001-constant-0", "again", "first", seed="0")])
    told = findings(load(output))
    of_jobs = told[told["patching"].notna()]
    assert set(of_jobs["patching"]) == {"full", "heads"} and not told["statement"].duplicated().any()
    assert all(f"patching {row.patching}" in row.statement for row in of_jobs.itertuples())


def test_curves_are_told_of_what_heads_put_out_alone(make_output):
    told = findings(load(make_output(corruptions=("first",), steps=(0, 16, 24), by_prompt=True)))
    sudden = told[told["question"] == "sudden"]
    assert sudden["statement"].str.contains("gain of patching z of head").any()
    assert not sudden["statement"].duplicated().any()


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


def test_one_checkpoint_goes_nowhere(make_output):
    (one,) = findings(load(make_output(corruptions=(), steps=(8,)))).query("question == 'learned'").itertuples()
    assert one.statement.startswith("Held-out win rate is ")


def test_attention_on_the_same_prompts_is_told_once_and_says_of_which():
    row = {
        **{"cell": "all", "patching": "looks", "step": 8, "side": "clean", "query": "end", "layer": 2, "head": 1},
        **{"key": "subject 1", "attention": 0.4, "low": 0.3, "high": 0.5, "uniform": 0.05, "change": 0.3},
        **{"change_low": 0.2, "change_high": 0.4, "against_start": "more", "n": 12, "runs": 1, "other_seeds": False},
    }
    rows = [
        row | {"corruption": corruption, "attention": value}
        for corruption, value in (("first", 0.4), ("second", 0.4), ("ioi2-first", 0.2))
    ]
    start = [one | {"step": 2, "against_start": "alike", "change": 0.0} for one in rows]
    told = list(looked(typed(rows + start, looks.ATTENTION)))
    assert [one.corruption for one in told] == ["first second", "ioi2-first"]
    assert "corruption first and second" in told[0].statement and "corruption ioi2-first" in told[1].statement
    assert all("since checkpoint 2" in one.statement for one in told)


def test_a_run_that_stopped_is_among_those_that_kept_a_task():
    row = {
        **{"cell": "all", "patching": "full", "corruption": "ioi2-first", "task": "ioi2", "since": 0, "n": 240},
        **{"what": "win rate", "before": 0.9, "after": 0.9, "difference": 0.0, "low": -0.01, "high": 0.01, "runs": 1},
    }
    of_runs = [("a", 8, "kept"), ("a", 16, "kept"), ("b", 8, "lost")]
    rows = [row | {"run_id": run_id, "step": step, "verdict": verdict} for run_id, step, verdict in of_runs]
    (one,) = kept(typed(pd.DataFrame(rows), RETENTION))
    assert one.verdict == "lost by some" and "kept in 1, lost in 1 of 2 runs" in one.statement
