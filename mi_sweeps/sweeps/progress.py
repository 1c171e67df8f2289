"""Bars while a sweep is computed or waited for."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mi_sweeps.sweeps.execute import Listener, Task
from mi_sweeps.sweeps.plan import Plan

WAIT_SECONDS = 1.0
"""How often `wait` looks."""
WAIT_TIMES = 10
"""How many times as long as a look takes, `wait` waits at least: thousands of folders are not read all the time."""


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
        name = f"{task.name} {task.cell.label}"
        bar = self._progress.add_task(escape(name), total=task.steps)
        try:
            yield lambda step: self._progress.update(bar, completed=step)
        finally:
            self._progress.remove_task(bar)

    def finished(self, task: Task, error: str | None) -> None:
        """Moves the sweep's bar on."""
        self._ended += 1
        self._progress.update(self._all, completed=self._ended)
        name = f"{task.name} {task.cell.label}"
        if error:
            self._console.print(f"[red]failed[/] {escape(name)}: {escape(error)}", markup=True, soft_wrap=True)
        elif not self._console.is_terminal:
            self._console.print(f"{self._ended}/{self._total} {name}", markup=False, soft_wrap=True)


def watch(
    console: Console,
    look: Callable[[], Plan],
    busy: Callable[[], bool],
    *,
    seconds: float = WAIT_SECONDS,
    below: Callable[[Plan], Sequence[RenderableType]] = lambda plan: (),
) -> Plan:
    """A bar over the states of a sweep until nobody works on it; gives the last look.

    Args:
        seconds: how often to look at most.
        below: what else is shown.
    """

    def once() -> tuple[bool, Plan, float]:
        began = time.monotonic()
        at_work = busy()
        plan = look()
        return at_work, plan, time.monotonic() - began

    at_work, plan, took = once()
    progress = _progress(console)
    bar = progress.add_task("sweep", total=len(plan.statuses))
    try:
        with Live(Group(progress, *below(plan)), console=console, refresh_per_second=1) as screen:
            while True:
                states = Counter(status.state for status in plan.statuses)
                progress.update(bar, completed=states["done"] + states["failed"])
                screen.update(Group(progress, *below(plan)))
                # Asked again, for who answers may have learned from the look.
                if not (at_work or states["running"] or states["queued"] or busy()):
                    break
                time.sleep(max(seconds, WAIT_TIMES * took))
                at_work, plan, took = once()
    finally:
        if not console.is_interactive:
            console.print()  # Without a screen the last line is left open.
    return plan
