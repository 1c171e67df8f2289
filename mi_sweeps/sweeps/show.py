"""Plans, states and progress for a terminal."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from mi_sweeps.store.folders import Status
from mi_sweeps.sweeps import plan as planning
from mi_sweeps.sweeps.execute import Listener, Task
from mi_sweeps.sweeps.plan import Plan

COLOURS = {
    "done": "green",
    "running": "cyan",
    "queued": "blue",
    "failed": "red",
    "interrupted": "yellow",
    "cancelled": "yellow",
}
STAGES = {"finetune": "fine-tune", "patch": "patch job"}
WAIT_SECONDS = 1.0
"""How often `wait` looks."""


def counted(counts: Counter[str]) -> str:
    """States and how many are in each: "3 done, 1 failed"."""
    known = ("done", "running", "queued", "failed", "to do")
    return ", ".join(f"{counts[state]} {state}" for state in known if counts[state]) or "none"


def summary(plan: Plan) -> str:
    """Fine-tunes and patch jobs by state, in one line."""
    runs, patches = plan.counts()
    return (
        f"{len(plan.runs)} {_plural('fine-tune', len(plan.runs))} ({counted(runs)}), "
        f"{len(plan.patches)} {_plural('patch job', len(plan.patches))} ({counted(patches)})"
    )


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def cell_table(plan: Plan) -> Table:
    """One row a cell: its choices, and where its fine-tune and its patch job are."""
    # A sweep may have been run in several parts, each with choices of its own.
    keys = list(dict.fromkeys([*(key for cell in plan.cells for key in cell.choices), "corruption"]))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in (*keys, "run", "fine-tune", "patch job"):
        # Ids are for copying, so they stay whole however narrow the terminal is.
        table.add_column(column, no_wrap=column not in keys, overflow="fold")
    for cell in plan.cells:
        run, patch = plan.runs[cell.run_id], plan.patches[cell.patch_id]
        run_folder, patch_folder = planning.folders_of(cell)
        config = cell.config
        table.add_row(
            *(escape(_value(config.dump(), key)) for key in keys),
            cell.run_id,
            _state(run, run_folder.path / "checkpoints", len(config.checkpoint_steps)),
            _state(patch, patch_folder.path / "tables", len(config.patch_steps)),
        )
    return table


def _value(values: Any, key: str) -> str:
    """What a configuration has for a key: a value, or the name of a group's choice."""
    for part in key.split("."):
        values = values.get(part, "") if isinstance(values, dict) else ""
    return str(values["name"] if isinstance(values, dict) and "name" in values else values)


def errors(plan: Plan) -> list[str]:
    """A line for everything that failed."""
    failed = [(f"fine-tune {run_id}", status) for run_id, status in plan.runs.items() if status.state == "failed"]
    failed += [
        (f"patch job {patch_id}", status) for patch_id, status in plan.patches.items() if status.state == "failed"
    ]
    return [f"{name}: {status.error}" for name, status in failed]


def _state(status: Status, parts: Path, total: int) -> str:
    colour = COLOURS.get(status.state, "dim")
    text: str = "to do" if status.state == "todo" else status.state
    if status.state == "done":
        text += f" {status.seconds:.0f} s"
    if status.state in ("running", "interrupted", "cancelled"):
        count = sum(1 for file in parts.glob("[0-9]*")) if parts.is_dir() else 0
        text += f" {count}/{total}"
    if status.attempts > 1:
        text += f" (attempt {status.attempts})"
    return f"[{colour}]{text}[/]"


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


class Bars(Listener):
    """Two bars: the sweep's tasks, and the steps of the one at hand. Without a terminal, a line for each task."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._progress = _progress(console)
        self._total = total
        self._ended = 0
        self._all = self._progress.add_task("sweep", total=total)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """While the bars are on the screen."""
        if not self._console.is_terminal:
            yield
            return
        with self._progress:
            yield

    @contextmanager
    def task(self, task: Task) -> Iterator[Callable[[int], None]]:
        """A bar for the task at hand."""
        name = f"{STAGES[task.stage]} {task.cell.label}"
        bar = self._progress.add_task(escape(name), total=task.steps)
        try:
            yield lambda step: self._progress.update(bar, completed=step)
        finally:
            self._progress.remove_task(bar)

    def finished(self, task: Task, error: str | None) -> None:
        """Moves the sweep's bar on."""
        self._ended += 1
        self._progress.update(self._all, completed=self._ended)
        name = f"{STAGES[task.stage]} {task.cell.label}"
        if error:
            self._console.print(f"[red]failed[/] {escape(name)}: {escape(error)}", soft_wrap=True)
        elif not self._console.is_terminal:
            self._console.print(f"{self._ended}/{self._total} {escape(name)}", soft_wrap=True)


def watch(console: Console, look: Callable[[], Plan], busy: Callable[[], bool], seconds: float = WAIT_SECONDS) -> Plan:
    """A bar over the states of a sweep until nobody works on it; gives the last look.

    Args:
        seconds: how often to look.
    """
    plan = look()
    with _progress(console) as progress:
        bar = progress.add_task("sweep", total=len(plan.runs) + len(plan.patches))
        while True:
            at_work = busy()
            plan = look()
            runs, patches = plan.counts()
            ended = sum(counts[state] for counts in (runs, patches) for state in ("done", "failed"))
            progress.update(bar, completed=ended)
            left = sum(counts[state] for counts in (runs, patches) for state in ("running", "queued"))
            if not (at_work or left):
                return plan
            time.sleep(seconds)
