"""`mi-sweeps doctor`."""

from __future__ import annotations

import argparse

from mi_sweeps.commands import common
from mi_sweeps.commands.common import DONE

HELP = "show what this machine has, and what is missing"
WORDS = "output=DIR"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Has no options."""


def run(options: argparse.Namespace) -> int:
    """`mi-sweeps doctor`."""
    from mi_sweeps.doctor import findings

    console, rows = common.console(), list(findings(common.output_of(options.words)))
    names, founds, advices = (max(map(len, column)) + 2 for column in zip(*rows, strict=True))
    fits = names + founds + advices <= console.width
    for name, found, advice in rows:
        if fits or not advice:
            console.print(f"{name:{names}}{found:{founds if advice else 0}}{advice}", soft_wrap=True)
        else:
            console.print(f"{name:{names}}{found}\n{'':{names}}{advice}", soft_wrap=True)
    return DONE
