"""The wandb mirror: real wandb in offline mode, read back; and a wandb that fails, which fails no run."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import wandb

from mi_sweeps.store.folders import run_folder
from mi_sweeps.sweeps import plan
from mi_sweeps.sweeps.execute import execute
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.tracking.mirror import heatmap, mirror


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(variable, raising=False)


def records(folder):
    """What offline wandb wrote for a run and its patch jobs, in the order of their starts."""
    files = sorted(folder.glob("**/offline-run-*/*.wandb"), key=lambda path: path.parent.name)
    found = []
    for file in files:
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        inspected = subprocess.run(command, capture_output=True, text=True, check=True)
        found += [json.loads(line) for line in inspected.stdout.splitlines()]
    return found


def test_fine_tune_and_patch_job_are_one_wandb_run(small, tmp_path):
    cells = expand([*small, "tracking=wandb", "sweep.name=mine", f"output={tmp_path / 'o'}"])
    assert not execute(cells).failed
    folder, _ = plan.folders_of(cells[0])
    written = records(folder.path)
    runs = [record["run"] for record in written if record["type"] == "run"]
    assert {run["run_id"] for run in runs} == {cells[0].run_id}
    assert {run["run_group"] for run in runs} == {"mine"}
    assert [run["job_type"] for run in runs] == ["finetune", "patch"]
    history = [record["history"]["item"] for record in written if record["type"] == "history"]
    assert [item["checkpoint"] for item in history] == [0, 2, 4, 0, 4]
    assert {"heldout/win_rate", "heldout/win_rate_low", "two_name/win_rate"} <= set(history[0])
    assert {"first/logit_diff/attn_0", "first/heads/z._type"} <= set(history[-1])
    axes = [record["metric"] for record in written if record["type"] == "metric"]
    assert {"checkpoint"} == {axis["step_metric"] for axis in axes if "step_metric" in axis}


class Broken:
    def __getattr__(self, name):
        def fail(*args, **kwargs):
            raise RuntimeError(f"{name} is broken")

        return fail


@pytest.mark.parametrize("how", ["init", "log"])
def test_a_wandb_that_fails_is_a_warning(small, tmp_path, monkeypatch, caplog, how):
    broken = Broken()
    if how == "init":
        monkeypatch.setattr(wandb, "init", broken.init)
    else:
        monkeypatch.setattr(
            wandb, "init", lambda **options: type("Run", (Broken,), {"define_metric": lambda *a, **k: None})()
        )
    cells = expand([*small, "tracking=wandb", f"output={tmp_path / 'o'}"])
    assert not execute(cells).failed
    assert plan.make(cells).is_done
    assert f"{how} is broken" in caplog.text


def test_nothing_is_tracked_unless_asked(make_config, monkeypatch):
    monkeypatch.setattr(wandb, "init", Broken().init)
    for override in ("tracking=none", "tracking.mode=disabled"):
        config = make_config(override)
        with mirror(config, "run", run_folder(config.output, "run"), "finetune") as tracked:
            tracked.log_metrics(0, [{"split": "heldout", "metric": "win_rate", "value": 0.5}])


def test_a_heatmap_is_white_at_zero_red_at_one_and_blue_at_minus_one():
    rows = [
        {"layer": 0, "head": 0, "patched": 1.0, "clean": 3.0, "corrupted": 1.0},
        {"layer": 0, "head": 1, "patched": 3.0, "clean": 3.0, "corrupted": 1.0},
        {"layer": 1, "head": 0, "patched": -1.0, "clean": 3.0, "corrupted": 1.0},
        {"layer": 1, "head": 1, "patched": 9.0, "clean": 1.0, "corrupted": 1.0},
    ]
    image = heatmap(rows)
    corners = image[[0, 0, -1, -1], [0, -1, 0, -1]].astype(int)
    assert corners[0].min() > 240
    assert corners[1][0] > corners[1][2]
    assert corners[2][2] > corners[2][0]
    assert (corners[3] == corners[0]).all(), "no denominator, no colour"
    assert image.dtype == np.uint8
