"""`mi-sweeps track`."""

from __future__ import annotations

import argparse

from mi_sweeps.commands import common

HELP = "mirror sweeps to wandb that were run without it"
WORDS = "SWEEP"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument("--mode", choices=("offline", "online"), default="offline", help="default: %(default)s")
    parser.add_argument("--project", metavar="NAME", help="default: the sweep's tracking.project")
    parser.add_argument("--entity", metavar="NAME", help="default: the sweep's tracking.entity")
    parser.add_argument("--again", action="store_true", help="also mirror again what wandb has already")


def run(options: argparse.Namespace) -> int:
    """`mi-sweeps track`."""
    from mi_sweeps.tracking import backfill

    asked = {key: getattr(options, key) for key in ("mode", "project", "entity", "again")}
    return backfill.track(common.console(), *common.sweeps(options), **asked)
