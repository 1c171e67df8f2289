"""What a task of a job array does when points fail, and when SLURM sends it a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from mi_sweeps import libraries
from mi_sweeps.config import Config
from mi_sweeps.identity import patch_id, run_id
from mi_sweeps.jobs import execute as stages
from mi_sweeps.jobs.patch import patch as patch_job
from mi_sweeps.slurm import submissions, task
from mi_sweeps.slurm.arrays import Array
from mi_sweeps.slurm.submissions import Submission
from mi_sweeps.slurm.task import SlurmTask
from mi_sweeps.store.files import write_bytes, write_json
from mi_sweeps.store.folders import Folder, PatchFolder, RunFolder, run_folder
from mi_sweeps.sweeps import manifest
from mi_sweeps.sweeps import plan as planning
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.sweeps.points import GridPoint

PREEMPTED = "JobId=12 JobState=RUNNING Reason=None PreemptTime=2026-01-01T12:00:00"
CANCELLED = "JobId=12 JobState=COMPLETING Reason=None PreemptTime=None"
AT_LIMIT = "JobId=12 JobState=COMPLETING Reason=TimeLimit"


@pytest.fixture(autouse=True)
def a_task(slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Task 1 of array 10, which has job id 12; signals are as before afterwards."""
    for key, value in (("JOB_ID", 12), ("ARRAY_JOB_ID", 10), ("ARRAY_TASK_ID", 1), ("CPUS_PER_TASK", 1)):
        monkeypatch.setenv(f"SLURM_{key}", str(value))
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGUSR2)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture
def points(tmp_path: Path) -> list[GridPoint]:
    """Two runs with a patch job each."""
    return expand(["seed=0,1", "patching.steps=[0,8]", "sweep.name=s", f"output={tmp_path / 'outputs'}"])


@pytest.fixture
def submission(points: list[GridPoint]) -> Submission:
    """Both fine-tunes in one task, then both patch jobs in one."""
    return submitted(points)


def submitted(points: list[GridPoint], retry: tuple = ()) -> Submission:
    output = points[0].output
    manifest.add(output, "s", points, "")
    runs, patches = tuple(point.run_id for point in points), tuple(point.patch_id for point in points)
    arrays = (
        Array("finetune", (runs,), name="s-0"),
        Array("patch", (patches,), after=("s-0",), wait="pairs", name="s-1"),
    )
    submission = replace(submissions.new(output, "s", retry), arrays=arrays)
    submission.write()
    return submission


class Stages:
    """Fine-tunes and patch jobs that only write files; something may happen during those of one seed."""

    def __init__(self) -> None:
        self.during: Callable[[Folder], None] = lambda folder: None
        self.seed = 0
        self.done: list[str] = []

    def finetune(self, config: Config, folder: RunFolder, **_: object) -> None:
        with folder.claim():
            if folder.status_on_disk().state == "done":
                return
            with folder.attempt():
                if config.seed == self.seed:
                    self.during(folder)
                write_bytes(folder.metrics, b"")
                for step in config.patch_steps:
                    write_bytes(folder.checkpoint(step), b"")
        self.done.append(f"finetune {config.seed}")

    def patch(self, config: Config, run: RunFolder, folder: PatchFolder, **_: object) -> None:
        with folder.claim(), folder.attempt():
            for step in config.patch_steps:
                write_bytes(folder.table(step), b"")
        self.done.append(f"patch {config.seed}")


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Stages:
    work = Stages()
    monkeypatch.setattr(stages, "finetune", work.finetune)
    monkeypatch.setattr(stages, "patch", work.patch)
    monkeypatch.setattr(task, "POLL_SECONDS", 0.01)
    return work


def exit_code(submission: Submission, array: int = 0) -> object:
    try:
        SlurmTask(str(submission.path), array, 0)()
    except SystemExit as ended:
        return ended.code
    return 0


def signalled(signum: int, checkpoint: bool = False) -> Callable[[Folder], None]:
    """A signal comes, before the first checkpoint or after it."""

    def during(folder: Folder) -> None:
        if checkpoint:
            write_bytes(folder.path / "checkpoints" / "000000.safetensors", b"")
        os.kill(os.getpid(), signum)
        raise AssertionError("a signal ends the work")

    return during


def requeued(slurm) -> list[str]:
    return [words[1] for words in slurm.calls("scontrol") if words[0] == "requeue"]


