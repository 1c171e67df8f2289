"""`mi-sweeps dashboard`."""

from __future__ import annotations

import argparse

from mi_sweeps.commands import common
from mi_sweeps.commands.common import DONE
from mi_sweeps.errors import UserError

HELP = "make or update a sweep's saved workspace in wandb"
WORDS = "SWEEP"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--entity", metavar="NAME", help="user or team (default: the sweep's, or the login's)")
    parser.add_argument("--project", metavar="NAME", help="default: the sweep's tracking.project")
    parser.add_argument("--baseline", metavar="RUN_ID", help="the run to compare the others with")
    parser.add_argument(
        "--band",
        choices=("minmax", "stddev", "stderr"),
        default="minmax",
        help="the band around a mean over runs (default: %(default)s)",
    )
    parser.add_argument("--report", action="store_true", help="make or update a report, too")
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be saved as JSON, without login or network"
    )
    parser.add_argument("--to", type=common.place, metavar="FILE", help="where a dry run is written")


def run(options: argparse.Namespace) -> int:
    """`mi-sweeps dashboard`."""
    from mi_sweeps.tracking import dashboard as saved

    output, chosen = common.sweeps(options)
    if len(chosen) > 1:
        raise UserError(f"dashboard: takes one sweep; give one of {', '.join(chosen)}")
    if options.to and not options.dry_run:
        raise UserError("--to: only a dry run is written to a file; give --dry-run too")
    wanted = saved.DashboardOptions(options.entity, options.project, options.baseline, options.band, options.report)
    if not options.dry_run:
        return saved.save(common.console(), output, chosen[0], wanted)
    text = saved.dry_run(output, chosen[0], wanted)
    if options.to:
        saved.write(options.to, text)
        common.console().print(f"dashboard: {options.to.absolute()}", soft_wrap=True)
    else:
        common.console().file.write(text)
    return DONE
