"""The commands that run sweeps, and look at how far they are."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mi_sweeps import libraries
from mi_sweeps.commands import common
from mi_sweeps.commands.common import DONE, FAILED
from mi_sweeps.errors import UserError
from mi_sweeps.hints import hint
from mi_sweeps.store.folders import Failure, run_folder

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from mi_sweeps.sweeps.cells import Cell
    from mi_sweeps.sweeps.plan import Plan


def plan(options: argparse.Namespace) -> int:
    """`mi-sweeps plan`."""
    from mi_sweeps.models import architectures
    from mi_sweeps.sweeps import changed, costs, memory, show
    from mi_sweeps.sweeps import plan as planning

    cells = common.cells(options)
    console = common.console()
    if options.config:
        from omegaconf import OmegaConf

        console.print(OmegaConf.to_yaml(OmegaConf.create(cells[0].config.dump())), markup=False, end="")
        return DONE
    first = cells[0].config
    console.print(
        f"sweep {first.sweep.name} in {first.output.absolute()}, launcher {first.launcher.name}", soft_wrap=True
    )
    asked: list[str] = []
    if first.launcher.name == "slurm":
        from mi_sweeps.slurm import steer, submit

        try:
            work = submit.look(cells, first.launcher, options.retry)
        except UserError as error:
            console.print(f"{error}; shown is what the folders say", markup=False, soft_wrap=True)
            work = submit.look(cells, first.launcher, options.retry, ask=False)
        if work.notice:
            console.print(work.notice, markup=False, soft_wrap=True)
        made, asked = work.plan, list(steer.asked(work.plan, work.arrays, first.launcher))
        if work.too_many:
            asked.append(f"warning: {work.too_many}")
    else:
        made = planning.make(cells)
    for line in _switched_off(cells):
        console.print(line, markup=False, soft_wrap=True)
    for line in show.axes(cells):
        console.print(f"  {line}", markup=False, soft_wrap=True)
    for line in (*show.schedules(cells), *architectures.told(cells), *memory.told(cells), *costs.told(cells)):
        console.print(f"  {line}", markup=False, soft_wrap=True)
    console.print(show.summary(made), soft_wrap=True)
    for line in (*changed.lines(made), *asked):
        console.print(line, markup=False, soft_wrap=True)
    if options.cells:
        common.write(console, show.cell_lines(made))
    return DONE


def run(options: argparse.Namespace) -> int:
    """`mi-sweeps run`."""
    return carry_out(common.cells(options), options.retry, options.wait, options.line)


def zoom(options: argparse.Namespace) -> int:
    """`mi-sweeps zoom`."""
    from mi_sweeps.analysis.folder import find
    from mi_sweeps.sweeps import early
    from mi_sweeps.sweeps import zoom as zooming

    output, (id, words) = common.output_of(options.words), common.one_id(options.words, "zoom")
    (found,) = find(output, id, options.damaged).runs
    cells = zooming.cells(run_folder(output, found.run_id), output, words)
    early.check(cells)
    return carry_out(cells, options.retry, options.wait, options.line)


def carry_out(cells: Sequence[Cell], retry: tuple[Failure, ...], wait: bool, command: str) -> int:
    """Does what is missing of some cells, by their launcher; gives an exit code.

    Args:
        retry: kinds of failures that are taken up again.
        wait: stay where the launcher would return.
        command: for the sweep's file.
    """
    from mi_sweeps.sweeps import changed, manifest, show
    from mi_sweeps.sweeps import plan as planning

    first = cells[0].config
    name, output = first.sweep.name, first.output
    console = common.console()
    for line in _switched_off(cells):
        console.print(line, markup=False, soft_wrap=True)
    if first.launcher.name == "slurm":
        return _submit(console, cells, retry, wait, command)
    made = planning.make(cells)
    console.print(f"sweep {name}: {show.summary(made)}", soft_wrap=True)
    for line in changed.lines(made):
        console.print(line, markup=False, soft_wrap=True)
    if not made.to_do(retry) and "running" not in {status.state for status in made.statuses}:
        manifest.add(output, name, cells, command)
        return _closing(console, made, output, name, "nothing to do")

    from mi_sweeps.sweeps import preflight, workers

    libraries.ready(first.launcher.threads)
    for line in preflight.check(cells):
        console.print(line, markup=False, soft_wrap=True)
    manifest.add(output, name, cells, command)
    workers.forget_dead(output, name)
    if first.launcher.name == "local":
        pids = workers.submit(output, name, [cell.patch_id for cell in cells], first.launcher, retry=retry)
        console.print(
            f"{len(pids)} workers started (process {', '.join(pids)}); `{hint('status', name, output)}` looks",
            soft_wrap=True,
        )
        if not (wait or first.launcher.wait):
            return DONE
        return _closing(console, _watch(console, output, name, cells), output, name, "done")
    return _run_here(console, cells, made, retry, wait)


def _switched_off(cells: Sequence[Cell]) -> Iterator[str]:
    """A line where wandb is asked for and the environment forbids it."""
    from mi_sweeps.tracking import unmirrored

    if unmirrored.switched_off() and cells[0].values["tracking"]["mode"] != "disabled":
        yield f"{unmirrored.OFF}: nothing is mirrored to wandb; `mi-sweeps track` does it later"


def _submit(console: Console, cells: Sequence[Cell], retry: tuple[Failure, ...], wait: bool, command: str) -> int:
    """To a cluster. Prompts are audited by the jobs: a login node is for light work."""
    from mi_sweeps.slurm import queue, steer, submissions
    from mi_sweeps.slurm import submit as slurm
    from mi_sweeps.sweeps import changed, manifest, show, workers

    first = cells[0].config
    if not queue.available():
        raise UserError("launcher=slurm: no sbatch on this machine; run it where jobs are submitted")
    name, output, launcher = first.sweep.name, first.output, first.launcher
    assert launcher.name == "slurm"
    with slurm.submitting(output):
        submission = submissions.new(output, name, retry)
        work = slurm.look(cells, launcher, retry, submission.prefix)
        if work.too_many:
            raise UserError(work.too_many)
        if work.notice:
            console.print(work.notice, markup=False, soft_wrap=True)
        console.print(f"sweep {name}: {show.summary(work.plan)}", soft_wrap=True)
        for line in changed.lines(work.plan):
            console.print(line, markup=False, soft_wrap=True)
        manifest.add(output, name, cells, command)
        workers.forget_dead(output, name)
        if work.arrays:
            for line in steer.asked(work.plan, work.arrays, launcher):
                console.print(line, markup=False, soft_wrap=True)
            submission = slurm.submit(submission, work.arrays, launcher)
            console.print(
                f"{steer.submitted(work.plan, submission)}; `{hint('status', name, output)}` looks", soft_wrap=True
            )
    if wait or launcher.wait:
        return _closing(console, _watch(console, output, name, cells), output, name, "done")
    if work.arrays:
        return DONE
    if "queued" in (states := {status.state for status in work.plan.statuses}) or "running" in states:
        console.print(f"nothing to submit; `{hint('wait', name, output)}` waits", soft_wrap=True)
        return DONE
    return _closing(console, work.plan, output, name, "nothing to do")


def _run_here(console: Console, cells: Sequence[Cell], made: Plan, retry: tuple[Failure, ...], wait: bool) -> int:
    from mi_sweeps.sweeps import plan as planning
    from mi_sweeps.sweeps import progress, workers
    from mi_sweeps.sweeps.execute import execute

    config = cells[0].config
    bars = progress.Bars(console, made.to_do(retry))
    with workers.registered(config.output, config.sweep.name, "inline"), bars.shown():
        outcome = execute(cells, retry=retry, wait=wait or config.launcher.wait, listener=bars)
    if outcome.busy:
        task = outcome.busy[0]
        who = task.folder.status_on_disk()
        more = f" and {len(outcome.busy) - 1} more" if outcome.busy[1:] else ""
        raise UserError(
            f"{task.folder.path}: process {who.pid} on {who.host} works on this{more}; "
            f"all others are done; wait with `{hint('wait', config.sweep.name, config.output)}` and run again"
        )
    return _closing(console, planning.make(cells), config.output, config.sweep.name, "done")


def _watch(
    console: Console,
    output: Path,
    name: str,
    cells: Sequence[Cell],
    below: Callable[[Plan], Sequence[RenderableType]] = lambda plan: (),
) -> Plan:
    """Looks until nobody works on the sweep any more; `below` is what is shown below a bar."""
    from mi_sweeps.slurm import queue, steer, submissions
    from mi_sweeps.sweeps import plan as planning
    from mi_sweeps.sweeps import progress, workers

    on_cluster = bool(submissions.of_output(output))
    last: steer.Seen | None = None

    def look() -> Plan:
        nonlocal last
        before = last.trouble if last else None
        last = steer.seen(planning.make(cells), output)
        if last.trouble and last.trouble != before:
            console.print(f"{name}: {last.trouble}", markup=False, soft_wrap=True)
        return last.plan

    def busy() -> bool:
        # A controller that does not answer is restarted now and then.
        unknown = last is not None and last.blind and queue.available()
        return bool(workers.alive(output, name)) or (unknown and not planning.make(cells).is_done)

    try:
        return progress.watch(
            console,
            look,
            busy,
            seconds=steer.ASK_SECONDS if on_cluster else progress.WAIT_SECONDS,
            below=below,
        )
    except KeyboardInterrupt:
        again, stop = hint("wait", name, output), hint("cancel", name, output)
        raise KeyboardInterrupt(
            f"no longer waiting, the work goes on: `{again}` waits again, `{stop}` ends it"
        ) from None


def _closing(console: Console, made: Plan, output: Path, name: str, word: str) -> int:
    """The last lines of `run` and `wait`, and the exit code."""
    from mi_sweeps.sweeps import show
    from mi_sweeps.tracking import unmirrored

    ended_early = () if made.is_done else _ended_early(output, name)
    for line in (*ended_early, *unmirrored.told(made, name, output)):
        console.print(line, markup=False, soft_wrap=True)
    failed = [status for status in made.statuses if status.state == "failed"]
    verb = "zoom" if show.is_zoom(made.cells[0]) else "run"
    if failed:
        console.print(f"{word}, but {len(failed)} failed: {show.summary(made)}", soft_wrap=True)
        console.print(f"first error: {failed[0].error}", markup=False, soft_wrap=True)
        console.print(
            f"look with `{hint('logs --failed', name, output)}`, try again with `mi-sweeps {verb} … --retry`",
            soft_wrap=True,
        )
        return FAILED
    if not made.is_done:
        console.print(f"not finished: {show.summary(made)}; `mi-sweeps {verb}` goes on", soft_wrap=True)
        return FAILED
    console.print(f"{word}: {show.summary(made)}", soft_wrap=True)
    for line in show.zooms(made):
        console.print(line, soft_wrap=True)
    return DONE


def _ended_early(output: Path, name: str) -> Iterator[str]:
    """A line for each worker that is gone and has not done its work."""
    from mi_sweeps.sweeps import workers

    for worker in workers.dead(output, name):
        who = f"process {worker.pid}" if worker.pid else "a worker"
        yield f"{who} on {worker.host} ended early: {worker.last_line}; see `{hint('logs', name, output)}`"


def status(options: argparse.Namespace) -> int:
    """`mi-sweeps status`."""
    from rich.text import Text

    from mi_sweeps.slurm import steer
    from mi_sweeps.sweeps import manifest, show, workers
    from mi_sweeps.sweeps import plan as planning
    from mi_sweeps.tracking import unmirrored

    output, chosen = common.sweeps(options)
    console = common.console()

    def told(name: str, made: Plan) -> Iterator[RenderableType]:
        yield Text.assemble((name, "bold"), f": {show.summary(made)}")
        if queued := steer.in_queue(made):
            yield f"  in the queue: {queued}"
        for worker in workers.alive(output, name):
            who = f"at work: process {worker.pid}" if worker.pid else "starting: a process"
            yield f"  {who} on {worker.host} ({worker.launcher})"
        for line in () if made.is_done else _ended_early(output, name):
            yield f"  {line}"
        yield from show.errors(made)
        yield from unmirrored.told(made, name, output)
        cells = show.noteworthy(made)
        if cells:
            yield from show.cell_table(made, cells, console.width)
        if len(cells) < len(made.cells):
            some = f"{len(cells) or 'none'} of {len(made.cells)} cells: those at work, then those that went wrong"
            yield f"{some}; all: `{hint('status --cells', name, output)}`"

    for name in chosen:
        cells = [entry.cell(output) for entry in manifest.load(output, name)]
        if options.watch:
            _watch(console, output, name, cells, below=lambda made, name=name: list(told(name, made)))  # type: ignore[misc]
            continue
        seen = steer.seen(planning.make(cells), output)
        made = seen.plan
        if seen.trouble:
            console.print(f"{name}: {seen.trouble}", markup=False, soft_wrap=True)
        if options.cells:
            common.write(console, show.cell_lines(made))
            continue
        for part in told(name, made):
            console.print(part, soft_wrap=isinstance(part, (str, Text)))
    return DONE


def wait(options: argparse.Namespace) -> int:
    """`mi-sweeps wait`."""
    from mi_sweeps.sweeps import manifest

    output, chosen = common.sweeps(options)
    console = common.console()
    codes = [DONE]
    for name in chosen:
        cells = [entry.cell(output) for entry in manifest.load(output, name)]
        codes.append(_closing(console, _watch(console, output, name, cells), output, name, f"{name} done"))
    return max(codes)


def cancel(options: argparse.Namespace) -> int:
    """`mi-sweeps cancel`."""
    from mi_sweeps.slurm import steer, submissions
    from mi_sweeps.sweeps import workers

    output, chosen = common.sweeps(options)
    console = common.console()
    code = DONE
    errors: dict[str, list[str]] = {}
    for name in chosen:
        # First what needs no controller, and one that does not answer keeps nothing else at work.
        early = any(worker.pid is None for worker in workers.alive(output, name))
        stopped, left = workers.cancel(output, name)
        on_cluster = True
        try:
            on_cluster = bool(submissions.of_sweep(output, name))
            if on_cluster and not steer.cancel(console, output, name):
                code = FAILED
        except UserError as error:
            errors.setdefault(str(error), []).append(name)
        if on_cluster and not (early or stopped or left):
            continue
        nobody = "what was starting is called off" if early else "nobody works on it here"
        console.print(f"{name}: {len(stopped)} processes stopped" if stopped else f"{name}: {nobody}")
        for worker in left:
            code = FAILED
            console.print(f"  still at work: process {worker.pid} on {worker.host}; cancel it there")
    if errors:
        raise UserError("; ".join(f"{', '.join(names)}: {error}" for error, names in errors.items()))
    return code


def logs(options: argparse.Namespace) -> int:
    """`mi-sweeps logs`: of sweeps, or of single runs and patch jobs by id."""
    from rich.text import Text

    from mi_sweeps.slurm import states, steer, submissions
    from mi_sweeps.store.folders import Folder
    from mi_sweeps.sweeps import manifest, show, workers
    from mi_sweeps.sweeps import plan as planning

    words = list(options.words)
    options.words = [word for word in words if "=" in word]
    output, every = common.sweeps(options)
    named = [word for word in words if "=" not in word]
    entries = {name: manifest.load(output, name) for name in every}
    wanted: dict[str, tuple[str, Folder]] = {}
    chosen: dict[str, Cell] = {}
    kind: str
    folder: Folder
    for name, cells in entries.items():
        for entry in cells:
            cell = entry.cell(output)
            run, patch = planning.folders_of(cell)
            for kind, folder, own in ((cell.run_name, run, entry.run_id), ("patch job", patch, entry.patch_id)):
                if not named or {name, entry.run_id, own} & set(named):
                    wanted[own] = (f"{kind} {own}", folder)
                    chosen[entry.patch_id] = cell
    if named and not wanted:
        raise UserError(
            f"{named[0]}: no sweep, run or patch job of that name in {output}; "
            f"`{hint('status --cells', '', output)}` lists them"
        )
    console = common.console()
    seen = steer.seen(planning.make(list(chosen.values())), output)
    if seen.trouble:
        console.print(seen.trouble, markup=False, soft_wrap=True)
    try:
        places = states.places(submissions.of_output(output))
    except UserError:  # Told above.
        places = {}
    every_status = {**seen.plan.runs, **seen.plan.patches}
    told: set[Path] = set()
    silent = True
    for own, (title, folder) in wanted.items():
        status = every_status[own]
        if options.failed and status.state != "failed":
            continue
        logged = planning.logged(folder)
        # What SLURM ended has no traceback, but the output of its job.
        jobs = [Path(place.log) for place in places.get(own, ()) if place.log in (status.error or "")]
        if jobs or logged or status.state == "failed":
            silent = False
        if status.state == "failed" and (jobs or not logged):
            console.print(f"{title} failed: {status.error}", markup=False, soft_wrap=True)
        tails: list[tuple[Path, Path | None]] = [(one.log_file, one.error_file) for one in logged]
        # All cells of a task have the same.
        tails += [(log, None) for log in jobs if log.exists() and log not in told]
        told.update(jobs)
        for log, error in tails:
            console.print(Text.assemble((title, "bold"), f" {status.state} {log}"), soft_wrap=True)
            lines = log.read_text(errors="replace").splitlines()
            lines = lines[max(0, len(lines) - options.lines) :]
            if status.state == "failed" and error and error.exists():
                lines += error.read_text(errors="replace").splitlines()
            if lines:
                console.print("\n".join(lines), markup=False, soft_wrap=True)
    for name in every:
        for worker in workers.dead(output, name) if not named or name in named else ():
            silent = False
            log = Path(worker.log or "")
            console.print(Text.assemble((f"worker of {name}", "bold"), f" ended early {log}"), soft_wrap=True)
            lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
            lines = lines[max(0, len(lines) - options.lines) :]
            console.print("\n".join(lines or [worker.last_line]), markup=False, soft_wrap=True)
    if silent:
        console.print(f"nothing {'failed' if options.failed else 'was logged'}: {show.summary(seen.plan)}")
    return DONE


def doctor(options: argparse.Namespace) -> int:
    """`mi-sweeps doctor`."""
    from rich.table import Table

    from mi_sweeps.doctor import findings

    output = common.output_of(options.words)
    table = Table(box=None, pad_edge=False)
    for column in ("", "found", "advice"):
        table.add_column(column, overflow="fold")
    for row in findings(output):
        table.add_row(*row)
    common.console().print(table)
    return DONE
