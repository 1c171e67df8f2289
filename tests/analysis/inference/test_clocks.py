"""The clocks of a run: what else besides steps passes while it trains."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mi_sweeps.analysis.folder import RunRecord
from mi_sweeps.analysis.inference.clocks import clocks, epoch_ends

SCHEDULES = "mi_sweeps.training.schedules."


def config(schedule, **arguments):
    return {
        "optim": {"lr": 0.1},
        "train": {"steps": 10, "batch_size": 16},
        "task": {"prompts": {"train": 40}},
        "schedule": {"name": schedule, "_target_": SCHEDULES + schedule, **arguments},
    }


def test_learning_rates_add_up_over_the_steps_before_a_checkpoint():
    times = clocks(config("warmup_decay", warmup_ratio=0.2), (0, 1, 4, 10))
    assert times["step"].tolist() == [0, 1, 4, 10]
    multipliers = [0.5, 1, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    assert np.allclose(times["learning rate"], [0.1 * sum(multipliers[:step]) for step in (0, 1, 4, 10)])


def test_of_a_constant_schedule_steps_tell_it_all():
    assert list(clocks(config("constant"), (0, 1, 4, 10))) == ["step"]


def test_a_function_that_is_not_ours_is_never_run():
    own = config("constant") | {"schedule": {"name": "own", "_target_": "os.getcwd"}}
    assert list(clocks(own, (0, 1, 4))) == ["step"]
    assert list(clocks({}, (0, 1, 4))) == ["step"]


def run(config, path="."):
    return RunRecord("r", (), Path(path), {"config": config}, {}, {}, ())


def test_epochs_end_when_all_prompts_were_seen(tmp_path):
    assert epoch_ends(run(config("constant")), 10) == [2.5, 5.0, 7.5, 10.0]
    own = config("constant") | {"task": {"name": "prompts", "path": "rows.jsonl"}}
    assert epoch_ends(run(own, tmp_path), 10) == []
    (tmp_path / "audit.json").write_text(json.dumps({"splits": {"train": {"prompts": 80}}}))
    assert epoch_ends(run(own, tmp_path), 10) == [5.0, 10.0]
    assert epoch_ends(run({"model": {"keep": True}}, tmp_path), 10) == []