def test_all_done_is_success(work: Stages, submission: Submission, points: list[GridPoint], slurm) -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert exit_code(submission) == 0
    assert exit_code(submission, 1) == 0
    assert work.done == ["finetune 0", "finetune 1", "patch 0", "patch 1"]
    assert planning.make(points).is_done
    assert slurm.calls("scontrol") == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_task_is_ready_before_there_is_a_model(
    work: Stages, submission: Submission, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[object] = []
    monkeypatch.setattr(libraries, "ready", happened.append)
    work.during = lambda folder: happened.append("model")
    assert exit_code(submission) == 0
    assert happened == [1, "model"]


def test_a_point_that_fails_stops_no_other_and_the_patch_jobs_of_those_are_done_here(
    work: Stages, submission: Submission, points: list[GridPoint]
) -> None:
    """SLURM ends the task that waits for this one."""

    def during(folder: Folder) -> None:
        raise RuntimeError("broken")

    work.during = during
    assert exit_code(submission) == 1
    assert work.done == ["finetune 1", "patch 1"]
    plan = planning.make(points)
    assert [plan.runs[point.run_id].state for point in points] == ["failed", "done"]
    assert [plan.patches[point.patch_id].state for point in points] == ["todo", "done"]


def test_an_earlier_failure_is_retried_on_request(work: Stages, points: list[GridPoint]) -> None:
    run, _ = planning.folders_of(points[0])
    for retry, code in (((), 1), (("node",), 1), (("oom",), 0)):
        status = {"state": "failed", "attempts": 1, "finished": "2020-01-01", "failure": "oom", "error": "no memory"}
        write_json(run.path / "status.json", status)
        assert exit_code(submitted(points[:1], retry)) == code


def test_a_patch_job_whose_fine_tune_is_not_done_has_failed_in_slurm_too(
    work: Stages, submission: Submission, points: list[GridPoint]
) -> None:
    """A dependency on a job that the controller has forgotten counts as met."""
    assert exit_code(submission, 1) == 1
    assert work.done == []


def test_a_patch_job_waits_for_a_fine_tune_that_somebody_else_is_at(
    work: Stages, submission: Submission, points: list[GridPoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exit_code(submission) == 0
    run, _ = planning.folders_of(points[0])
    with ExitStack() as somebody:
        somebody.enter_context(run.claim())
        write_json(run.path / "status.json", {"state": "running", "attempts": 1})

        def sleep(seconds: float) -> None:
            write_json(run.path / "status.json", {"state": "done", "attempts": 1})
            somebody.close()

        monkeypatch.setattr(stages, "time", SimpleNamespace(sleep=sleep))
        assert exit_code(submission, 1) == 0
    assert sorted(work.done[-2:]) == ["patch 0", "patch 1"]


def test_a_preempted_task_puts_itself_back_into_the_queue(
    work: Stages, submission: Submission, points: list[GridPoint], slurm
) -> None:
    slurm.set(job=PREEMPTED)
    work.during = signalled(signal.SIGTERM)
    assert exit_code(submission) == 143
    # The job id alone, 12, would mean all tasks of the array where it is the array's.
    assert slurm.calls("scontrol") == [["--oneliner", "show", "job", "10_1"], ["requeue", "10_1"]]
    assert planning.folders_of(points[0])[0].status().state == "interrupted"
    assert work.done == []


def test_an_order_to_stop_that_other_code_swallows_is_given_again(work: Stages, submission: Submission, slurm) -> None:
    slurm.set(job=PREEMPTED)

    def during(folder: Folder) -> None:
        with suppress(BaseException):
            signalled(signal.SIGTERM)(folder)
        time.sleep(5)
        raise AssertionError("a signal ends the work")

    work.during = during
    assert exit_code(submission) == 143
    assert requeued(slurm) == ["10_1"]


def test_a_task_that_is_no_array_goes_by_its_job_id(
    work: Stages, submission: Submission, slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name)
    slurm.set(job=PREEMPTED)
    work.during = signalled(signal.SIGTERM)
    assert exit_code(submission) == 143
    assert requeued(slurm) == ["12"]


def test_a_task_that_scancel_ends_does_not_come_back(
    work: Stages, submission: Submission, points: list[GridPoint], slurm
) -> None:
    slurm.set(job=CANCELLED)
    work.during = signalled(signal.SIGTERM, checkpoint=True)
    assert exit_code(submission) == 143
    assert requeued(slurm) == []
    assert planning.folders_of(points[0])[0].status().state == "cancelled"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR2])
@pytest.mark.parametrize("record", ["cancelled", "gone"])
def test_a_cancelled_submission_does_not_come_back_whatever_slurm_says(
    work: Stages, submission: Submission, points: list[GridPoint], slurm, signum: int, record: str
) -> None:
    """`gone`: a later array was refused, and nothing of the submission shall be left."""
    slurm.set(job=PREEMPTED)

    def during(folder: Folder) -> None:
        if record == "gone":
            submission.path.unlink()
        else:
            replace(submission, cancelled=True).write()
        signalled(signum, checkpoint=True)(folder)

    work.during = during
    assert exit_code(submission) == 143
    assert requeued(slurm) == []
    assert planning.folders_of(points[0])[0].status().state == "cancelled"
    assert work.done == []


@pytest.mark.parametrize(("signum", "job"), [(signal.SIGUSR2, ""), (signal.SIGTERM, AT_LIMIT)])
def test_a_time_limit_with_a_new_checkpoint_is_a_break(
    work: Stages, submission: Submission, points: list[GridPoint], slurm, signum: int, job: str
) -> None:
    slurm.set(job=job)
    work.during = signalled(signum, checkpoint=True)
    assert exit_code(submission) == 143
    assert requeued(slurm) == ["10_1"]
    assert planning.folders_of(points[0])[0].status().state == "interrupted"


def test_a_time_limit_before_the_first_point_is_reported_in_the_job_s_output(
    submission: Submission, monkeypatch: pytest.MonkeyPatch, slurm, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(manifest, "load", lambda *_: os.kill(os.getpid(), signal.SIGUSR2))
    assert exit_code(submission) == 1
    assert requeued(slurm) == []
    assert capsys.readouterr().err.startswith("reached its time limit before a checkpoint")


@pytest.mark.parametrize(("signum", "job"), [(signal.SIGUSR2, ""), (signal.SIGTERM, AT_LIMIT)])
def test_a_time_limit_without_a_new_checkpoint_is_a_failure(
    work: Stages, submission: Submission, points: list[GridPoint], slurm, signum: int, job: str
) -> None:
    """A next attempt would get no further, and the one after it neither."""
    slurm.set(job=job)
    run, _ = planning.folders_of(points[0])
    write_bytes(run.checkpoint(0), b"")  # of an earlier attempt
    work.during = signalled(signum)
    assert exit_code(submission) == 1
    assert requeued(slurm) == []
    status = run.status()
    assert (status.state, status.failure) == ("failed", "timeout")
    assert status.error == "reached its time limit before a checkpoint; raise launcher.time or lower checkpoint.every"


def test_a_time_limit_is_one_for_all_runs_that_are_trained_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slurm
) -> None:
    overrides = ("seed=0,1,2", "launcher=slurm", "launcher.pack=3", "launcher.stack=2", "sweep.name=s")
    points = expand([*overrides, "patching.steps=[0]", f"output={tmp_path / 'outputs'}"])

    def training_turns(config: Config, folder: RunFolder, **_: object) -> Iterator[None]:
        with folder.claim():
            yield
            with folder.attempt():
                if config.seed == 1:
                    os.kill(os.getpid(), signal.SIGUSR2)
                yield

    monkeypatch.setattr(stages, "training_turns", training_turns)
    assert exit_code(submitted(points)) == 1
    statuses = [planning.folders_of(point)[0].status() for point in points]
    assert [(status.state, status.failure) for status in statuses] == [
        ("failed", "timeout"),
        ("failed", "timeout"),
        ("todo", None),
    ]


def test_a_point_that_is_done_is_progress_too(
    work: Stages, submission: Submission, points: list[GridPoint], slurm
) -> None:
    work.seed, work.during = 1, signalled(signal.SIGUSR2)
    assert exit_code(submission) == 143
    assert requeued(slurm) == ["10_1"]
    assert [planning.folders_of(point)[0].status().state for point in points] == ["done", "interrupted"]


def test_after_one_signal_no_other_disturbs(
    work: Stages, submission: Submission, points: list[GridPoint], slurm
) -> None:
    slurm.set(job=PREEMPTED)

    def during(folder: Folder) -> None:
        try:
            signalled(signal.SIGTERM)(folder)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGUSR2)

    work.during = during
    assert exit_code(submission) == 143
    assert requeued(slurm) == ["10_1"]
    assert planning.folders_of(points[0])[0].status().state == "interrupted"


