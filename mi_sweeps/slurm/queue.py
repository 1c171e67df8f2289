"""What the cluster says of jobs: one call of squeue and one of sacct for however many there are."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mi_sweeps.errors import UserError

SECONDS = 20
"""How long SLURM's commands may take: they hang where a daemon is down."""

Task = tuple[str, int]
"""Name of an array, and number of a task in it."""


@dataclass(frozen=True)
class Job:
    """A task as SLURM shows it."""

    name: str
    number: int
    id: str
    """As scancel takes it: 123_4, or 123 for a task that is no array."""
    state: str
    """PENDING, RUNNING, COMPLETED, TIMEOUT, ..."""
    reason: str
    """Why it is pending; the exit code of one that has ended."""
    node: str


@dataclass(frozen=True)
class Limits:
    """How much a cluster takes; the defaults are SLURM's own."""

    tasks: int = 1000
    """In one array."""
    jobs: int = 10_000
    """In the queue, each task counted. sbatch does not fail beyond it: it hangs."""


def available() -> bool:
    """Whether this machine can submit."""
    return shutil.which("sbatch") is not None


def live(names: Collection[str]) -> dict[Task, Job]:
    """Tasks that are pending or running.

    Raises:
        UserError: the controller does not answer.
    """
    if not names:
        return {}
    rows = _ask(["squeue", "--array", "--noheader", f"--name={','.join(names)}", "--format=%i|%j|%T|%r|%N"])
    return {(job.name, job.number): job for job in _jobs(rows) if job.name in names}


def ended(names: Mapping[str, str]) -> dict[Task, Job]:
    """Tasks as accounting remembers them, the newest attempt of each.

    Args:
        names: of arrays, by their job ids. Jobs of other names are none of ours: ids may have been given out anew.

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
        # A job that has just ended has no name of its own yet.
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
    """Those of this cluster.

    Raises:
        UserError: the controller does not answer.
    """
    found = {}
    for row in _ask(["scontrol", "show", "config"]):
        key, _, value = row.partition("=")
        found[key.strip()] = value.strip()
    default = Limits()
    # Where it is 0 there are no arrays, only single tasks.
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
    """The tasks that an id stands for: 12_3 is one, 12_[4,6-8%2] are four, and 12 is the first and only one."""
    _, _, index = id.partition("_")
    if not index:
        return [0]
    found: list[int] = []
    # Long lists are cut short, and end in "...".
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
        raise UserError(f"{command[0]}: no such command; this machine is no SLURM client") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"{command[0]}: no answer in {SECONDS} s; SLURM is busy or down, try again") from None
    if result.returncode:
        said = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[0]
        said = said.removeprefix(f"{command[0]}: ").removeprefix("error: ")
        raise UserError(f"{command[0]}: {said}; SLURM is down, or this machine is no client of it")
    return result.stdout.splitlines()
