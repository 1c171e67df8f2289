"""`mi-sweeps show`."""

from __future__ import annotations

import argparse

from mi_sweeps.commands import common
from mi_sweeps.commands.common import DONE
from mi_sweeps.errors import UserError

HELP = "draw one run: its win rate, its layers, its heads"
WORDS = "ID"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds its own."""
    parser.add_argument("--site", default="z", help="of the heads: z, q, k, v, pattern (default: %(default)s)")
    parser.add_argument("--step", type=int, metavar="N", help="the checkpoint of the heads (default: the last)")


def run(options: argparse.Namespace) -> int:
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
