"""`mi-sweeps sync`."""

from __future__ import annotations

import argparse

from mi_sweeps.commands import common

HELP = "upload what wandb wrote offline; needs a network"
WORDS = "SWEEP"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--dry-run", action="store_true", help="show what would be uploaded")


def run(options: argparse.Namespace) -> int:
    """`mi-sweeps sync`."""
    from mi_sweeps.tracking import sync as uploads

    return uploads.sync(common.console(), *common.sweeps(options), dry_run=options.dry_run)
