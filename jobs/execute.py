"""Computes the points of a plan. Several processes may do so at once: whichever claims a folder first does its work."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mi_sweeps.jobs.finetune import finetune, training_turns
from mi_sweeps.jobs.patch import patch
from mi_sweeps.store.endings import Busy, describe
from mi_sweeps.store.folders import Folder
from mi_sweeps.store.status import PENDING, Failure, Status, now
from mi_sweeps.sweeps import plan as planning
from mi_sweeps.sweeps.points import GridPoint, Stage

if TYPE_CHECKING:
    from mi_sweeps.training.run import TrainingState

POLL_SECONDS = 0.5
"""How often a worker checks whether another has finished what its own next point needs."""


@dataclass(frozen=True)
class Task:
    """One fine-tune or one patch job."""

    stage: Stage
    point: GridPoint
    needed: frozenset[int] = frozenset()
    """Checkpoints that a fine-tune's patch jobs still need."""
    part: int = 0
    parts: int = 1
    """This task does part `part` of `parts` of a patch job's checkpoints."""

    @property
    def folder(self) -> Folder:
        run, patch = planning.folders_of(self.point)
        if self.stage == "finetune":
            return run
        return patch if self.parts == 1 else patch.part(self.part, self.parts)

    @property
    def id(self) -> str:
        """The run id or the patch id."""
        return self.point.run_id if self.stage == "finetune" else self.point.patch_id

    @property
    def steps(self) -> int:
        """The length of its progress bar, in training steps or checkpoints."""
        config = self.point.config
        if self.stage == "finetune" and self.point.is_series:
            return len(config.checkpoint_steps)
        return config.last_step if self.stage == "finetune" else len(config.patch_steps[self.part :: self.parts])

    @property
    def name(self) -> str:
        """As shown to the user, with the choices that made it."""
        return self.point.called(self.stage)

    @property
    def stack_key(self) -> str:
        """A key that runs must share to be trained together."""
        config = self.point.config
        task = config.task.model_dump(mode="json", exclude={"seed"})
        train = config.train.model_dump(mode="json", exclude={"clip", "diverged"})
        return json.dumps([config.model.model_dump(mode="json"), task, train, config.checkpoint_steps])


@dataclass
class Outcome:
    """The result of an execution."""

    done: list[Task] = field(default_factory=list)
    failed: dict[str, tuple[Task, str]] = field(default_factory=dict)
    """By id: the task and its error in one line."""
    busy: list[Task] = field(default_factory=list)
    """Left alone, because another process is working on them."""


class Listener:
    """Called as tasks begin, advance and end; this base class does nothing."""

    @contextmanager
    def task(self, task: Task) -> Iterator[Callable[[int], None]]:
        """Wraps a task; yields a function to call with the number of steps done."""
        yield lambda step: None

    def finished(self, task: Task, error: str | None) -> None:
        """Called when a task has ended; `error` is one line."""


def execute(
    points: Sequence[GridPoint],
    *,
    retry: Collection[Failure] = (),
    began: str | None = None,
    wait: bool = False,
    poll: float = POLL_SECONDS,
    stages: Collection[Stage] = ("finetune", "patch"),
    part: int = 0,
    parts: int = 1,
    listener: Listener | None = None,
) -> Outcome:
    """Computes what is missing, each fine-tune before its patch jobs; a failure stops nothing else.

    The points' launcher sets how many fine-tunes are trained together.

    Args:
        retry: kinds of failures to try again, if they happened before `began`.
        began: a time as `now` returns it; None means now.
        wait: keep waiting while other processes work, and take over what they abandon.
        poll: seconds between looks at other processes.
        stages: the stages to compute; patch jobs alone need finished fine-tunes.
        part: which of `parts` to do, where several tasks share the checkpoints of each patch job.
    """
    listener = listener or Listener()
    began = began or now()
    outcome = Outcome()
    stack = points[0].config.launcher.stack if points else 1

    def is_due(status: Status) -> bool:
        failed_before = status.state == "failed" and (status.finished or "") < began
        return status.state in PENDING or (failed_before and (status.failure or "error") in retry)

    def list_tasks() -> list[tuple[Task, Status]]:
        return list(_tasks(planning.make(points), part, parts))

    def is_ours(task: Task) -> bool:
        return task.stage in stages and task.id not in outcome.failed

    while True:
        ready = [task for task, status in list_tasks() if is_ours(task) and is_due(status)]
        if not any([_run_batch(tasks, outcome, listener) for tasks in _stacks(ready, stack)]):
            # Nothing was claimed in this round: the rest is done, failed, or with other processes.
            # Patch jobs alone wait for fine-tunes too.
            here = {*stages, "finetune"}
            running = [task for task, status in list_tasks() if task.stage in here and status.state == "running"]
            if not (running and wait):
                outcome.busy = running
                return outcome
            time.sleep(poll)


