"""The state of each fine-tune and patch job, from its folder and from the cluster."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
"""Final states of failed jobs in SLURM, with the kind of failure."""

KILLED = ("9:0", "0:9")
"""Exit codes of jobs that got SIGKILL."""
LOG_BYTES = 10_000
"""How much of the end of a job's output is read."""

WORDS: dict[Failure, str] = {
    "timeout": "ended by its time limit; raise launcher.time",
    "oom": "no memory left; raise launcher.memory",
    "node": "its node failed",
    "error": "its job failed",
}


@dataclass(frozen=True)
class Place:
    """The newest task that computes an id."""

    submission: Submission
    array: Array
    number: int

    @property
    def key(self) -> queue.Task:
        return self.array.name, self.number

    @property
    def log(self) -> str:
        """The file with the task's output."""
        job = self.array.jobs[self.number] if self.array.jobs else "JOB"
        return str(self.submission.jobs / f"{job}_0_log.out")


def places(submissions: Sequence[Submission]) -> dict[str, list[Place]]:
    """Returns for each id its tasks in the newest submission that has it: one, or one for each part."""
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
    """Returns the state of each id as the user should see it.

    Args:
        statuses: from the folders, by run id or patch id.
        live: from squeue.
        ended: from sacct; a job that neither knows counts as lost.
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
    # A task that goes on with other points is done with this one; a task for another part of this patch job is not.
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
            continue  # Its fine-tune was not done, so it had nothing to do yet.
        # In a task with several points, the interrupted one failed; the others never began. If none began, all have
        # failed: otherwise `run` would submit them again and again.
        ids = place.array.tasks[place.number]
        none = all(other in statuses and not _begun(statuses[other], place) for other in ids)
        if status.state == "interrupted" or len(ids) == 1 or none:
            failure = _failure(job, place)
            error = f"{WORDS[failure]} ({job.state}, exit code {job.reason}, {job.node}); see {place.log}"
            return replace(status, state="failed", error=error, failure=failure)
    return status


def _begun(status: Status, place: Place) -> bool:
    """Whether work on it began after it was submitted."""
    return (status.finished or status.started or "") >= place.submission.submitted


def _failure(job: Job, place: Place) -> Failure:
    """Returns why a job ended. Without cgroups, SLURM kills a job that uses too much memory and says so only in the
    job's output."""
    failure = ENDED_BADLY[job.state]
    if failure == "error" and job.reason in KILLED:
        with suppress(OSError), open(place.log, "rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - LOG_BYTES))
            if b"exceeded memory limit" in log.read():
                return "oom"
    return failure


def look(plan: Plan, submissions: Sequence[Submission]) -> tuple[Plan, str | None]:
    """Adds the cluster's states to a plan; the second value is a notice if accounting does not answer, or if SLURM
    holds jobs. Takes one call of squeue, and one of sacct if jobs are gone without a result.

    Raises:
        UserError: the controller does not answer.
    """
    where = places(submissions)
    # Failed ones too: they may have been submitted again.
    not_done = {one: status for one, status in {**plan.runs, **plan.patches}.items() if status.state != "done"}
    arrays = {place.array.name: place.array for one in not_done for place in where.get(one, ())}
    live = queue.live(arrays.keys())
    gone = {
        place.array.name
        for one, status in not_done.items()
        for place in where.get(one, ())
        if status.state in PENDING and place.key not in live and place.array.jobs
    }
    notices = list(_held(live.values()))
    try:
        ended = queue.ended({arrays[name].id: name for name in gone})
    except UserError as error:
        ended = {}
        notices.append(f"{error}; jobs that are gone without a result count as lost, for whatever reason")
    early = {point.patch_id for point in plan.points if plan.runs[point.run_id].state != "done"}
    runs, patches = join(plan.runs, where, live, ended), join(plan.patches, where, live, ended, early)
    return Plan(plan.points, runs, patches), "; ".join(notices) or None


def _held(jobs: Iterable[Job]) -> Iterator[str]:
    """Yields what to do about jobs that SLURM holds: after a failed launch it does so by itself, and for good."""
    held: dict[str, list[str]] = {}
    for job in jobs:
        if job.state == "PENDING" and "held" in job.reason.lower():
            held.setdefault(job.reason, []).append(job.id)
    for reason, ids in held.items():
        arrays = ",".join(dict.fromkeys(id.partition("_")[0] for id in ids))
        first = f"{ids[0]} and {len(ids) - 1} more are" if len(ids) > 1 else f"{ids[0]} is"
        yield (
            f"{first} held in the queue and will not start by itself ({reason}): `scontrol release {arrays}`, or "
            "`mi-sweeps cancel` and run it again"
        )
