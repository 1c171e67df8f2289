"""`mi-sweeps show`."""

from __future__ import annotations

import argparse

from mi_sweeps.commands import common
from mi_sweeps.commands.common import DONE
from mi_sweeps.errors import UserError

HELP = "draw one run in the terminal: its win rate, layers and heads"
WORDS = "ID"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--site", default="z", help="site of the heads: z, q, k, v, pattern (default: %(default)s)")
    parser.add_argument("--step", type=int, metavar="N", help="checkpoint for the heads (default: the last)")


def run(options: argparse.Namespace) -> int:
    """`mi-sweeps show`: one run, by its id or a prefix of it, or by the id of one of its patch jobs."""
    from mi_sweeps.analysis import terminal
    from mi_sweeps.analysis.folder import find

    id, stray = common.one_id(options.words, "show")
    if stray:
        raise UserError(f"{stray[0]}: show takes one id of a run or patch job, and output=DIR")
    output = common.output_of(options.words)
    found = find(output, id, options.damaged)
    terminal.show(common.console(), found, options.site, options.step, options.damaged)
    return DONE
