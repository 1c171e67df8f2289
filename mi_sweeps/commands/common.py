"""What commands share: where they print, and which cells and sweeps their words mean."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mi_sweeps.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from mi_sweeps.sweeps.cells import Cell

DONE, FAILED = 0, 1


def console() -> Console:
    """Where a command prints."""
    from rich.console import Console

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # "?" where a terminal has no such letter, and no traceback
    return Console(highlight=False)


def write(console: Console, lines: Iterable[str]) -> None:
    """Lines as they are; laying out thousands would take long."""
    console.file.writelines(f"{line}\n" for line in lines)


def cells(options: argparse.Namespace) -> list[Cell]:
    """The cells that Hydra overrides make.

    Raises:
        UserError: they are wrong.
    """
    from mi_sweeps.sweeps.grid import expand

    stray = [word for word in options.words if "=" not in word and not word.startswith(("~", "+"))]
    if stray:
        raise UserError(f"{stray[0]}: not KEY=VALUE; for example sweep={stray[0]}")
    return expand(options.words, options.config_dir)


def sweeps(options: argparse.Namespace) -> tuple[Path, list[str]]:
    """The folder of results and the sweeps that are meant: names, sweep=NAME, output=DIR; no name means all."""
    from mi_sweeps.sweeps import manifest

    output, chosen = Path("outputs"), []
    for word in options.words:
        key, equals, value = word.partition("=")
        if not equals:
            chosen.append(word)
        elif key == "output":
            output = Path(value)
        elif key == "sweep":
            chosen += value.split(",")
        else:
            raise UserError(f"{word}: this command takes sweep names and output=DIR")
    if not chosen:
        chosen = manifest.names(output)
        if not chosen:
            raise UserError(f"{output.absolute()}: no sweep was run into this folder; give another with output=DIR")
    for name in chosen:
        manifest.load(output, name)
    return output, chosen
