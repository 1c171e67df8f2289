"""Submits a plan's jobs to the cluster. Only one process at a time submits for an output folder, and queued jobs are
not submitted again, so two people may run the same sweep at once."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from mi_sweeps import libraries
from mi_sweeps.config import SlurmConfig
from mi_sweeps.errors import UserError
from mi_sweeps.hints import hint
from mi_sweeps.slurm import queue, states, submissions
from mi_sweeps.slurm.arrays import Array, layout, parameters
from mi_sweeps.slurm.submissions import Submission
from mi_sweeps.slurm.task import SlurmTask
from mi_sweeps.store.status import Failure
from mi_sweeps.sweeps import plan as planning
from mi_sweeps.sweeps.plan import Plan

if TYPE_CHECKING:
    from mi_sweeps.sweeps.points import GridPoint

LOCK_SECONDS = 120.0
"""How long to wait for another process that is submitting."""
SBATCH_SECONDS = 60
"""Time limit for submitting one array."""
TASK = "from submitit.core.submission import submitit_main as run; sys.argv[1:] = sys.argv[-1:]; run()"
"""Replaces submitit's `python -m submitit.core._submit`, which would put the working folder first on the path."""


@dataclass(frozen=True)
class Work:
    """The work to submit."""

    plan: Plan
    """With the cluster's states."""
    arrays: list[Array]
    notice: str | None
    """Why some of the cluster's states are missing, or which jobs SLURM holds."""
    too_many: str | None
    """An error if the cluster cannot hold this many tasks."""


def look(
    points: Sequence[GridPoint], launcher: SlurmConfig, retry: Sequence[Failure], name: str = "", *, ask: bool = True
) -> Work:
    """Returns what `run` would submit now.

    Args:
        ask: whether to ask the cluster; otherwise it is taken to have no jobs and SLURM's default limits.

    Raises:
        UserError: the controller does not answer.
    """
    known = submissions.of_output(points[0].config.output)
    plan, notice = planning.make(points), None
    if ask:
        plan, notice = states.look(plan, known)
    where = states.places(known)

    runs, patches = plan.missing(retry)
    queued = {
        run_id: {place.array.name for place in where[run_id]}
        for run_id, status in plan.runs.items()
        if status.state in ("queued", "running") and run_id in where
    }
    limits = queue.limits() if ask else queue.Limits()
    arrays = layout(runs, patches, queued, launcher, name, limits.tasks)
    count = sum(len(array.tasks) for array in arrays)
    too_many = None
    if count > limits.jobs:
        holds = f"{'the cluster holds' if ask else 'SLURM by default holds'} {limits.jobs} jobs (MaxJobCount)"
        fewer = f"launcher.pack={-(-launcher.pack * count // limits.jobs)} or more makes fewer"
        too_many = f"launcher.pack={launcher.pack}: {count} tasks, and {holds}; {fewer}"
    return Work(plan, arrays, notice, too_many)


@contextmanager
def submitting(output: Path) -> Iterator[None]:
    """Keeps other processes from submitting for this output folder.

    Raises:
        UserError: another process has been submitting for LOCK_SECONDS.
    """
    file = output / "sweeps" / "submit.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(file, timeout=LOCK_SECONDS, mode=0o666):
            yield
    except Timeout:
        raise UserError(f"{file}: another process is submitting; try again when it is done") from None


def submit(submission: Submission, arrays: Sequence[Array], launcher: SlurmConfig) -> Submission:
    """Submits arrays and records their job ids.

    Raises:
        UserError: sbatch refuses; then nothing of the submission stays in the queue.
    """
    # Written before the first call, and after each: an unrecorded job would be computed twice.
    arrays = list(arrays)
    known = submissions.of_output(submission.output)
    ids = {array.name: array.id for one in known for array in one.arrays if array.jobs}
    # Arrays whose submitter was killed before it could record their ids.
    unknown = {name for array in arrays for name in array.after} - ids.keys() - {array.name for array in arrays}
    ids |= {job.name: job.id.partition("_")[0] for job in queue.live(unknown).values()}
    try:
        for number, array in enumerate(arrays):
            replace(submission, arrays=tuple(arrays)).write()
            jobs = _sbatch(submission, number, array, launcher, _dependency(array, ids))
            arrays[number] = replace(array, jobs=tuple(jobs))
            ids[array.name] = arrays[number].id
    except UserError as error:
        jobs = [array.id for array in arrays if array.jobs]
        try:
            if isinstance(error, _NoAnswer):
                # It may have been submitted all the same.
                jobs += {job.id.partition("_")[0] for job in queue.live({array.name for array in arrays}).values()}
            queue.cancel(jobs)
        except UserError as other:
            end = f"`{hint('cancel', submission.sweep, submission.output)}` ends what was submitted"
            raise UserError(f"{error}; {other}; {end}") from None
        submission.path.unlink()
        raise UserError(f"{error}; nothing was submitted") from None
    submission = replace(submission, arrays=tuple(arrays))
    submission.write()
    return submission


def _dependency(array: Array, ids: dict[str, str]) -> str | None:
    if array.wait is None:
        return None
    kind = "afterany"
    if array.wait == "pairs":
        # A submission of one task is not an array.
        kind = "aftercorr" if len(array.tasks) > 1 else "afterok"
    found = [ids[name] for name in array.after if name in ids]
    return f"{kind}:{':'.join(found)}" if found else None


def _sbatch(
    submission: Submission, number: int, array: Array, launcher: SlurmConfig, dependency: str | None
) -> list[str]:
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = submitit.SlurmExecutor(submission.jobs, python=shlex.join(libraries.python(TASK)))
    work = [SlurmTask(str(submission.path), number, task) for task in range(len(array.tasks))]
    try:
        executor.update_parameters(**parameters(array, launcher, dependency))
        # submitit prints sbatch's complaints; here they go into the error.
        with _at_most(SBATCH_SECONDS), redirect_stderr(StringIO()):
            jobs: list[Any] = executor.map_array(_run, work)
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        if TimeoutError in (type(error), type(error.__cause__)):
            why = "the cluster takes no more jobs now (MaxJobCount) or is down"
            raise _NoAnswer(f"sbatch: no answer in {SBATCH_SECONDS} s; {why}") from None
        lines = [line.partition("error:")[2] for line in str(error).splitlines() if "error:" in line]
        raise UserError(f"sbatch: {'; '.join(map(str.strip, lines)) or error}") from None
    return [job.job_id for job in jobs]


class _NoAnswer(UserError):
    """sbatch does not answer."""


@contextmanager
def _at_most(seconds: int) -> Iterator[None]:
    """Raises TimeoutError after some seconds: submitit waits for sbatch without a limit."""

    def give_up(signum: int, frame: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _run(task: SlurmTask) -> None:
    task()


def cancel(output: Path, sweep: str) -> tuple[int, set[str]]:
    """Cancels all jobs of a sweep.

    Returns:
        How many tasks were pending or running, and the names of their arrays.

    Raises:
        UserError: the controller does not answer.
    """
    with submitting(output):
        found = submissions.of_sweep(output, sweep)
        live = queue.live({array.name for one in found for array in one.arrays})
        names = {name for name, _ in live}
        for one in found:
            if names & {array.name for array in one.arrays}:
                # Before scancel, so that no task requeues itself.
                replace(one, cancelled=True).write()
        queue.cancel(sorted({job.id.partition("_")[0] for job in live.values()}))
    return len(live), names
