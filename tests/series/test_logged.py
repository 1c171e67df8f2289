"""What a series' own trainer logged, next to what is measured on its checkpoints."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pyarrow as pa
import pytest
import wandb

from mi_sweeps.identity import run_id
from mi_sweeps.jobs.finetune import finetune
from mi_sweeps.series import logged
from mi_sweeps.store.files import read_table, write_table
from mi_sweeps.store.folders import run_folder
from mi_sweeps.tracking import mirror, values

HISTORY = [
    {"step": 2, "loss": 3.0, "learning_rate": 1e-4, "grad_norm": 1.0},
    {"step": 6, "loss": 2.0, "learning_rate": 5e-5},
    {"step": 8, "eval_loss": 2.5, "eval_runtime": 1.0},
    {"step": 16, "loss": 1.5, "eval_news_loss": 1.75},
    {"step": 20, "loss": 1.0},
]
"""A trainer's log, of which a run with checkpoints at 0, 8, 16 and 24 shows each in its place."""


@pytest.fixture
def measured(series, make):
    """A series with a trainer's log; step 16 is missing."""
    (series / "checkpoint-16" / "model.safetensors").unlink()
    (series / "checkpoint-24" / "trainer_state.json").write_text(
        json.dumps({"global_step": 24, "log_history": HISTORY})
    )
    config = make(series, "checkpoint.steps=[0,8,16,24]")
    run = run_folder(config.output, run_id(config))
    finetune(config, run)
    return config, run


def test_its_curves_are_a_split_of_their_own(measured):
    _, run = measured
    rows = read_table(run.metrics).to_pylist()
    theirs = [(row["step"], row["metric"], row["value"], row["n"]) for row in rows if row["split"] == logged.SPLIT]
    assert theirs == [
        (2, "learning_rate", 1e-4, 0), (2, "loss", 3.0, 0), (6, "learning_rate", 5e-5, 0), (6, "loss", 2.0, 0),
        (8, "eval_loss", 2.5, 0), (16, "eval_news_loss", 1.75, 0), (16, "loss", 1.5, 0), (20, "loss", 1.0, 0),
    ]  # fmt: skip
    assert {row["step"] for row in rows if row["split"] != logged.SPLIT} == {0, 8, 24}


def test_a_step_of_the_log_is_no_checkpoint_that_was_measured(measured):
    config, run = measured
    table = read_table(run.metrics)
    whole = table.to_pylist()
    # As an attempt leaves it that was interrupted after its first checkpoint.
    begun = [row for row in whole if row["split"] == logged.SPLIT or row["step"] == 0]
    assert {8, 16} <= {row["step"] for row in begun}
    write_table(run.metrics, pa.Table.from_pylist(begun, table.schema))
    (run.path / "status.json").unlink()
    finetune(config, run)
    assert read_table(run.metrics).to_pylist() == whole


def test_wandb_has_the_last_value_before_each_checkpoint_and_the_gaps(measured):
    _, run = measured
    points = {step: values.of_metrics(rows) for step, rows in values.at(run, None, values.steps(run, None))}
    theirs = {
        step: {key: value for key, value in point.items() if key.startswith("trainer/")}
        for step, point in points.items()
    }
    assert theirs == {
        0: {},
        8: {"trainer/loss": 2.0, "trainer/learning_rate": 5e-5, "trainer/eval_loss": 2.5},
        24: {"trainer/loss": 1.0, "trainer/eval_news_loss": 1.75},
    }
    result = values.summary(run)["missing_steps"]
    assert result.startswith("16: ") and "no weights" in result


def test_points_while_it_runs_are_those_of_later(series, make, monkeypatch):
    (series / "checkpoint-24" / "trainer_state.json").write_text(json.dumps({"log_history": HISTORY}))
    seen = {}
    monkeypatch.setattr(mirror.Mirror, "log", lambda self, step, rows: seen.update({step: values.of_metrics(rows)}))
    config = make(series)
    run = run_folder(config.output, run_id(config))
    finetune(config, run)
    assert seen == {step: values.of_metrics(rows) for step, rows in values.at(run, None, values.steps(run, None))}
    assert seen[16]["trainer/loss"] == 1.5


def test_wandb_gets_no_seed_schedule_or_fine_tune(measured, monkeypatch):
    config, run = measured
    begun = {}
    fake = SimpleNamespace(define_metric=lambda *names, **how: None)
    monkeypatch.setattr(wandb, "init", lambda **how: begun.update(how) or fake)
    mirror._init("offline", config, run, None, run.path)
    assert begun["job_type"] == "series" and begun["tags"] == ["series"] and begun["name"] == "series"
    assert not begun["config"].keys() & {"lr", "schedule", "seed"}
    assert begun["notes"].startswith("sweep default, model=series task=ioi3 rest=") and "seed=" not in begun["notes"]
