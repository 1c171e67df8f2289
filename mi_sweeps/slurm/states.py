"""Where each fine-tune and each patch job of a sweep is: what its folder says, joined with what the cluster says."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from mi_sweeps.errors import UserError
from mi_sweeps.slurm import queue
from mi_sweeps.slurm.arrays import Array
from mi_sweeps.slurm.queue import Job
from mi_sweeps.slurm.submissions import Submission, tasks
from mi_sweeps.store.status import PENDING, Failure, Status
from mi_sweeps.sweeps.plan import Plan

ENDED_BADLY: dict[str, Failure] = {
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "OUT_OF_MEMORY": "oom",
    "NODE_FAIL": "node",
    "BOOT_FAIL": "node",
    "FAILED": "error",
}
"""States in which SLURM leaves a job that it does not start again, with the kind of failure."""

KILLED = ("9:0", "0:9")
"""Exit codes of jobs that got SIGKILL."""
LOG_BYTES = 10_000
"""How much of a job's output is looked at."""

WORDS: dict[Failure, str] = {
    "timeout": "ended by its time limit; raise launcher.time",
    "oom": "no memory left; raise launcher.memory",
    "node": "its node failed",
    "error": "its job failed",
}


@dataclass(frozen=True)
class Place:
    """The newest task that an id was submitted in."""

    submission: Submission
    array: Array
    number: int

    @property
    def key(self) -> queue.Task:
        return self.array.name, self.number

    @property
    def log(self) -> str:
        """Where the task's own output is."""
        job = self.array.jobs[self.number] if self.array.jobs else "JOB"
        return str(self.submission.jobs / f"{job}_0_log.out")


def places(submissions: Sequence[Submission]) -> dict[str, list[Place]]:
    """For each id the tasks of the newest submission that has it: one, or one for each part."""
    found: dict[str, list[Place]] = {}
    for submission, array, number, one in tasks(list(submissions)):
        before = found.get(one, [])
        if before and before[0].submission is submission:
            before.append(Place(submission, array, number))
        else:
            found[one] = [Place(submission, array, number)]
    return found


def join(
    statuses: Mapping[str, Status],
    where: Mapping[str, Sequence[Place]],
    live: Mapping[queue.Task, Job],
    ended: Mapping[queue.Task, Job],
    early: Collection[str] = (),
) -> dict[str, Status]:
    """The state of each id as a reader should see it.

    Args:
        statuses: by run id or patch id, as the folders say.
        live: what squeue says.
        ended: what sacct says; a job that is nowhere counts as lost.
        early: patch jobs whose fine-tune is not done.
    """
    return {one: _joined(one, statuses, where.get(one, ()), live, ended, one in early) for one in statuses}


def _joined(
    one: str,
    statuses: Mapping[str, Status],
    where: Sequence[Place],
    live: Mapping[queue.Task, Job],
    ended: Mapping[queue.Task, Job],
    early: bool,
) -> Status:
    status = statuses[one]
    if status.state in ("done", "running"):
        return status
    jobs = [live[place.key] for place in where if place.key in live]
    failed = status.state == "failed" and where and (status.finished or "") >= where[0].submission.submitted
    # Its task may go on with other points, but what does the other parts of a patch job is at work on itself.
    if failed and not (jobs and where[0].array.parts > 1):
        return status
    if jobs:
        running = [job for job in jobs if job.state not in ("PENDING", "REQUEUED", "SUSPENDED")]
        reason = f"on {running[0].node}, not begun" if running else f"waiting ({jobs[0].reason})"
        return replace(status, state="queued", error=reason, failure=None)
    if status.state not in PENDING:
        return status
    for place in where:
        job = ended.get(place.key)
        if not job or job.state not in ENDED_BADLY:
            continue
        begun = _begun(status, place)
        if job.state == "FAILED" and not begun and (early or place.array.wait == "any"):
            continue  # Its fine-tune was not done, so there was nothing to do yet.
        # Of a task with several points it is the one that was at hand; the others were never begun. If none was, they
        # all have failed, or `run` would submit them again and again.
        ids = place.array.tasks[place.number]
        none = all(other in statuses and not _begun(statuses[other], place) for other in ids)
        if status.state == "interrupted" or len(ids) == 1 or none:
            failure = _failure(job, place)
            error = f"{WORDS[failure]} ({job.state}, exit code {job.reason}, {job.node}); see {place.log}"
            return replace(status, state="failed", error=error, failure=failure)
    return status


def _begun(status: Status, place: Place) -> bool:
    """Whether anybody has worked on it since it was submitted."""
    return (status.finished or status.started or "") >= place.submission.submitted


def _failure(job: Job, place: Place) -> Failure:
    """Why a job ended. Where memory is not kept by cgroups, SLURM kills a job that takes too much, and says why in the
    job's output alone."""
    failure = ENDED_BADLY[job.state]
    if failure == "error" and job.reason in KILLED:
        with suppress(OSError), open(place.log, "rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - LOG_BYTES))
            if b"exceeded memory limit" in log.read():
                return "oom"
    return failure


def look(plan: Plan, submissions: Sequence[Submission]) -> tuple[Plan, str | None]:
    """A plan with the states as the cluster has them, and why they are less than that where accounting does not answer.
    One call of squeue, and one of sacct where jobs are gone that left no result.

    Raises:
        UserError: the controller does not answer.
    """
    where = places(submissions)
    # Failed ones too: they may have been submitted once more.
    not_done = {one: status for one, status in {**plan.runs, **plan.patches}.items() if status.state != "done"}
    arrays = {place.array.name: place.array for one in not_done for place in where.get(one, ())}
    live = queue.live(arrays.keys())
    gone = {
        place.array.name
        for one, status in not_done.items()
        for place in where.get(one, ())
        if status.state in PENDING and place.key not in live and place.array.jobs
    }
    notice = None
    try:
        ended = queue.ended({arrays[name].id: name for name in gone})
    except UserError as error:
        ended, notice = {}, f"{error}; jobs that are gone without a result count as lost, whatever ended them"
    early = {point.patch_id for point in plan.points if plan.runs[point.run_id].state != "done"}
    runs, patches = join(plan.runs, where, live, ended), join(plan.patches, where, live, ended, early)
    return Plan(plan.points, runs, patches), notice