@pytest.mark.parametrize("why", ["refused", "no scontrol"])
def test_a_task_that_cannot_put_itself_back_waits_for_its_end(
    work: Stages,
    submission: Submission,
    points: list[GridPoint],
    slurm,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys,
) -> None:
    """SLURM starts a preempted task again if it has to kill it, but not if it exits."""
    if why == "refused":
        slurm.set(refuse={"scontrol": ["slurm_load_jobs error: Unable to contact slurm controller", 0]})
    else:
        monkeypatch.setenv("PATH", "")
    slept: list[float] = []
    monkeypatch.setattr(task.time, "sleep", slept.append)
    work.during = signalled(signal.SIGTERM)
    assert exit_code(submission) == 143
    assert task.STAY_SECONDS in slept
    assert "not requeued" in capsys.readouterr().err
    assert planning.folders_of(points[0])[0].status().state == "interrupted"


@pytest.mark.slow
def test_what_slurm_interrupts_goes_on_with_the_real_thing(small: tuple[str, ...], tmp_path: Path, slurm) -> None:
    """A fine-tune of `mini` is stopped after a checkpoint, and goes on from there."""
    slurm.set(job=PREEMPTED)
    longer = ("train.steps=80", "checkpoint.every=10", "patching.steps=[0]")
    points = expand([*small, *longer, "sweep.name=s", f"output={tmp_path / 'outputs'}"])
    submission = submitted(points)
    code = "import sys\nfrom mi_sweeps.slurm.task import SlurmTask\nSlurmTask(sys.argv[1], 0, 0)()"
    command = [sys.executable, "-c", code, str(submission.path)]
    run, _ = planning.folders_of(points[0])
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 100
        while not run.checkpoint(10).exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, complained = process.communicate(timeout=100)
    assert process.returncode == 143, complained
    assert requeued(slurm) == ["10_1"]
    status = run.status()
    assert (status.state, status.attempts, run.resume.exists()) == ("interrupted", 1, True)
    assert exit_code(submission) == 0
    status = run.status()
    assert (status.state, status.attempts, run.resume.exists()) == ("done", 2, False)
    assert "resuming from step" in run.log_file.read_text()


