"""`mi-sweeps wait`."""

from __future__ import annotations

import argparse

from mi_sweeps.commands import common
from mi_sweeps.commands.common import DONE
from mi_sweeps.commands.waiting import closing, watch

HELP = "wait until nothing of a sweep is running any more; Ctrl-C stops waiting, not the work"
WORDS = "SWEEP"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Has no options."""


def run(options: argparse.Namespace) -> int:
    """`mi-sweeps wait`."""
    from mi_sweeps.sweeps import manifest

    output, chosen = common.sweeps(options)
    console = common.console()
    codes = [DONE]
    for name in chosen:
        points = [entry.point(output) for entry in manifest.load(output, name)]
        codes.append(closing(console, watch(console, output, name, points), output, name, f"{name} done"))
    return max(codes)
