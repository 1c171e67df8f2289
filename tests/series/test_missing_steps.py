"""Steps without a checkpoint, in words."""

import json

from mi_sweeps.series import missing_steps


def test_steps_missing_for_the_same_reason_share_a_line():
    found = {16: "a/checkpoint-16: not there", 8: "a/checkpoint-8: not there", 160: "as step 143000"}
    assert missing_steps.lines(found) == ["8, 16: a/checkpoint-N: not there", "160: as step 143000"]


def test_a_reason_that_several_share_is_quoted():
    found = dict.fromkeys((1, 4), "its weights are the same at steps 1, 4 and 64")
    assert missing_steps.lines({**found, 8: "8 is empty"}) == [
        "1, 4: its weights are the same at steps 1, 4 and 64",
        "8: 8 is empty",
    ]


def test_of_many_steps_some_are_named():
    (line,) = missing_steps.lines(
        {step: f"step{step} has the weights of step143000" for step in range(1000, 87000, 1000)}
    )
    assert line == ("1000, 2000, 3000, 4000, 5000, 6000, 7000, 8000 and 78 more: stepN has the weights of step143000")


def test_reasons_are_those_on_disk(tmp_path):
    assert missing_steps.read(tmp_path, ()) == {}
    assert missing_steps.read(tmp_path, (8,)) == {8: ""} and missing_steps.lines({8: ""}) == ["8"]
    (tmp_path / "series.json").write_text(json.dumps({"missing_steps": [{"step": 8, "reason": "gone"}, {"step": 4}]}))
    assert missing_steps.read(tmp_path, (16, 8)) == {8: "gone", 16: ""}
    (tmp_path / "series.json").write_text(json.dumps({"gaps": [{"step": 8, "reason": "gone"}]}))  # before 1.0
    assert missing_steps.read(tmp_path, (8,)) == {8: "gone"}
