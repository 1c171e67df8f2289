"""From a plan to job arrays, without asking the cluster: each task's points, dependencies and resources."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, TypeVar

from mi_sweeps.config import ResourcesConfig, SlurmConfig
from mi_sweeps.sweeps.points import Stage

T = TypeVar("T")

Wait = Literal["pairs", "any"]

NOTICE_SECONDS = 120
"""How long before its time limit a task gets a signal. SLURM may send it a minute early, and saving takes time."""


@dataclass(frozen=True)
class Array:
    """Tasks that are submitted by one call of sbatch."""

    stage: Stage
    tasks: tuple[tuple[str, ...], ...]
    """The run ids, or patch ids, that each task computes."""
    part: int = 0
    parts: int = 1
    """The tasks do part `part` of `parts` of each patch job's checkpoints."""
    after: tuple[str, ...] = ()
    """Names of the arrays to wait for, as `wait` says."""
    wait: Wait | None = None
    """`pairs`: each task waits until the task with the same number succeeds; `any`: until all tasks end."""
    name: str = ""
    """The job name: unique, and used to find the array in the queue."""
    jobs: tuple[str, ...] = field(default=())
    """The tasks' job ids; empty before submission."""

    @property
    def id(self) -> str:
        """The array's job id; empty before submission."""
        return self.jobs[0].partition("_")[0] if self.jobs else ""


def batched(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """Splits items into batches of `size`; the last may be smaller."""  # itertools.batched needs Python 3.12.
    rest = iter(items)
    while batch := tuple(islice(rest, size)):
        yield batch


def layout(
    runs: Sequence[str],
    patches: Mapping[str, Sequence[str]],
    queued: Mapping[str, Collection[str]],
    launcher: SlurmConfig,
    name: str,
    limit: int,
) -> list[Array]:
    """Lays out the arrays of a submission; each comes after those it waits for.

    Args:
        runs: ids of the fine-tunes to do.
        patches: the patch ids to do by run id, including runs that are done or queued.
        queued: by id of each run that is already in the queue, the names of its arrays.
        name: the prefix of every array's name.
        limit: most tasks in an array.
    """
    arrays: list[Array] = []

    def add(stage: Stage, tasks: tuple[tuple[str, ...], ...], **options: Any) -> Array:
        array = Array(stage, tasks, name=f"{name}-{len(arrays)}", **options)
        arrays.append(array)
        return array

    def add_patches(tasks: tuple[tuple[str, ...], ...], **options: Any) -> None:
        for part in range(launcher.patch.split):
            add("patch", tasks, part=part, parts=launcher.patch.split, **options)

    # A patch task waits for the fine-tune task with its number. Runs with equally many patch jobs are grouped, so that
    # their patch arrays have no holes.
    to_do = set(runs)
    for count in sorted({len(patches.get(run, ())) for run in runs}):
        same = [run for run in runs if len(patches.get(run, ())) == count]
        for tasks in batched(batched(same, launcher.pack), limit):
            array = add("finetune", tasks)
            for number in range(count):
                paired = tuple(tuple(patches[run][number] for run in task) for task in tasks)
                add_patches(paired, after=(array.name,), wait="pairs")
    ready = [patch for run, ids in patches.items() if run not in to_do and not queued.get(run) for patch in ids]
    for tasks in batched(batched(ready, launcher.pack), limit):
        add_patches(tasks)
    waiting: dict[tuple[str, ...], list[str]] = {}
    for run, ids in patches.items():
        if run not in to_do and queued.get(run):
            waiting.setdefault(tuple(sorted(queued[run])), []).extend(ids)
    for names, ids in waiting.items():
        for tasks in batched(batched(ids, launcher.pack), limit):
            add_patches(tasks, after=names, wait="any")
    return arrays


def resources(launcher: SlurmConfig, stage: Stage) -> ResourcesConfig:
    """Combines a stage's own resources with the settings for both stages."""
    own: ResourcesConfig = getattr(launcher, stage)
    values = {key: getattr(launcher, key) for key in ResourcesConfig.model_fields}
    values |= {key: value for key, value in own if key in values and value is not None}
    values["setup"] = (*launcher.setup, *own.setup)
    values["sbatch"] = {**launcher.sbatch, **own.sbatch}
    return ResourcesConfig(**values)


def gpu_hours(arrays: Iterable[Array], launcher: SlurmConfig) -> float:
    """Returns the most GPU-hours that arrays may use: every task runs once, to its time limit."""
    hours = 0.0
    for array in arrays:
        request = resources(launcher, array.stage)
        hours += len(array.tasks) * (request.gpus or 0) * (request.time or 0) / 60
    return hours


def parameters(array: Array, launcher: SlurmConfig, dependency: str | None) -> dict[str, Any]:
    """Returns submitit's parameters for an array.

    Args:
        dependency: as sbatch takes it; None for no dependency.
    """
    request = resources(launcher, array.stage)
    assert request.time is not None
    extra: dict[str, Any] = {"requeue": True, **{key.replace("_", "-"): value for key, value in request.sbatch.items()}}
    if dependency:
        extra |= {"dependency": dependency, "kill-on-invalid-dep": "yes"}
    values = {
        "job_name": array.name,
        "comment": array.name,
        "partition": request.partition,
        "account": request.account,
        "qos": request.qos,
        "constraint": request.constraint,
        "time": request.time,
        "mem": request.memory,
        "cpus_per_task": request.cpus,
        "gpus_per_node": request.gpus or None,
        "signal_delay_s": min(NOTICE_SECONDS, request.time * 60 // 4),
        # Since SLURM 22.05, srun does not inherit --cpus-per-task from sbatch.
        "setup": ['export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"', *request.setup],
        "array_parallelism": launcher.max_running or len(array.tasks),
        "stderr_to_stdout": True,
        "additional_parameters": extra,
    }
    return {key: value for key, value in values.items() if value is not None}
