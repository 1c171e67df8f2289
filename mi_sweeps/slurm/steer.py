"""What the commands do for a sweep on a cluster."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mi_sweeps.config import ResourcesConfig, SlurmConfig
from mi_sweeps.counting import plural
from mi_sweeps.errors import UserError
from mi_sweeps.slurm import queue, states, submissions
from mi_sweeps.slurm.arrays import Array, gpu_hours, resources
from mi_sweeps.slurm.submissions import Submission
from mi_sweeps.sweeps.plan import Plan

if TYPE_CHECKING:
    from rich.console import Console

ASK_SECONDS = 10.0
"""Shortest time between two questions to the controller, which serves a whole cluster."""
CANCEL_SECONDS = 60.0
"""How long `cancel` waits for the jobs to end."""


@dataclass(frozen=True)
class PlanOnCluster:
    """A plan with the cluster's states."""

    plan: Plan
    trouble: str | None = None
    """Why some or all of the cluster's states are missing, or which jobs SLURM holds."""
    blind: bool = False
    """Whether the cluster did not answer at all; it may have jobs all the same."""


def seen(plan: Plan, output: Path) -> PlanOnCluster:
    """Adds the cluster's states to a plan, if the cluster answers."""
    try:
        # Of every sweep, because sweeps may share points.
        found = submissions.of_output(output)
        if not found:
            return PlanOnCluster(plan)
        return PlanOnCluster(*states.look(plan, found))
    except UserError as error:
        return PlanOnCluster(plan, f"{error}; the states shown are those in the folders", blind=True)


def requested(plan: Plan, arrays: Sequence[Array], launcher: SlurmConfig) -> Iterator[str]:
    """Yields lines with the resources that arrays request."""
    for stage, what in _stages(plan).items():
        mine = [array for array in arrays if array.stage == stage]
        if mine:
            count = sum(len(array.tasks) for array in mine)
            points = sum(len(ids) for array in mine for ids in array.tasks if array.part == 0)
            tasks = f"{count} {plural('task', count)} in {len(mine)} {plural('array', len(mine))}"
            yield f"  {points} {plural(what, points)}: {tasks}, each {_described(resources(launcher, mine[0].stage))}"
    hours = gpu_hours(arrays, launcher)
    if hours:
        yield f"  at most {hours:.1f} GPU-hours, if every task runs once, to its time limit"
    options = {option for array in arrays for option in resources(launcher, array.stage).sbatch.items()}
    if any(name.startswith(("gpus", "gres", "tres")) and "gpu" in f"{name}={value}" for name, value in options):
        yield "  GPUs in launcher.sbatch are not counted in GPU-hours; those in launcher.gpus are"


def _stages(plan: Plan) -> dict[str, str]:
    """Returns what a job of each stage is called."""
    return {"finetune": plan.run_name, "patch": "patch job"}


def _described(request: ResourcesConfig) -> str:
    values = [f"{request.time} min"]
    values += [
        f"{count} {plural(name, count)}" for name, count in (("CPU", request.cpus), ("GPU", request.gpus)) if count
    ]
    values += [request.memory] if request.memory else []
    for name in ("partition", "account", "qos", "constraint"):
        value = getattr(request, name)
        values += [f"{name} {value}"] if value else []
    for name, value in request.sbatch.items():
        option = f"--{name.replace('_', '-')}"
        values += [option if value is True else f"{option}={value}"]
    values += [f"after `{line}`" for line in request.setup]
    return ", ".join(values)


def submitted(plan: Plan, submission: Submission) -> str:
    """Summarises a submission in one line."""
    names = {stage: plural(name, 2) for stage, name in _stages(plan).items()}
    jobs: dict[str, list[str]] = {}
    for array in submission.arrays:
        jobs.setdefault(array.stage, []).append(array.id)
    parts = [f"{names[stage]} in {plural('job', len(ids))} {', '.join(ids)}" for stage, ids in jobs.items()]
    return f"submitted: {'; '.join(parts)}"


def in_queue(plan: Plan) -> str:
    """Counts the queued jobs by reason: "3 waiting (Priority), 1 on n2"."""
    reasons = Counter(status.error or "" for status in plan.statuses if status.state == "queued")
    return ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())


def cancel(console: Console, output: Path, sweep: str) -> bool:
    """Cancels all jobs of a sweep and waits for them to end; returns whether they did."""
    from mi_sweeps.slurm.submit import cancel as end

    count, names = end(output, sweep)
    left = queue.live(names) if names else {}
    deadline = time.monotonic() + CANCEL_SECONDS
    pause = 1.0  # Most jobs end within a second or two.
    while left and time.monotonic() < deadline:
        time.sleep(pause)
        pause = min(2 * pause, ASK_SECONDS)
        left = queue.live(names)
    console.print(f"{sweep}: {count} {plural('task', count)} cancelled on the cluster", soft_wrap=True)
    if left:
        jobs = sorted({job.id.partition("_")[0] for job in left.values()})
        console.print(
            f"  {len(left)} still there after {CANCEL_SECONDS:.0f} s: scancel {' '.join(jobs)}", soft_wrap=True
        )
    return not left
