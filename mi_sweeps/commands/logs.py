"""`mi-sweeps logs`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mi_sweeps.commands import common
from mi_sweeps.commands.common import DONE
from mi_sweeps.errors import UserError
from mi_sweeps.hints import hint

if TYPE_CHECKING:
    from mi_sweeps.sweeps.points import GridPoint

HELP = "print the end of each log, and the traceback of what failed"
WORDS = "SWEEP|ID"
TAIL_LINES = 20


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--failed", action="store_true", help="only what failed")
    parser.add_argument(
        "--lines", type=common.count, default=TAIL_LINES, metavar="N", help="lines of each log (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    """`mi-sweeps logs`: of sweeps, or of runs and patch jobs by id."""
    from rich.text import Text

    from mi_sweeps.jobs import workers
    from mi_sweeps.slurm import states, steer, submissions
    from mi_sweeps.store.folders import Folder
    from mi_sweeps.sweeps import manifest, show
    from mi_sweeps.sweeps import plan as planning

    words = list(options.words)
    options.words = [word for word in words if "=" in word]
    output, every = common.sweeps(options)
    named = [word for word in words if "=" not in word]
    entries = {name: manifest.load(output, name) for name in every}
    wanted: dict[str, tuple[str, Folder]] = {}
    chosen: dict[str, GridPoint] = {}
    kind: str
    folder: Folder
    for name, points in entries.items():
        for entry in points:
            point = entry.point(output)
            run, patch = planning.folders_of(point)
            for kind, folder, own in ((point.run_name, run, entry.run_id), ("patch job", patch, entry.patch_id)):
                if not named or {name, entry.run_id, own} & set(named):
                    wanted[own] = (f"{kind} {own}", folder)
                    chosen[entry.patch_id] = point
    if named and not wanted:
        raise UserError(
            f"{named[0]}: no sweep, run or patch job of that name in {output}; "
            f"`{hint('status --points', '', output)}` lists them"
        )
    console = common.console()
    seen = steer.seen(planning.make(list(chosen.values())), output)
    if seen.trouble:
        console.print(seen.trouble, markup=False, soft_wrap=True)
    try:
        places = states.places(submissions.of_output(output))
    except UserError:  # Reported above.
        places = {}
    every_status = {**seen.plan.runs, **seen.plan.patches}
    printed: set[Path] = set()
    silent = True
    for own, (title, folder) in wanted.items():
        status = every_status[own]
        if options.failed and status.state != "failed":
            continue
        logged = planning.logged(folder)
        # Work that SLURM ended has no traceback, but its job's output.
        jobs = [Path(place.log) for place in places.get(own, ()) if place.log in (status.error or "")]
        if jobs or logged or status.state == "failed":
            silent = False
        if status.state == "failed" and (jobs or not logged):
            console.print(f"{title} failed: {status.error}", markup=False, soft_wrap=True)
        tails: list[tuple[Path, Path | None]] = [(one.log_file, one.error_file) for one in logged]
        # All points of a task share its output.
        tails += [(log, None) for log in jobs if log.exists() and log not in printed]
        printed.update(jobs)
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
        console.print(
            f"nothing {'failed' if options.failed else 'was logged'}: {show.summary(seen.plan)}", soft_wrap=True
        )
    return DONE
