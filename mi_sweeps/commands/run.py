"""`mi-sweeps run`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mi_sweeps import libraries
from mi_sweeps.commands import common
from mi_sweeps.commands.common import DONE
from mi_sweeps.commands.plan import switched_off
from mi_sweeps.commands.waiting import closing, watch
from mi_sweeps.counting import counted
from mi_sweeps.errors import UserError
from mi_sweeps.hints import hint
from mi_sweeps.store.status import Failure

if TYPE_CHECKING:
    from rich.console import Console

    from mi_sweeps.sweeps.plan import Plan
    from mi_sweeps.sweeps.points import GridPoint

HELP = "compute what is missing: fine-tunes first, then their patch jobs"
WORDS = "KEY=VALUE"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    common.retry(parser)
    common.config_dir(parser)
    common.wait(parser)


def run(options: argparse.Namespace) -> int:
    """`mi-sweeps run`."""
    return carry_out(common.points(options), options.retry, options.wait, options.line)


def carry_out(points: Sequence[GridPoint], retry: tuple[Failure, ...], wait: bool, command: str) -> int:
    """Computes what is missing of some grid points, with their launcher; returns an exit code.

    Args:
        retry: kinds of failures to try again.
        wait: wait until all is done, whatever the launcher.
        command: the command line, for the sweep's file.
    """
    console, launcher = common.console(), points[0].config.launcher
    for line in switched_off(points):
        console.print(line, markup=False, soft_wrap=True)
    return LAUNCHERS[launcher.name](console, points, retry, wait or launcher.wait, command)


def _begin(
    console: Console, points: Sequence[GridPoint], retry: tuple[Failure, ...], command: str
) -> tuple[Plan, bool]:
    """Shows and checks the work on this machine, and writes the sweep's file.

    Returns:
        The plan, and whether there is anything to do.
    """
    from mi_sweeps.sweeps import changed, manifest, show
    from mi_sweeps.sweeps import plan as planning

    first = points[0].config
    name, output = first.sweep.name, first.output
    made = planning.make(points)
    console.print(f"sweep {name}: {show.summary(made)}", soft_wrap=True)
    for line in changed.lines(made):
        console.print(line, markup=False, soft_wrap=True)
    if not made.to_do(retry) and "running" not in {status.state for status in made.statuses}:
        manifest.add(output, name, points, command)
        return made, False

    from mi_sweeps.jobs import workers
    from mi_sweeps.sweeps import preflight

    libraries.ready(first.launcher.threads)
    for line in preflight.check(points):
        console.print(line, markup=False, soft_wrap=True)
    manifest.add(output, name, points, command)
    workers.forget_dead(output, name)
    return made, True


def _inline(console: Console, points: Sequence[GridPoint], retry: tuple[Failure, ...], wait: bool, command: str) -> int:
    """Computes in this process."""
    from mi_sweeps.jobs import progress, workers
    from mi_sweeps.jobs.execute import execute
    from mi_sweeps.sweeps import plan as planning

    config = points[0].config
    name, output = config.sweep.name, config.output
    made, is_to_do = _begin(console, points, retry, command)
    if not is_to_do:
        return closing(console, made, output, name, "nothing to do")
    bars = progress.Bars(console, made.to_do(retry), made, retry)
    with workers.registered(output, name, "inline"), bars.shown():
        outcome = execute(points, retry=retry, wait=wait, listener=bars)
    if outcome.busy:
        task = outcome.busy[0]
        who = task.folder.status_on_disk()
        more = f" and {len(outcome.busy) - 1} more" if outcome.busy[1:] else ""
        raise UserError(
            f"{task.folder.path}: process {who.pid} on {who.host} is working on this{more}; "
            f"the rest is done; wait with `{hint('wait', name, output)}` and run again"
        )
    return closing(console, planning.make(points), output, name, "done")


def _local(console: Console, points: Sequence[GridPoint], retry: tuple[Failure, ...], wait: bool, command: str) -> int:
    """Starts workers, which are processes of this machine."""
    from mi_sweeps.jobs import workers

    first = points[0].config
    name, output, launcher = first.sweep.name, first.output, first.launcher
    assert launcher.name == "local"
    made, is_to_do = _begin(console, points, retry, command)
    if not is_to_do:
        return closing(console, made, output, name, "nothing to do")
    pids = workers.submit(output, name, [point.patch_id for point in points], launcher, retry=retry)
    console.print(
        f"{counted(len(pids), 'worker')} started (process {', '.join(pids)}); see `{hint('status', name, output)}`",
        soft_wrap=True,
    )
    return closing(console, watch(console, output, name, points), output, name, "done") if wait else DONE


def _slurm(console: Console, points: Sequence[GridPoint], retry: tuple[Failure, ...], wait: bool, command: str) -> int:
    """Submits to a cluster. Its jobs audit the prompts, because a login node is for light work."""
    from mi_sweeps.jobs import workers
    from mi_sweeps.slurm import queue, steer, submissions
    from mi_sweeps.slurm import submit as slurm
    from mi_sweeps.sweeps import changed, manifest, show

    first = points[0].config
    if not queue.available():
        raise UserError("launcher=slurm: no sbatch on this machine; run it on a login node")
    name, output, launcher = first.sweep.name, first.output, first.launcher
    assert launcher.name == "slurm"
    with slurm.submitting(output):
        submission = submissions.new(output, name, retry)
        work = slurm.look(points, launcher, retry, submission.prefix)
        if work.too_many:
            raise UserError(work.too_many)
        if work.notice:
            console.print(work.notice, markup=False, soft_wrap=True)
        console.print(f"sweep {name}: {show.summary(work.plan)}", soft_wrap=True)
        for line in changed.lines(work.plan):
            console.print(line, markup=False, soft_wrap=True)
        manifest.add(output, name, points, command)
        workers.forget_dead(output, name)
        if work.arrays:
            for line in steer.requested(work.plan, work.arrays, launcher):
                console.print(line, markup=False, soft_wrap=True)
            submission = slurm.submit(submission, work.arrays, launcher)
            console.print(
                f"{steer.submitted(work.plan, submission)}; see `{hint('status', name, output)}`", soft_wrap=True
            )
    if wait:
        return closing(console, watch(console, output, name, points), output, name, "done")
    if work.arrays:
        return DONE
    if "queued" in (states := {status.state for status in work.plan.statuses}) or "running" in states:
        console.print(f"nothing to submit; `{hint('wait', name, output)}` waits", soft_wrap=True)
        return DONE
    return closing(console, work.plan, output, name, "nothing to do")


LAUNCHERS = {"inline": _inline, "local": _local, "slurm": _slurm}
"""By `launcher.name`. Each computes what is missing of some grid points and returns an exit code."""
