"""Shared by `run`, `wait` and `status`: waiting until nothing of a sweep is running, and the lines printed then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mi_sweeps.commands.common import DONE, FAILED
from mi_sweeps.hints import hint

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from mi_sweeps.sweeps.plan import Plan
    from mi_sweeps.sweeps.points import GridPoint


def watch(
    console: Console,
    output: Path,
    name: str,
    points: Sequence[GridPoint],
    below: Callable[[Plan], Sequence[RenderableType]] = lambda plan: (),
) -> Plan:
    """Waits until nothing of the sweep is running, with a bar and further lines `below` it; returns the last plan."""
    from mi_sweeps.jobs import progress, workers
    from mi_sweeps.slurm import queue, steer, submissions
    from mi_sweeps.sweeps import plan as planning

    on_cluster = bool(submissions.of_output(output))
    last: steer.PlanOnCluster | None = None

    def look() -> Plan:
        nonlocal last
        before = last.trouble if last else None
        last = steer.seen(planning.make(points), output)
        if last.trouble and last.trouble != before:
            console.print(f"{name}: {last.trouble}", markup=False, soft_wrap=True)
        return last.plan

    def busy() -> bool:
        # If the cluster does not answer, there may be jobs: keep waiting.
        unknown = last is not None and last.blind and queue.available()
        return bool(workers.alive(output, name)) or (unknown and not planning.make(points).is_done)

    try:
        return progress.watch(
            console,
            look,
            busy,
            seconds=steer.ASK_SECONDS if on_cluster else progress.WAIT_SECONDS,
            estimated=not on_cluster,
            below=below,
        )
    except KeyboardInterrupt:
        again, stop = hint("wait", name, output), hint("cancel", name, output)
        raise KeyboardInterrupt(
            f"stopped waiting, but the work goes on: `{again}` waits again, `{stop}` stops it"
        ) from None


def closing(console: Console, made: Plan, output: Path, name: str, word: str) -> int:
    """Prints the last lines of `run` and `wait`; returns the exit code."""
    from mi_sweeps.sweeps import show
    from mi_sweeps.tracking import unmirrored

    early = () if made.is_done else ended_early(output, name)
    for line in (*early, *unmirrored.lines(made, name, output)):
        console.print(line, markup=False, soft_wrap=True)
    failed = [status for status in made.statuses if status.state == "failed"]
    verb = "zoom" if show.is_zoom(made.points[0]) else "run"
    if failed:
        console.print(f"{word}, but {len(failed)} failed: {show.summary(made)}", soft_wrap=True)
        console.print(f"first error: {failed[0].error}", markup=False, soft_wrap=True)
        console.print(
            f"see `{hint('logs --failed', name, output)}`; try again with `mi-sweeps {verb} … --retry`",
            soft_wrap=True,
        )
        return FAILED
    if not made.is_done:
        console.print(f"not finished: {show.summary(made)}; `mi-sweeps {verb}` resumes it", soft_wrap=True)
        return FAILED
    console.print(f"{word}: {show.summary(made)}", soft_wrap=True)
    for line in show.zooms(made):
        console.print(line, soft_wrap=True)
    return DONE


def ended_early(output: Path, name: str) -> Iterator[str]:
    """Yields a line for each worker that ended before its work was done."""
    from mi_sweeps.jobs import workers

    for worker in workers.dead(output, name):
        who = f"process {worker.pid}" if worker.pid else "a worker"
        yield f"{who} on {worker.host} ended early: {worker.last_line}; see `{hint('logs', name, output)}`"
