"""Progress bars while a sweep is computed or waited for."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Task as Bar
from rich.table import Column
from rich.text import Text

from mi_sweeps.jobs.execute import Listener, Task
from mi_sweeps.store.status import Failure
from mi_sweeps.sweeps import estimate
from mi_sweeps.sweeps.plan import Plan

WAIT_SECONDS = 1.0
"""How often `wait` looks."""
WAIT_TIMES = 10
"""`wait` pauses at least this many times as long as a look took, so that it does not read thousands of folders
constantly."""
OTHERS = 52
"""Columns taken by everything but the bar."""


class _TimeLeftColumn(ProgressColumn):
    """A column with the estimated time left."""

    def render(self, task: Bar) -> Text:
        """As `ProgressColumn.render`."""
        left: estimate.TimeLeft = task.fields["left"]() if "left" in task.fields else estimate.TimeLeft(None)
        if left.seconds is None:
            return Text("")
        seconds = round(left.seconds)
        more = "> " if left.unknown else ""
        return Text(f"{more}{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left", "cyan")


def bars(console: Console) -> Progress:
    """Makes progress bars; a task's field `left` is a function that estimates its time left."""
    # The description comes last and takes as many lines as it needs, so that no word is broken.
    return Progress(
        BarColumn(max(6, min(40, console.width - OTHERS - 24))),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        _TimeLeftColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.description}", markup=False, table_column=Column(ratio=1)),
        console=console,
        expand=console.is_terminal,
    )


def _sweep(left: estimate.TimeLeft) -> str:
    """Describes the bar of a sweep."""
    if not left.unknown:
        return "sweep"
    what = " and ".join(name if name.endswith("s") else f"{name}s" for name in left.unknown)
    return f"sweep; how long {what} take is not known yet"


class Bars(Listener):
    """Two bars: the sweep's tasks, and the steps of the current task. Without a terminal, a line for each task.

    Args:
        plan: for the estimate of the time left; without it none is shown.
    """

    def __init__(self, console: Console, total: int, plan: Plan | None = None, retry: Collection[Failure] = ()) -> None:
        self._console = console
        self._total = total
        self._ended = 0
        self._course = estimate.ProgressClock(plan or Plan((), {}, {}), retry)
        self._progress = bars(console)
        self._all = self._progress.add_task("sweep", total=total, left=self._course.left)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Shows the bars while inside."""
        if not self._console.is_terminal:
            yield
            return
        with self._progress:
            yield

    @contextmanager
    def task(self, task: Task) -> Iterator[Callable[[int], None]]:
        """Shows a bar for the current task."""
        self._course.begin(task.id, task.point, task.stage)
        bar = self._progress.add_task(task.name, total=task.steps, left=lambda: self._course.left(task.id))
        well = False

        def on_step(step: int) -> None:
            self._course.step(task.id, step)
            self._progress.update(bar, completed=step)
            self._progress.update(self._all, description=_sweep(self._course.left()))

        try:
            yield on_step
            well = True
        finally:
            self._course.end(task.id, well)
            self._progress.remove_task(bar)

    def finished(self, task: Task, error: str | None) -> None:
        """Advances the sweep's bar."""
        self._ended += 1
        self._progress.update(self._all, completed=self._ended, description=_sweep(self._course.left()))
        if error:
            self._console.print(f"[red]failed[/] {escape(task.name)}: {escape(error)}", markup=True, soft_wrap=True)
        elif not self._console.is_terminal:
            self._console.print(f"{self._ended}/{self._total} {task.name}", markup=False, soft_wrap=True)


def watch(
    console: Console,
    look: Callable[[], Plan],
    busy: Callable[[], bool],
    *,
    seconds: float = WAIT_SECONDS,
    estimated: bool = True,
    below: Callable[[Plan], Sequence[RenderableType]] = lambda plan: (),
) -> Plan:
    """Shows a sweep's progress until nobody works on it, and returns the last plan. Without a terminal, prints a line
    for each fine-tune and patch job that ends.

    Args:
        seconds: the shortest time between two looks.
        estimated: whether to estimate the time left; on a cluster it depends on the queue.
        below: further lines to show.
    """

    def once() -> tuple[bool, Plan, float]:
        began = time.monotonic()
        at_work = busy()
        plan = look()
        return at_work, plan, time.monotonic() - began

    at_work, plan, took = once()
    progress = bars(console)
    now = estimate.TimeLeft(None)
    bar = progress.add_task("sweep", total=len(plan.statuses), left=lambda: now)
    before = plan
    try:
        with Live(Group(progress, *below(plan)), console=console, refresh_per_second=1) as screen:
            while True:
                states = Counter(status.state for status in plan.statuses)
                now = estimate.of_plan(plan) if estimated and states["running"] else estimate.TimeLeft(None)
                progress.update(bar, completed=states["done"] + states["failed"], description=_sweep(now))
                screen.update(Group(progress, *below(plan)))
                if not console.is_terminal:
                    for line in _ended(before, plan):
                        console.print(line, soft_wrap=True)
                before = plan
                # `busy` is asked again, because its answer may depend on the look.
                if not (at_work or states["running"] or states["queued"] or busy()):
                    break
                time.sleep(max(seconds, WAIT_TIMES * took))
                at_work, plan, took = once()
    finally:
        if not console.is_interactive:
            console.print()  # Without a screen, rich leaves the last line open.
    return plan


def _ended(before: Plan, plan: Plan) -> Iterator[str]:
    """Yields a line for each fine-tune and patch job that ended between two looks."""
    over, total = ("done", "failed"), len(plan.statuses)
    count = sum(status.state in over for status in before.statuses)
    for id, point, stage, status in plan.each():
        was = before.runs.get(id) or before.patches[id]
        if status.state in over and was.state not in over:
            count += 1
            name = point.called(stage)
            yield f"failed {name}: {status.error}" if status.state == "failed" else f"{count}/{total} {name}"