def _tasks(plan: planning.Plan, part: int, parts: int) -> Iterator[tuple[Task, Status]]:
    """Yields fine-tunes, and the patch jobs of finished ones."""
    for run_id, group in plan.points_by_run.items():
        needed = frozenset(planning.needed_steps(group, plan.patches))
        yield Task("finetune", group[0], needed), plan.runs[run_id]
        if plan.runs[run_id].state == "done":
            for point in group:
                status = plan.patches[point.patch_id] if parts == 1 else planning.part_status(point, part, parts)
                if parts > 1 and status.state == "done" and planning.is_to_be_ended(point):
                    status = replace(status, state="todo")
                yield Task("patch", point, part=part, parts=parts), status


def _stacks(tasks: Iterable[Task], size: int) -> Iterator[list[Task]]:
    """Groups fine-tunes that are trained together, at most `size` of them; everything else stays alone."""
    shapes: dict[str, list[Task]] = {}
    for number, task in enumerate(tasks):
        alone = size == 1 or task.stage != "finetune" or task.point.is_series
        shapes.setdefault(str(number) if alone else task.stack_key, []).append(task)
    for alike in shapes.values():
        yield from (alike[start : start + size] for start in range(0, len(alike), size))


def _run_batch(tasks: Sequence[Task], outcome: Outcome, listener: Listener) -> bool:
    """Does one task, or several fine-tunes together; False if other processes have claimed them all."""
    errors = [_run_one(tasks[0], listener)] if len(tasks) == 1 else _train_together(tasks, listener)
    for task, error in zip(tasks, errors, strict=True):
        if isinstance(error, Busy):
            continue
        if error is None:
            outcome.done.append(task)
        else:  # The error is recorded in the task's folder; the other points go on.
            outcome.failed[task.id] = (task, describe(error))
        listener.finished(task, describe(error) if error else None)
    return not all(isinstance(error, Busy) for error in errors)


def _run_one(task: Task, listener: Listener) -> Exception | None:
    """Does one task; returns its error."""
    run, examined = planning.folders_of(task.point)
    try:
        with listener.task(task) as on_step:
            if task.stage == "finetune":
                finetune(task.point.config, run, needed=task.needed, on_step=on_step)
            else:
                patch(task.point.config, run, examined, part=task.part, parts=task.parts, on_step=on_step)
    except Exception as error:
        return error
    return None


def _train_together(tasks: Sequence[Task], listener: Listener) -> list[Exception | None]:
    """Trains fine-tunes together; returns the error of each."""
    from mi_sweeps.training.stacked import train_together

    def turns(task: Task) -> Generator[TrainingState | None]:
        with listener.task(task) as on_step:
            run, _ = planning.folders_of(task.point)
            # Claiming waits a second for each folder that another process holds.
            if task.folder.status().state == "running":
                raise Busy(str(run.path))
            yield from training_turns(task.point.config, run, needed=task.needed, on_step=on_step)

    return train_together([turns(task) for task in tasks])
