"""Runs in a task of a job array: computes its points one after another, until they are done or it is stopped.

Everything is read from the output folder. A task that is preempted, or nears its time limit, asks SLURM to requeue it,
and then resumes from the newest checkpoint; a cancelled task does not. The exit code is 1 if a point failed, so that
accounting and dependent jobs see it.

submitit's own `checkpoint()` is not used: by default it ignores SIGTERM, which preemption sends; set to handle it, it
also requeues cancelled jobs; and it takes any signal for a timeout if the time limit is 10 minutes or less.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mi_sweeps.signals import reraised_if_lost, reraising_if_lost
from mi_sweeps.slurm import submissions
from mi_sweeps.slurm.arrays import Array
from mi_sweeps.slurm.submissions import Submission
from mi_sweeps.store.endings import Busy, Cancelled, Interrupted
from mi_sweeps.store.folders import Folder
from mi_sweeps.sweeps.points import Stage

POLL_SECONDS = 5.0
"""How often to check whether another job has done what this one waits for."""
STAY_SECONDS = 600.0
"""How long to wait to be killed; SLURM's grace times are shorter."""
ASK_SECONDS = 20.0
"""Time limit for SLURM's answers: a task that asks is about to be stopped."""

FAILED, STOPPED = 1, 143
TOO_LONG = "reached its time limit before a checkpoint; raise launcher.time or lower checkpoint.every"


class _TimeLimit(Interrupted):
    """The time limit is near."""


@dataclass(frozen=True)
class SlurmTask:
    """What submitit passes to a task: where to read its work."""

    submission: str
    array: int
    number: int

    def __call__(self) -> None:
        run_task(submissions.read(Path(self.submission)), self.array, self.number)


def run_task(submission: Submission, array: int, number: int) -> None:
    """Does the work of a task; exits unless all of it was done.

    Raises:
        SystemExit: 1 if something failed, 143 if it was stopped.
    """
    item = submission.arrays[array]
    at: list[Folder] = []
    points: list[Any] = []
    before = 0
    try:
        with _stopped_by_signals(submission):
            points = _points(submission, item.tasks[number])
            before = _made(item, points)
            failed = _work(submission, item, number, points, at)
    except Cancelled:
        sys.exit(STOPPED)
    except Interrupted as reason:
        if isinstance(reason, _TimeLimit) and _made(item, points) == before:
            # Another attempt would not get any further.
            print(TOO_LONG, file=sys.stderr)  # noqa: T201
            for folder in at:
                _mark(folder, TOO_LONG)
            sys.exit(FAILED)
        _start_again()
        sys.exit(STOPPED)
    if failed:
        sys.exit(FAILED)


def _points(submission: Submission, ids: Sequence[str]) -> list[Any]:
    """Loads the points that have one of these ids."""
    from mi_sweeps.sweeps import manifest

    wanted = set(ids)
    entries = manifest.load(submission.output, submission.sweep)
    chosen = [entry for entry in entries if {entry.run_id, entry.patch_id} & wanted]
    return [entry.point(submission.output) for entry in chosen]


def _work(submission: Submission, item: Array, number: int, points: Sequence[Any], at: list[Folder]) -> bool:
    """Does the work; returns whether something failed."""
    from mi_sweeps import libraries

    libraries.quiet()
    from rich.console import Console

    from mi_sweeps.jobs.execute import Task, execute
    from mi_sweeps.jobs.progress import Bars
    from mi_sweeps.sweeps import plan as planning

    launcher = points[0].config.launcher
    libraries.ready(launcher.threads or int(os.environ.get("SLURM_CPUS_PER_TASK", 1)))

    class Shown(Bars):
        """Also keeps the folder of the current task in `at`, even if the process is stopped there."""

        @contextmanager
        def task(self, task: Task) -> Iterator[Callable[[int], None]]:
            at.append(task.folder)
            try:
                with super().task(task) as on_step:
                    yield on_step
            except Exception:  # A failure. Orders to stop are not Exceptions.
                at.remove(task.folder)
                raise
            at.remove(task.folder)

    def done(which: Sequence[Any], stage: Stage, **part: int) -> bool:
        shown = Shown(Console(width=120), len(item.tasks[number]))
        execute(
            which,
            stages=(stage,),
            retry=submission.retry,
            began=submission.submitted,
            wait=True,
            poll=POLL_SECONDS,
            listener=shown,
            **part,
        )
        plan = planning.make(which)
        if stage == "finetune":
            return all(status.state == "done" for status in plan.runs.values())
        if part.get("parts", 1) > 1:
            return all(planning.part_status(point, **part).state == "done" for point in which)
        return all(status.state == "done" for status in plan.patches.values())

    if item.stage == "patch":
        return not done(points, "patch", part=item.part, parts=item.parts)
    failed = not done(points, "finetune")
    if failed and len(item.tasks[number]) > 1:
        # SLURM cancels the tasks that wait for this one, though only some of its points failed.
        runs = planning.make(points).runs
        followers = [other.tasks[number] for other in submission.arrays if item.name in other.after]
        wanted = {id for ids in followers for id in ids}
        good = [point for point in points if point.patch_id in wanted and runs[point.run_id].state == "done"]
        if good:
            done(good, "patch")
    return failed


