"""The commands that show what sweeps found: in the terminal, as a page, as tables, in wandb."""

from __future__ import annotations

import argparse
from collections import Counter

from mi_sweeps import locations
from mi_sweeps.commands import common
from mi_sweeps.commands.common import DONE
from mi_sweeps.errors import UserError


def show(options: argparse.Namespace) -> int:
    """`mi-sweeps show`: one run, by its id, the beginning of it, or the id of one of its patch jobs."""
    from mi_sweeps.analysis import terminal
    from mi_sweeps.analysis.folder import find

    id, stray = common.one_id(options.words, "show")
    if stray:
        raise UserError(f"{stray[0]}: show takes one id of a run or patch job, and output=DIR")
    output = common.output_of(options.words)
    found = find(output, id, options.damaged)
    terminal.show(common.console(), found, options.site, options.step, options.damaged)
    return DONE


def sync(options: argparse.Namespace) -> int:
    """`mi-sweeps sync`."""
    from mi_sweeps.tracking import sync as uploads

    return uploads.sync(common.console(), *common.sweeps(options), dry_run=options.dry_run)


def dashboard(options: argparse.Namespace) -> int:
    """`mi-sweeps dashboard`."""
    from mi_sweeps.tracking import dashboard as saved

    output, chosen = common.sweeps(options)
    if len(chosen) > 1:
        raise UserError(f"dashboard: it is of one sweep; give one of {', '.join(chosen)}")
    if options.to and not options.dry_run:
        raise UserError("--to: only a dry run is written to a file; give --dry-run, too")
    wanted = saved.Wanted(options.entity, options.project, options.baseline, options.band, options.report)
    if not options.dry_run:
        return saved.save(common.console(), output, chosen[0], wanted)
    text = saved.dry_run(output, chosen[0], wanted)
    if options.to:
        saved.write(options.to, text)
        common.console().print(f"dashboard: {options.to.absolute()}", soft_wrap=True)
    else:
        common.console().file.write(text)
    return DONE


def track(options: argparse.Namespace) -> int:
    """`mi-sweeps track`."""
    from mi_sweeps.tracking import backfill

    asked = {key: getattr(options, key) for key in ("mode", "project", "entity", "again")}
    return backfill.track(common.console(), *common.sweeps(options), **asked)


def report(options: argparse.Namespace) -> int:
    """`mi-sweeps report`."""
    from mi_sweeps.analysis.report import write_report
    from mi_sweeps.training.outcome import WORSE

    output, chosen = common.sweeps(options)
    worse: list[str] = []
    page = write_report(output, chosen, options.to, options.damaged, worse)
    console = common.console()
    if worse:
        console.print(f"{WORSE}: {len(worse)} ({', '.join(worse)})", soft_wrap=True)
    console.print(f"report: {page.absolute()}", soft_wrap=True)
    if options.figures:
        from mi_sweeps.analysis.figures import figures
        from mi_sweeps.analysis.frames import load

        with console.status("drawing"):
            # What is damaged was named for the page.
            files = figures(load(output, chosen, damaged=[]), options.figures, animate=not options.no_animations)
        counts = Counter(file.suffix[1:].upper() for file in files if file.stem != "figures")
        told = ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "nothing to draw yet"
        console.print(f"figures: {options.figures.absolute()} ({told})", soft_wrap=True)
        if counts["GIF"] and not counts["MP4"]:
            console.print("MP4 was left out: no ffmpeg on this machine")
    return DONE


def export(options: argparse.Namespace) -> int:
    """`mi-sweeps export`."""
    from mi_sweeps.analysis.export import export as write
    from mi_sweeps.analysis.export import exported

    if not options.words or "=" in options.words[0]:
        raise UserError("export: no folder given; for example `mi-sweeps export tables`")
    word = options.words.pop(0)
    try:
        directory = locations.local(word)
    except ValueError as error:
        raise UserError(f"export {word}: {error}") from None
    output, chosen = common.sweeps(options)
    console = common.console()
    if options.circuits:
        from mi_sweeps.analysis import mib

        for file in mib.export(output, directory, chosen, options.damaged):
            console.print(f"circuit: {file.absolute()}", markup=False, soft_wrap=True)
        return DONE
    before = exported(directory)
    files = write(
        output,
        directory,
        chosen,
        format=options.format,
        by_prompt=options.by_prompt,
        damaged=options.damaged,
    )
    for file in files:
        console.print(f"table: {file.absolute()}", markup=False, soft_wrap=True)
    for file in before:
        if not file.exists():
            console.print(f"removed: {file.absolute()}, of an earlier export", markup=False, soft_wrap=True)
        elif file not in files:
            console.print(f"left: {file.absolute()}, which is none of ours", markup=False, soft_wrap=True)
    return DONE
