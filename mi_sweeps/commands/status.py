"""`mi-sweeps status`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mi_sweeps.commands import common
from mi_sweeps.commands.common import DONE
from mi_sweeps.commands.waiting import ended_early, watch
from mi_sweeps.hints import hint

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mi_sweeps.sweeps.plan import Plan

HELP = "show the progress of sweeps, what is running and what failed"
WORDS = "SWEEP"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--points", action="store_true", help="every grid point with its ids and states")
    parser.add_argument("--watch", action="store_true", help="keep updating until nothing is running any more")


def run(options: argparse.Namespace) -> int:
    """`mi-sweeps status`."""
    from rich.text import Text

    from mi_sweeps.jobs import workers
    from mi_sweeps.slurm import steer
    from mi_sweeps.sweeps import manifest, show
    from mi_sweeps.sweeps import plan as planning
    from mi_sweeps.tracking import unmirrored

    output, chosen = common.sweeps(options)
    console = common.console()

    def report(name: str, made: Plan) -> Iterator[RenderableType]:
        yield Text.assemble((name, "bold"), f": {show.summary(made)}")
        if queued := steer.in_queue(made):
            yield f"  in the queue: {queued}"
        for worker in workers.alive(output, name):
            who = f"running: process {worker.pid}" if worker.pid else "starting: a process"
            yield f"  {who} on {worker.host} ({worker.launcher})"
        for line in () if made.is_done else ended_early(output, name):
            yield f"  {line}"
        yield from show.errors(made)
        yield from unmirrored.lines(made, name, output)
        points = show.noteworthy(made)
        if points:
            yield from show.point_table(made, points, console.width)
        if len(points) < len(made.points):
            some = (
                f"{len(points) or 'none'} of {len(made.points)} grid points: those running, then those that went wrong"
            )
            yield f"{some}; for all: `{hint('status --points', name, output)}`"

    for name in chosen:
        points = [entry.point(output) for entry in manifest.load(output, name)]
        if options.watch:
            watch(console, output, name, points, below=lambda made, name=name: list(report(name, made)))  # type: ignore[misc]
            continue
        seen = steer.seen(planning.make(points), output)
        made = seen.plan
        if seen.trouble:
            console.print(f"{name}: {seen.trouble}", markup=False, soft_wrap=True)
        if options.points:
            common.write(console, show.point_lines(made))
            continue
        for part in report(name, made):
            console.print(part, soft_wrap=isinstance(part, (str, Text)))
    return DONE
