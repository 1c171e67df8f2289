"""What was found, in words: only what inference warrants, with what it stands on."""

from __future__ import annotations

import pytest

from mi_sweeps.analysis.derived import findings
from mi_sweeps.analysis.findings.questions import QUESTIONS
from mi_sweeps.analysis.frames import load


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
