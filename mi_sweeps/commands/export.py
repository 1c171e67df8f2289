"""`mi-sweeps export`."""

from __future__ import annotations

import argparse

from mi_sweeps import libraries, locations
from mi_sweeps.commands import common
from mi_sweeps.commands.common import DONE
from mi_sweeps.errors import UserError

HELP = "write tidy tables into DIR, one file per table"
WORDS = "DIR [SWEEP ...]"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--format", choices=("parquet", "csv"), default="parquet")
    parser.add_argument("--by-prompt", action="store_true", help="also values per prompt, which are much larger")
    parser.add_argument(
        "--circuits", choices=("mib",), help="instead, each checkpoint's scores as JSON in the MIB track's format"
    )


def run(options: argparse.Namespace) -> int:
    """`mi-sweeps export`."""
    libraries.calculate_alone()
    from mi_sweeps.analysis.export import export as write
    from mi_sweeps.analysis.export import exported, left_out
    from mi_sweeps.counting import counted

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
    if diverged := left_out(files):
        runs = f"{counted(len(diverged), 'run')} that diverged"
        console.print(f"tables of settings leave out {runs}: {', '.join(diverged)}", markup=False, soft_wrap=True)
    for file in before:
        if not file.exists():
            console.print(f"removed: {file.absolute()}, of an earlier export", markup=False, soft_wrap=True)
        elif file not in files:
            console.print(f"left: {file.absolute()}, which export did not write", markup=False, soft_wrap=True)
    return DONE