class Tables:
    """In place of what makes the tables: counts them."""

    def __init__(self, parties: int) -> None:
        self.made: list[int] = []
        self.barrier = threading.Barrier(parties)

    def examine(
        self,
        config: Config,
        run: RunFolder,
        folder: PatchFolder,
        steps: list[int],
        before_write: Callable[[], None],
        on_table: Callable[[int, list], None],
    ) -> None:
        if len(steps) < len(config.patch_steps):
            self.barrier.wait(timeout=60)  # All parts are at work at once.
        for step in steps:
            if not folder.table(step).exists():
                before_write()
                self.made.append(step)
                write_bytes(folder.table(step), b"")
                on_table(step, [])


@pytest.fixture
def split(tmp_path: Path, make_config: Callable[..., Config]) -> tuple[Config, RunFolder, PatchFolder]:
    """A patch job with five checkpoints, whose fine-tune is done."""
    config = make_config("patching.steps=[0,8,16,24,32]")
    run = run_folder(config.output, run_id(config))
    write_json(run.path / "status.json", {"state": "done", "attempts": 1})
    return config, run, run.patch(patch_id(config))


def test_the_last_part_ends_the_whole_job(split, monkeypatch: pytest.MonkeyPatch) -> None:
    config, run, folder = split
    tables = Tables(1)
    monkeypatch.setattr("mi_sweeps.circuits.examine.examine", tables.examine)
    patch_job(config, run, folder, part=1, parts=2)
    assert folder.part(1, 2).status().state == "done"
    assert folder.status().state == "todo"
    patch_job(config, run, folder, part=0, parts=2)
    status = folder.status()
    assert (status.state, status.attempts) == ("done", 1)
    assert status.seconds >= sum(part.status().seconds for part in folder.all_parts())
    assert sorted(tables.made) == [0, 8, 16, 24, 32]


def test_parts_at_once_make_no_table_twice(split, monkeypatch: pytest.MonkeyPatch) -> None:
    config, run, folder = split
    tables = Tables(3)
    monkeypatch.setattr("mi_sweeps.circuits.examine.examine", tables.examine)
    threads = [
        threading.Thread(target=patch_job, args=(config, run, folder), kwargs={"part": part, "parts": 3})
        for part in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(tables.made) == [0, 8, 16, 24, 32]
    assert [part.status().state for part in folder.all_parts()] == ["done"] * 3
    status = folder.status()
    assert (status.state, status.attempts) == ("done", 1)
