"""The wandb mirror: real wandb in offline mode, read back; and a wandb that fails, which fails no run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pyarrow as pa
import pytest
import wandb

from mi_sweeps.jobs.execute import Listener, execute
from mi_sweeps.store.files import write_table
from mi_sweeps.store.folders import run_folder
from mi_sweeps.sweeps import plan
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.tracking.mirror import mirror
from mi_sweeps.tracking.wandb_folders import of_run


def attempts(folder):
    """What offline wandb wrote for a run and its patch jobs: the records of each attempt, the oldest first."""
    found = []
    for file in folder.glob("**/offline-run-*/*.wandb"):
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
        inspected = subprocess.run(command, capture_output=True, text=True, check=True)
        found.append([json.loads(line) for line in inspected.stdout.splitlines()])
    return sorted(found, key=lambda records: [one["run"]["start_time"] for one in records if one["type"] == "run"])


def checkpoints(records):
    return [record["history"]["item"]["checkpoint"] for record in records if record["type"] == "history"]


def test_fine_tune_and_patch_job_are_one_wandb_run(small, tmp_path):
    points = expand([*small, "tracking=wandb", "sweep.name=mine", f"output={tmp_path / 'o'}"])
    assert not execute(points).failed
    folder, _ = plan.folders_of(points[0])
    written = [record for records in attempts(folder.path) for record in records]
    runs = [record["run"] for record in written if record["type"] == "run"]
    assert {run["run_id"] for run in runs} == {points[0].run_id}
    assert {run["run_group"] for run in runs} == {"mine"}
    assert [run["job_type"] for run in runs] == ["finetune", "patch"]
    history = [record["history"]["item"] for record in written if record["type"] == "history"]
    assert checkpoints(written) == [0, 2, 4, 0, 4]
    assert {"heldout/win_rate", "heldout/win_rate_low", "two_name/win_rate"} <= set(history[0])
    assert {"first/logit_diff/attn_0", "first/lens/resid_post_3", "first/recovered/z/2.1"} <= set(history[-1])
    assert {f"first/heads/{site}._type" for site in ("z", "v", "pattern")} <= set(history[-1])
    axes = [record["metric"] for record in written if record["type"] == "metric"]
    assert {"checkpoint"} == {axis["step_metric"] for axis in axes if "step_metric" in axis}


@pytest.mark.slow
def test_runs_that_are_trained_together_are_each_a_wandb_run(small, tmp_path):
    overrides = ("seed=0,1", "launcher.stack=2", "patching.steps=[4]", "tracking=wandb", f"output={tmp_path / 'o'}")
    points = expand([*small, *overrides])
    assert not execute(points).failed
    for point in points:
        folder, _ = plan.folders_of(point)
        fine_tune, patch_job = attempts(folder.path)
        assert {record["run"]["run_id"] for record in fine_tune if record["type"] == "run"} == {point.run_id}
        assert checkpoints(fine_tune) == [0, 2, 4]
        assert checkpoints(patch_job) == [4]


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
    points = expand([*small, "tracking=wandb", f"output={tmp_path / 'o'}"])
    assert not execute(points).failed
    assert plan.make(points).is_done
    assert f"{how} is broken" in caplog.text


class Killer(Listener):
    """Sends a signal to wandb's process in the middle of the fine-tune."""

    def __init__(self, signum, cores):
        self.signum = signum
        self.cores = cores

    @contextmanager
    def task(self, task):
        def on_step(step):
            if (task.stage, step) == ("finetune", 3):
                (core,) = self.cores(os.getpid())
                os.kill(core, self.signum)
                # Its end must have come through before the next point is logged.
                deadline = time.monotonic() + 60
                while core in self.cores(os.getpid()) and time.monotonic() < deadline:
                    time.sleep(0.01)

        yield on_step


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.slow
def test_a_wandb_that_is_killed_harms_no_run_and_the_mirror_goes_on(small, tmp_path, caplog, cores, signum):
    points = expand([*small, "tracking=wandb", f"output={tmp_path / 'o'}"])
    assert not execute(points, listener=Killer(signum, cores)).failed
    assert plan.make(points).is_done
    assert "step 4 is not mirrored" in caplog.text
    first, second, patch = attempts(plan.folders_of(points[0])[0].path)
    assert checkpoints(first) + checkpoints(second) == [0, 2, 4], "what the first has lost is in the second"
    assert 4 in checkpoints(second)
    assert checkpoints(patch) == [0, 4]


