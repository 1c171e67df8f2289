"""A trainer's own log: read as it is, and never an obstacle."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest

from mi_sweeps.models.trainer import STATE, Logged, history


def write(folder: Path, *entries: object, **values: object) -> Path:
    (folder / STATE).write_text(json.dumps({"global_step": 4, "log_history": entries, **values}))
    return folder


def test_the_curves_of_a_trainer_s_run(trained: Path) -> None:
    folder = trained / "full" / "checkpoint-4"
    logged = history(folder)
    written = json.loads((folder / STATE).read_text())["log_history"]
    assert {entry.metric for entry in logged} == {"loss", "learning_rate", "grad_norm", "eval_loss"}
    losses = [(entry.step, entry.value) for entry in logged if entry.metric == "loss"]
    assert losses == [(entry["step"], entry["loss"]) for entry in written if "loss" in entry]
    assert [entry.step for entry in logged if entry.metric == "eval_loss"] == [2, 4]
    assert max(entry.step for entry in history(trained / "full" / "checkpoint-2")) == 2


def test_what_belongs_to_no_step_is_left_out(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"step": 4, "epoch": 1.0, "loss": 2.5, "eval_runtime": 1.0, "eval_samples_per_second": 3.0},
        {"step": 4, "train_loss": 3.5, "train_runtime": 9.0, "total_flos": 1e9, "note": "done", "flag": True},
    )
    assert history(tmp_path) == [Logged(4, "loss", 2.5)]


def test_the_later_one_of_two_counts(tmp_path: Path) -> None:
    write(tmp_path, {"step": 3, "loss": 9.0}, {"step": 2, "loss": 2.0}, {"step": 3, "loss": 1.0})
    assert history(tmp_path) == [Logged(2, "loss", 2.0), Logged(3, "loss", 1.0)]


def test_a_loss_that_is_no_number_is_kept(tmp_path: Path) -> None:
    """A run that diverged shows it."""
    (tmp_path / STATE).write_text('{"log_history": [{"step": 1, "loss": NaN}]}')
    assert math.isnan(history(tmp_path)[0].value)


def test_a_folder_without_one_has_no_curves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert history(tmp_path) == []
    assert not caplog.text


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"7", b"[" * 100_000])
def test_a_damaged_one_costs_the_curves_with_a_word(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / STATE).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert history(tmp_path) == []
    assert f"{tmp_path / STATE}" in caplog.text
    assert "curves are left out" in caplog.text


@pytest.mark.parametrize("entry", [None, "loss", {"loss": 1.0}, {"step": "3", "loss": 1.0}, {"step": -1, "loss": 1.0}])
def test_a_damaged_entry_costs_itself_with_a_word(
    tmp_path: Path, entry: object, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, entry, {"step": 2, "loss": 2.0})
    with caplog.at_level(logging.WARNING):
        assert history(tmp_path) == [Logged(2, "loss", 2.0)]
    assert "part of log_history cannot be read" in caplog.text


def test_entries_that_are_no_list(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, log_history={"step": 1})
    with caplog.at_level(logging.WARNING):
        assert history(tmp_path) == []
    assert "part of log_history cannot be read" in caplog.text