def _made(item: Array, points: Iterable[Any]) -> int:
    """Counts the checkpoints, and the tables of the task's own part."""
    from mi_sweeps.store.files import names
    from mi_sweeps.sweeps.plan import folders_of

    found = set()
    for point in points:
        run, patch = folders_of(point)
        found |= {(run.path, name) for name in names(run.checkpoints)}
        own = {patch.table(step).name for step in point.patch_steps[item.part :: item.parts]}
        found |= {(patch.path, name) for name in own & names(patch.tables)}
    return len(found)


@contextmanager
def _stopped_by_signals(submission: Submission) -> Iterator[None]:
    """Raises the first of SLURM's signals as an exception, and ignores later ones."""
    watched = (signal.SIGTERM, signal.SIGUSR2)

    def stop(signum: int, frame: Any) -> None:
        # The time that is left is needed for saving.
        for other in watched:
            signal.signal(other, signal.SIG_IGN)
        if _is_cancelled(submission):
            raise reraised_if_lost(Cancelled())
        if signum == signal.SIGUSR2:
            raise reraised_if_lost(_TimeLimit())
        job = _shown()
        if job.get("Reason") == "TimeLimit":
            raise reraised_if_lost(_TimeLimit())
        # A preempted job is still RUNNING, in its grace time; one that scancel ends is COMPLETING.
        if job.get("JobState") in ("COMPLETING", "CANCELLED"):
            raise reraised_if_lost(Cancelled())
        raise reraised_if_lost(Interrupted())

    before = {signum: signal.signal(signum, stop) for signum in watched}
    try:
        with reraising_if_lost():
            yield
    finally:
        for signum, handler in before.items():
            if signal.getsignal(signum) is stop:
                signal.signal(signum, handler)


def _is_cancelled(submission: Submission) -> bool:
    """Whether it was cancelled; its file is gone if sbatch refused a later array."""
    try:
        return submissions.read(submission.path).cancelled
    except FileNotFoundError:
        return True


def job_id() -> str:
    """Returns this task's id for scontrol. SLURM_JOB_ID alone means the whole array in an array's last task."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def _shown() -> dict[str, str]:
    """Asks SLURM about this task; empty if it does not answer."""
    result = _scontrol("--oneliner", "show", "job", job_id())
    pairs = (word.partition("=") for word in result.stdout.split())
    return {key: value for key, _, value in pairs}


def _start_again() -> None:
    """Requeues this task with its full time limit. SLURM then ends this process."""
    result = _scontrol("requeue", job_id())
    if result.returncode:
        print(f"not requeued: {result.stderr.strip()}", file=sys.stderr)  # noqa: T201
        # SLURM also restarts a preempted task that it kills, but not one that exits.
        time.sleep(STAY_SECONDS)


def _scontrol(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["scontrol", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=ASK_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer in {ASK_SECONDS:.0f} s")
    except OSError as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


def _mark(folder: Folder, error: str) -> None:
    """Marks a folder as failed, unless another process works there."""
    try:
        with folder.claim():
            folder.fail(error, "timeout")
    except Busy:
        pass