@pytest.mark.slow
def test_a_job_stopped_together_with_its_wandb_ends_at_once(small, tmp_path, cores):
    """As scancel does it: every process of a job gets the signal."""
    arguments = [*small, "train.steps=400", "patching.steps=[0]", "tracking=wandb", f"output={tmp_path / 'o'}"]
    command = [sys.executable, "-m", "mi_sweeps.cli", "run", *arguments]
    (point,) = expand(arguments)
    run, _ = plan.folders_of(point)
    # Not the wandb process of this one.
    environment = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        deadline = time.monotonic() + 60
        while not run.checkpoint(4).exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.poll() is None, process.communicate()
        (core,) = cores(process.pid)
        os.kill(core, signal.SIGTERM)
        process.terminate()
        _, complaint = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in complaint
    assert run.status().state == "cancelled"


def test_nothing_is_tracked_unless_asked(make_config, monkeypatch):
    monkeypatch.setattr(wandb, "init", Broken().init)
    for override in ("tracking=none", "tracking.mode=disabled"):
        config = make_config(override)
        with mirror(config, run_folder(config.output, "run")) as tracked:
            tracked.log(0, [{"split": "heldout", "metric": "win_rate", "value": 0.5}])


def test_without_a_point_there_is_no_attempt(make_config, monkeypatch):
    """Its empty summary would take the place of the run's."""
    monkeypatch.setattr(wandb, "init", Broken().init)
    config = make_config("tracking=wandb")
    with mirror(config, run_folder(config.output, "run")):
        pass


@pytest.mark.parametrize("left", [(4,), ()])
def test_an_attempt_begins_with_what_is_on_disk_and_in_no_other(make_config, left):
    """A kill took it along; perhaps nothing but that is left to do."""
    config = make_config("tracking=wandb")
    run = run_folder(config.output, "run")
    rows = [{"step": step, "split": "heldout", "metric": "win_rate", "value": 0.5, "n": 2} for step in (0, 2, 4)]
    write_table(run.metrics, pa.Table.from_pylist(rows))
    with mirror(config, run) as tracked:
        for step in left:
            tracked.log(step, [row for row in rows if row["step"] == step])
    assert logged(run, [0, 2, 4]) == [0, 2, 4]
    with mirror(config, run):
        pass
    assert len(of_run(run)) == 1, "all is there"


@pytest.mark.parametrize("ended_by", [KeyboardInterrupt, RuntimeError])
def test_a_job_that_is_cancelled_or_fails_begins_no_attempt_at_its_end(make_config, monkeypatch, ended_by):
    """It may have seconds to write its status, and a server may be silent for longer."""
    config = make_config("tracking=wandb")
    run = run_folder(config.output, "run")
    write_table(
        run.metrics, pa.Table.from_pylist([{"step": 0, "split": "heldout", "metric": "win_rate", "value": 0.5}])
    )
    with monkeypatch.context() as broken:
        broken.setattr(wandb, "init", lambda **options: pytest.fail("an attempt was begun"))
        with pytest.raises(ended_by), mirror(config, run):
            raise ended_by
    with mirror(config, run):
        pass
    assert logged(run, [0]) == [0], "the next attempt has what that one left out"


def test_a_damaged_table_is_a_warning(make_config, caplog):
    config = make_config("tracking=wandb")
    run = run_folder(config.output, "run")
    patch = run.patch("patch")
    patch.table(4).parent.mkdir(parents=True)
    patch.table(4).write_bytes(b"not a table")
    with mirror(config, run, patch):
        pass
    assert "wandb: step 4 is not mirrored" in caplog.text


def logged(run, steps):
    """What is in the attempts, when it is these checkpoints or a while has passed: wandb's process writes the end of
    one a moment after it was finished."""
    deadline = time.monotonic() + 5
    while True:
        seen = sorted(step for attempt in of_run(run) for step in attempt.steps())
        if seen == steps or time.monotonic() >= deadline:
            return seen
        time.sleep(0.05)
