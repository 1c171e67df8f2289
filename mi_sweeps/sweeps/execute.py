"""Computing the cells of a plan. Several processes may do so at once: whoever claims a folder first does its work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from mi_sweeps.jobs.finetune import finetune
from mi_sweeps.jobs.patch import patch
from mi_sweeps.store.folders import PENDING, Busy, Folder, Status, describe, now
from mi_sweeps.sweeps import plan as planning
from mi_sweeps.sweeps.cells import Cell

Stage = Literal["finetune", "patch"]

POLL_SECONDS = 0.5
"""How often a worker looks whether another one has finished what its own next cell needs."""


@dataclass(frozen=True)
class Task:
    """One fine-tune or one patch job."""

    stage: Stage
    cell: Cell
    needed: frozenset[int] = frozenset()
    """Checkpoints that a fine-tune's patch jobs still need."""

    @property
    def folder(self) -> Folder:
        return planning.folders_of(self.cell)[self.stage == "patch"]

    @property
    def id(self) -> str:
        """The run id or the patch id."""
        return self.cell.run_id if self.stage == "finetune" else self.cell.patch_id

    @property
    def steps(self) -> int:
        """How many steps its progress has: training steps or checkpoints."""
        config = self.cell.config
        return config.train.steps if self.stage == "finetune" else len(config.patch_steps)


@dataclass
class Outcome:
    """What came of an execution."""

    done: list[Task] = field(default_factory=list)
    failed: dict[str, tuple[Task, str]] = field(default_factory=dict)
    """By id: the task and its error in one line."""
    busy: list[Task] = field(default_factory=list)
    """Left alone, because another process works on them."""


class Listener:
    """Told what happens; the base class does nothing."""

    @contextmanager
    def task(self, task: Task) -> Iterator[Callable[[int], None]]:
        """Around a task; gives the function that is told the number of steps done."""
        yield lambda step: None

    def finished(self, task: Task, error: str | None) -> None:
        """A task ended; `error` is one line."""


def execute(
    cells: Sequence[Cell], *, retry: bool = False, wait: bool = False, listener: Listener | None = None
) -> Outcome:
    """Does what is missing, each fine-tune before its patch jobs; a failure stops nothing else.

    Args:
        retry: also what failed before this call.
        wait: stay until what other processes work on is done too, and take up what they leave.
    """
    listener = listener or Listener()
    began = now()
    outcome = Outcome()
    while True:
        ready = [task for task in _ready(cells, retry, began) if task.id not in outcome.failed]
        busy = [task for task in ready if not _do(task, outcome, listener)]
        if len(busy) == len(ready):
            # Nothing was claimed in this round: all that is left is done, failed, or in other hands.
            running = [task for task in _tasks(planning.make(cells)) if task.folder.status().state == "running"]
            if not (running and wait):
                outcome.busy = running
                return outcome
            time.sleep(POLL_SECONDS)


def _tasks(plan: planning.Plan) -> Iterator[Task]:
    for group in plan.cells_by_run.values():
        yield Task("finetune", group[0])
        yield from (Task("patch", cell) for cell in group)


def _ready(cells: Sequence[Cell], retry: bool, began: str) -> list[Task]:
    """What could be begun now: patch jobs once their fine-tune is done."""
    plan = planning.make(cells)

    def wanted(status: Status) -> bool:
        failed_before = status.state == "failed" and (status.finished or "") < began
        return status.state in PENDING or (retry and failed_before)

    ready = []
    for run_id, group in plan.cells_by_run.items():
        if wanted(plan.runs[run_id]):
            needed = frozenset(planning.needed_steps(group, plan.patches))
            ready.append(Task("finetune", group[0], needed))
        elif plan.runs[run_id].state == "done":
            ready += [Task("patch", cell) for cell in group if wanted(plan.patches[cell.patch_id])]
    return ready


def _do(task: Task, outcome: Outcome, listener: Listener) -> bool:
    """Does one task; False if another process has it."""
    run, examined = planning.folders_of(task.cell)
    try:
        with listener.task(task) as on_step:
            if task.stage == "finetune":
                finetune(task.cell.config, run, needed=task.needed, on_step=on_step)
            else:
                patch(task.cell.config, run, examined, on_step=on_step)
    except Busy:
        return False
    except Exception as error:  # Whatever it was, it is in the folder, and the other cells go on.
        outcome.failed[task.id] = (task, describe(error))
        listener.finished(task, describe(error))
        return True
    outcome.done.append(task)
    listener.finished(task, None)
    return True
