"""From a plan to job arrays, without asking the cluster: which points a task computes, what it waits for, what it may
take."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, TypeVar

from mi_sweeps.config import ResourcesConfig, SlurmConfig

T = TypeVar("T")

Stage = Literal["finetune", "patch"]
Wait = Literal["pairs", "any"]

NOTICE_SECONDS = 120
"""How long before its time limit a task is told: SLURM may be a minute early, and a checkpoint must be whole."""


@dataclass(frozen=True)
class Array:
    """Tasks that one call of sbatch submits."""

    stage: Stage
    tasks: tuple[tuple[str, ...], ...]
    """Of each task the run ids, or patch ids, that it computes."""
    part: int = 0
    parts: int = 1
    """The tasks do part `part` of `parts` of each patch job's checkpoints."""
    after: tuple[str, ...] = ()
    """Names of arrays that must have ended before: see `wait`."""
    wait: Wait | None = None
    """`pairs`: each task waits for the one of its own number to succeed; `any`: for all tasks to end."""
    name: str = ""
    """The job name, unique; by it the queue is read."""
    jobs: tuple[str, ...] = field(default=())
    """The tasks' job ids; empty until they are submitted."""

    @property
    def id(self) -> str:
        """The job id of the whole; empty until it is submitted."""
        return self.jobs[0].partition("_")[0] if self.jobs else ""


def batched(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """So many at a time; the last may be fewer."""
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
    """The arrays of a submission, each after those that it waits for.

    Args:
        runs: ids of the fine-tunes to do.
        patches: for each run id the patch ids to do; also of runs that are done or queued.
        queued: for the id of each run that was submitted before, the names of the arrays that it is in.
        name: the beginning of every array's name.
        limit: how many tasks an array may have.
    """
    arrays: list[Array] = []

    def add(stage: Stage, tasks: tuple[tuple[str, ...], ...], **options: Any) -> Array:
        array = Array(stage, tasks, name=f"{name}-{len(arrays)}", **options)
        arrays.append(array)
        return array

    def add_patches(tasks: tuple[tuple[str, ...], ...], **options: Any) -> None:
        for part in range(launcher.patch.split):
            add("patch", tasks, part=part, parts=launcher.patch.split, **options)

    # A task waits for that of its own number, so runs with equally many patch jobs go together: the second array has
    # no holes then.
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
    """What a stage's own settings say, else what both stages' do."""
    own: ResourcesConfig = getattr(launcher, stage)
    values = {key: getattr(launcher, key) for key in ResourcesConfig.model_fields}
    values |= {key: value for key, value in own if key in values and value is not None}
    values["setup"] = (*launcher.setup, *own.setup)
    values["sbatch"] = {**launcher.sbatch, **own.sbatch}
    return ResourcesConfig(**values)


def gpu_hours(arrays: Iterable[Array], launcher: SlurmConfig) -> float:
    """What is asked for at most: every task to its time limit, once."""
    hours = 0.0
    for array in arrays:
        asked = resources(launcher, array.stage)
        hours += len(array.tasks) * (asked.gpus or 0) * (asked.time or 0) / 60
    return hours


def parameters(array: Array, launcher: SlurmConfig, dependency: str | None) -> dict[str, Any]:
    """What submitit is given for an array.

    Args:
        dependency: in sbatch's words; None where nothing is waited for.
    """
    asked = resources(launcher, array.stage)
    assert asked.time is not None
    extra: dict[str, Any] = {"requeue": True, **{key.replace("_", "-"): value for key, value in asked.sbatch.items()}}
    if dependency:
        extra |= {"dependency": dependency, "kill-on-invalid-dep": "yes"}
    values = {
        "job_name": array.name,
        "comment": array.name,
        "partition": asked.partition,
        "account": asked.account,
        "qos": asked.qos,
        "constraint": asked.constraint,
        "time": asked.time,
        "mem": asked.memory,
        "cpus_per_task": asked.cpus,
        "gpus_per_node": asked.gpus or None,
        "signal_delay_s": min(NOTICE_SECONDS, asked.time * 60 // 4),
        # srun does not take over what sbatch was given (since SLURM 22.05).
        "setup": ['export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"', *asked.setup],
        "array_parallelism": launcher.max_running or len(array.tasks),
        "stderr_to_stdout": True,
        "additional_parameters": extra,
    }
    return {key: value for key, value in values.items() if value is not None}
