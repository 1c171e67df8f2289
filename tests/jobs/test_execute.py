"""A grid's life with the real stages on `mini`, and with stages that fail."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mi_sweeps.jobs import execute as module
from mi_sweeps.jobs import workers
from mi_sweeps.jobs.execute import Listener, execute
from mi_sweeps.store.endings import Cancelled
from mi_sweeps.store.files import read_table
from mi_sweeps.store.folders import Folder
from mi_sweeps.sweeps import manifest, plan
from mi_sweeps.sweeps.grid import expand


@pytest.fixture
def points(small, tmp_path):
    return expand([*small, "seed=0,1", "corruption=first,second", f"output={tmp_path / 'outputs'}"])


def tables(points):
    return {
        (point.patch_id, step): read_table(plan.folders_of(point)[1].table(step))
        for point in points
        for step in point.config.patch_steps
    }


def test_a_grid_is_computed_once(points):
    first = execute(points)
    assert sorted(task.stage for task in first.done) == ["finetune"] * 2 + ["patch"] * 4
    assert not first.failed
    assert plan.make(points).is_done
    before = tables(points)
    assert execute(points).done == []
    plan.folders_of(points[3])[1].table(4).unlink()
    again = execute(points)
    assert [task.id for task in again.done] == [points[3].patch_id]
    after = tables(points)
    assert all(before[key].equals(after[key]) for key in before)


def test_more_checkpoints_are_added_to_those_that_are_there(points, small, tmp_path):
    execute(points[:1])
    folder = plan.folders_of(points[0])[1]
    before = folder.table(4).stat().st_mtime_ns
    more = expand([*small, "patching.steps=[0,2,4]", f"output={points[0].config.output}"])
    assert more[0].patch_id == points[0].patch_id
    assert plan.make(more).counts() == ({"done": 1}, {"to do": 1})
    execute(more)
    assert plan.make(more).is_done
    assert folder.table(2).exists()
    assert folder.table(4).stat().st_mtime_ns == before
    manifest.add(more[0].config.output, "grown", more, "")
    manifest.add(more[0].config.output, "grown", points[:1], "")
    assert manifest.load(more[0].config.output, "grown")[0].config["patching"]["steps"] == [0, 2, 4]


def test_a_finished_run_whose_weights_were_deleted_is_left_alone_unless_they_are_needed(points):
    execute(points[:1])
    run, patch = plan.folders_of(points[0])
    run.checkpoint(4).unlink()
    assert execute(points[:1]).done == []
    patch.table(4).unlink()
    assert [task.stage for task in execute(points[:1]).done] == ["finetune", "patch"]
    assert plan.make(points[:1]).is_done


def test_corruptions_differ_and_each_has_its_own_clean_metric(points):
    execute(points[:2])
    first, second = (read_table(plan.folders_of(point)[1].table(0)).to_pylist() for point in points[:2])
    clean = [next(row["clean"] for row in rows if row["kind"] == "patch") for rows in (first, second)]
    corrupted = [next(row["corrupted"] for row in rows if row["kind"] == "patch") for rows in (first, second)]
    assert clean[0] != clean[1]
    assert corrupted[0] != corrupted[1]


def test_a_failed_fine_tune_stops_nothing_else(points, monkeypatch):
    real = module.finetune

    def broken(config, folder, **options):
        if config.seed == 0:
            with folder.claim(), folder.attempt():
                raise RuntimeError("CUDA out of memory\nmore lines")
        real(config, folder, **options)

    monkeypatch.setattr(module, "finetune", broken)
    outcome = execute(points)
    assert len(outcome.done) == 3
    ((task, error),) = outcome.failed.values()
    assert task.point.config.seed == 0
    assert re.fullmatch(r"RuntimeError: CUDA out of memory \(test_execute\.py, line \d+\)", error)
    folder = task.folder
    assert folder.status().state == "failed"
    assert "more lines" in folder.error_file.read_text()

    assert execute(points).done == [], "failed ones wait for retry"
    monkeypatch.setattr(module, "finetune", real)
    retried = execute(points, retry=["error"])
    assert len(retried.done) == 3
    assert folder.status().attempts == 2
    assert not folder.error_file.exists()


def test_a_retry_is_one_try(points, monkeypatch):
    calls = []

    def broken(config, folder, **options):
        with folder.claim(), folder.attempt():
            calls.append(config.seed)
            raise RuntimeError("still broken")

    monkeypatch.setattr(module, "finetune", broken)
    execute(points, retry=["error"])
    assert calls == [0, 1]


def test_what_another_process_does_is_left_alone(points):
    folder, _ = plan.folders_of(points[0])
    code = f"""
