"""Asks the cluster about jobs, with one call of squeue and one of sacct for any number of them.

submitit's own watcher needs sacct, hangs without it, and caches NODE_FAIL as final though SLURM reruns the job.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mi_sweeps.errors import UserError

SECONDS = 20
"""Time limit for SLURM's commands, which hang when a daemon is down."""

Task = tuple[str, int]
"""An array's name, and the number of a task in it."""


@dataclass(frozen=True)
class Job:
    """A task as SLURM shows it."""

    name: str
    number: int
    id: str
    """As scancel takes it: 123_4, or 123 for a task outside an array."""
    state: str
    """PENDING, RUNNING, COMPLETED, TIMEOUT, ..."""
    reason: str
    """Why it is pending, or its exit code once it has ended."""
    node: str


@dataclass(frozen=True)
class Limits:
    """The limits of a cluster; the defaults are SLURM's own."""

    tasks: int = 1000
    """Most tasks in an array."""
    jobs: int = 10_000
    """Most tasks in the queue. Beyond it sbatch does not fail: it hangs."""


def available() -> bool:
    """Whether this machine can submit."""
    return shutil.which("sbatch") is not None


def live(names: Collection[str]) -> dict[Task, Job]:
    """Returns the tasks that are pending or running.

    Raises:
        UserError: the controller does not answer.
    """
    if not names:
        return {}
    rows = _ask(["squeue", "--array", "--noheader", f"--name={','.join(names)}", "--format=%i|%j|%T|%r|%N"])
    return {(job.name, job.number): job for job in _jobs(rows) if job.name in names}


def ended(names: Mapping[str, str]) -> dict[Task, Job]:
    """Returns tasks as accounting knows them, the newest attempt of each.

    Args:
        names: names of arrays by job id. Jobs with other names are not ours: SLURM may reuse ids.

    Raises:
        UserError: there is no accounting, or it does not answer.
    """
    if not names:
        return {}
    fields = "--format=JobID,JobName%200,State,ExitCode,NodeList"
    rows = _ask(["sacct", "--allocations", "--noheader", "--parsable2", fields, f"--jobs={','.join(names)}"])
    found = {}
    for job in _jobs(rows):
        name = names.get(job.id.partition("_")[0])
        # A job that has just ended may still be called "allocation".
        if name and job.name in (name, "allocation"):
            found[name, job.number] = replace(job, name=name)
    return found


def cancel(jobs: Sequence[str]) -> None:
    """Ends jobs for good, whether they are running or pending.

    Raises:
        UserError: the controller does not answer.
    """
    if jobs:
        _ask(["scancel", "--quiet", *jobs])


def limits() -> Limits:
    """Reads the limits of this cluster.

    Raises:
        UserError: the controller does not answer.
    """
    found = {}
    for row in _ask(["scontrol", "show", "config"]):
        key, _, value = row.partition("=")
        found[key.strip()] = value.strip()
    default = Limits()
    # 0 means that the cluster has no arrays, only single tasks.
    tasks = max(1, int(found.get("MaxArraySize", default.tasks + 1)) - 1)
    return Limits(tasks, int(found.get("MaxJobCount", default.jobs)))


def _jobs(rows: Iterable[str]) -> Iterator[Job]:
    for row in rows:
        parts = row.split("|")
        if len(parts) == 5:
            id, name, state, reason, node = parts
            for number in numbers(id):
                # "CANCELLED by 0"
                yield Job(name, number, _one(id, number), state.split()[0], reason, node)


def numbers(id: str) -> list[int]:
    """Returns the task numbers in a job id: 12_3 has one, 12_[4,6-8%2] has four, and 12 has only task 0."""
    _, _, index = id.partition("_")
    if not index:
        return [0]
    found: list[int] = []
    # SLURM cuts long lists short; they end in "...".
    for first, last in re.findall(r"(\d+)(?:-(\d+))?(?=[,%\]]|$)", index.strip("[]").partition("%")[0]):
        found += range(int(first), int(last or first) + 1)
    return found


def _one(id: str, number: int) -> str:
    array, _, index = id.partition("_")
    return f"{array}_{number}" if index else array


def _ask(command: Sequence[str]) -> list[str]:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except FileNotFoundError:
        raise UserError(f"{command[0]}: no such command; run it on a SLURM client, such as a login node") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]}: no answer in {SECONDS} s; SLURM is busy or down, try again") from None
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[0]
        reason = reason.removeprefix(f"{command[0]}: ").removeprefix("error: ")
        raise UserError(f"{command[0]}: {reason}; SLURM is down, or this machine is not a client of it")
    return result.stdout.splitlines()