import sys, time
from pathlib import Path
from mi_sweeps.store.folders import RunFolder
folder = RunFolder(Path({str(folder.path)!r}))
with folder.claim(), folder.attempt():
    print("claimed", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "claimed\n"
        outcome = execute(points)
        assert [task.id for task in outcome.busy] == [points[0].run_id]
        assert {task.point.config.seed for task in outcome.done} == {1}
        other.kill()
    rest = execute(points)
    assert {task.point.config.seed for task in rest.done} == {0}
    assert folder.status().attempts == 2
    assert plan.make(points).is_done


class StopAt(Listener):
    """Stops the process's work after some steps of the first task, as a signal would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def task(self, task):
        from contextlib import contextmanager

        @contextmanager
        def around():
            def on_step(step: int) -> None:
                if step == self.step:
                    raise Cancelled

            yield on_step

        return around()


def test_a_cancelled_point_goes_on_where_it_was(points):
    with pytest.raises(Cancelled):
        execute(points[:1], listener=StopAt(3))
    folder, _ = plan.folders_of(points[0])
    assert folder.status().state == "cancelled"
    assert folder.resume.exists()
    assert plan.make(points[:1]).to_do() == 2
    execute(points[:1])
    assert folder.status().attempts == 2
    assert plan.make(points[:1]).is_done


def test_a_run_that_is_killed_right_before_it_is_done_is_not_trained_again(points, monkeypatch):
    class Killed(BaseException):
        pass

    write = Folder._write

    def killed(folder, status):
        if status.state == "done":
            raise Killed
        write(folder, status)

    monkeypatch.setattr(Folder, "_write", killed)
    with pytest.raises(Killed):
        execute(points[:1])
    monkeypatch.setattr(Folder, "_write", write)
    folder, _ = plan.folders_of(points[0])
    before = folder.checkpoint(4).stat().st_mtime_ns
    execute(points[:1])
    assert plan.make(points[:1]).is_done
    assert folder.checkpoint(4).stat().st_mtime_ns == before
    assert folder.log_file.read_text().count(" step 4: ") == 1
    assert not folder.resume.exists()


def test_a_resume_state_that_a_killed_run_left_goes_with_the_patch_job(points):
    execute(points[:1])
    folder, patch = plan.folders_of(points[0])
    folder.resume.touch()
    patch.table(4).unlink()
    execute(points[:1])
    assert not folder.resume.exists()


def test_changed_prompts_are_not_taken_for_the_planned_ones(small, tmp_path):
    rows = tmp_path / "rows.jsonl"
    line = '{"question": "When Mary, John and Tom met at the park, %s gave a ring to", "completion": " %s"}\n'
    orders = [("Mary and John", "Tom"), ("John and Tom", "Mary"), ("Tom and Mary", "John")]
    names = "".join(line % order for order in orders)
    rows.write_text(names + names.replace("Mary", "Anna").replace("John", "Paul").replace("Tom", "Mark"))
    settings = [override for override in small if not override.startswith("task.")]
    points = expand(
        [
            *settings,
            "task=prompts",
            f"task.path={rows}",
            "task.heldout=0.5",
            "task.two_name=4",
            f"output={tmp_path / 'o'}",
        ]
    )
    rows.write_text(rows.read_text().replace("park", "beach"))
    outcome = execute(points)
    assert "have changed since this was planned" in next(iter(outcome.failed.values()))[1]


@pytest.fixture
def stacked_points(small, tmp_path):
    """Four runs of which three may be trained together, by two shapes."""
    settings = (*small, "launcher.stack=3", "patching.steps=[4]", f"output={tmp_path / 'outputs'}")
    return [*expand([*settings, "seed=0,1,2,3"]), *expand([*settings, "train.batch_size=4"])]


def test_stacked_fine_tunes_are_each_their_own(stacked_points, monkeypatch):
    from mi_sweeps.training import stacked

    sizes = []
    real = stacked.train_together
    monkeypatch.setattr(stacked, "train_together", lambda runs: (sizes.append(len(runs)), real(runs))[1])
    heard = []

    class Told(Listener):
        def finished(self, task, error):
            heard.append((task.stage, task.id, error))

    outcome = execute(stacked_points, listener=Told())
    assert sizes == [3]
    assert not outcome.failed
    assert sorted(heard) == sorted((task.stage, task.id, None) for task in outcome.done)
    made = plan.make(stacked_points)
    assert made.is_done
    assert {status.attempts for status in made.statuses} == {1}
    assert execute(stacked_points).done == []


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("seed=7", True),
        ("task.seed=7", True),
        ("optim.lr=0.1", True),
        ("schedule=cosine", True),
        ("train.clip=2", True),
        ("train.steps=8", False),
        ("train.batch_size=4", False),
        ("train.precision=bf16", False),
        ("checkpoint.every=4", False),
        ("task.prompts.train=48", False),
        ("model.prepend_bos=true", False),
    ],
)
def test_what_runs_of_a_stack_have_in_common(make_config, small, override, same):
    (one,), (other,) = (expand([f"output={make_config().output}", *small, *more]) for more in ((), (override,)))
    assert (module.Task("finetune", one).stack_key == module.Task("finetune", other).stack_key) is same


def test_a_stacked_fine_tune_that_fails_stops_no_other(stacked_points, monkeypatch):
    from mi_sweeps.training.run import TrainingState

    def look(run):
        if run.config.seed == 1:
            raise RuntimeError("no")

    monkeypatch.setattr(TrainingState, "record_losses", look)
    outcome = execute(stacked_points)
    ((task, error),) = outcome.failed.values()
    assert (task.point.config.seed, task.folder.status().state) == (1, "failed")
    assert error.startswith("RuntimeError: no")
    assert len(outcome.done) == 8


def test_a_stack_is_cancelled_as_one(stacked_points):
    with pytest.raises(Cancelled):
        execute(stacked_points, listener=StopAt(2))
    states = [plan.folders_of(point)[0].status().state for point in stacked_points]
    assert states == ["cancelled"] * 3 + ["todo"] * 2


@pytest.mark.parametrize("end", ["finish", "cancel"])
@pytest.mark.slow
def test_local_workers_share_a_sweep(points, end, monkeypatch):
    """Real processes: all is computed once, or all of them are stopped from here."""
    monkeypatch.setattr(workers, "CANCEL_SECONDS", 120)  # A busy machine may take long for a step.
    output = points[0].config.output
    if end == "cancel":
        points = expand(
            [
                *(f"{key}={value}" for key, value in (("train.steps", 2000), ("checkpoint.every", 10))),
                "patching.steps=[0]",
                "seed=0,1",
                f"output={output}",
            ]
        )
    manifest.add(output, "shared", points, "mi-sweeps run")
    launcher = expand(["launcher=local", "launcher.workers=2"])[0].config.launcher
    pids = workers.submit(output, "shared", [point.patch_id for point in points], launcher, retry=[])
    assert len(pids) == 2
    deadline = time.monotonic() + 120
    if end == "cancel":
        while plan.make(points).counts()[0]["running"] < 2:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        stopped, left = workers.cancel(output, "shared")
        assert (len(stopped), left) == (2, [])
        assert {status.state for status in plan.make(points).runs.values()} == {"cancelled"}
        return
    while workers.alive(output, "shared") or not plan.make(points).is_done:
        assert time.monotonic() < deadline, plan.make(points)
        time.sleep(0.2)
    made = plan.make(points)
    assert {status.attempts for status in (*made.runs.values(), *made.patches.values())} == {1}


def test_workers_that_are_still_starting_can_be_cancelled(points):
    output = points[0].config.output
    manifest.add(output, "early", points, "mi-sweeps run")
    launcher = expand(["launcher=local", "launcher.workers=1"])[0].config.launcher
    (pid,) = workers.submit(output, "early", [point.patch_id for point in points], launcher, retry=[])
    assert len(workers.alive(output, "early")) == 1
    assert os.getsid(int(pid)) == int(pid), "else Ctrl-C in this terminal, or its end, would end it"
    workers.cancel(output, "early")
    assert os.waitpid(int(pid), 0)[1] == 0
    assert (workers.alive(output, "early"), workers.dead(output, "early")) == ([], [])
    assert plan.make(points).to_do() == 6


def test_sigterm_cancels_a_registered_process(tmp_path):
    with pytest.raises(Cancelled), workers.registered(tmp_path, "mine", "inline"):
        assert [worker.pid for worker in workers.alive(tmp_path, "mine")] == [os.getpid()]
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert workers.alive(tmp_path, "mine") == []


def test_a_record_that_cannot_be_removed_hides_no_error(tmp_path, monkeypatch):
    def read_only(path, missing_ok=False):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    with pytest.raises(RuntimeError, match="the error"), workers.registered(tmp_path, "mine", "inline"):
        monkeypatch.setattr(Path, "unlink", read_only)
        raise RuntimeError("the error")


def test_an_order_to_stop_that_comes_in_a_destructor_is_not_lost(tmp_path):
    class Noisy:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    with pytest.raises(Cancelled), workers.registered(tmp_path, "mine", "inline"):
        noisy = Noisy()
        del noisy
        time.sleep(5)


def test_nor_is_one_that_other_code_swallows(tmp_path):
    """As `copyreg` in the standard library does within a deep copy."""
    with pytest.raises(Cancelled), workers.registered(tmp_path, "mine", "inline"):
        for _ in range(3):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(5)
            except:  # noqa: E722
                pass
        time.sleep(5)
