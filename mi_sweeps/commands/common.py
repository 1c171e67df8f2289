"""What commands share: where they print, and which points and sweeps their words mean."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, get_args

from mi_sweeps import locations
from mi_sweeps.errors import UserError
from mi_sweeps.store.status import Failure

if TYPE_CHECKING:
    from rich.console import Console

    from mi_sweeps.sweeps.points import GridPoint

DONE, FAILED = 0, 1


class Output:
    """Standard output that may fail without stopping work: from then on what a command prints is lost.

    It is full, or whoever read it has ended, as `head` does."""

    def __init__(self, file: IO[str] | None) -> None:
        if isinstance(file, io.TextIOWrapper):
            file.reconfigure(errors="replace")  # "?" where a terminal has no such letter, and no traceback
        # None: the shell has closed it.
        self._file = Path(os.devnull).open("w") if file is None else file  # noqa: SIM115
        self.error: OSError | None = None
        """How it failed first."""

    def write(self, text: str) -> int:
        """As of any file."""
        with self._without_failing():
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        """As of any file."""
        with self._without_failing():
            self._file.flush()

    @contextmanager
    def _without_failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = self.error or error
            with suppress(OSError):  # What is in the buffer would fail again where Python ends.
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._file.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def console() -> Console:
    """Where a command prints."""
    from mi_sweeps.lines import WIDE, Lines

    is_notebook = Lines().is_jupyter
    # A notebook is printed to as a file is: else each line is an output of its own, and a bar that moves is hundreds.
    terminal = False if is_notebook else None
    # Nobody knows how wide what reads a pipe is, and a line of its own is what tools read best.
    piped = not (sys.stdout.isatty() or is_notebook or "COLUMNS" in os.environ)
    # Names and folders are printed as they are: [x] is no markup in them, and :fire: no picture.
    return Lines(
        highlight=False,
        markup=False,
        emoji=False,
        force_jupyter=False,
        force_terminal=terminal,
        width=WIDE if piped else None,
    )


def write(console: Console, lines: Iterable[str]) -> None:
    """Lines as they are; laying out thousands would take long."""
    from mi_sweeps.lines import at_words

    if console.is_terminal:
        lines = (part for line in lines for part in at_words(line, console.width))
    console.file.write("".join(f"{line}\n" for line in lines))


def points(options: argparse.Namespace) -> list[GridPoint]:
    """The points that a command's words make."""
    from mi_sweeps.sweeps.quick_checks import without_effect

    made = points_of(options.words, options.config_dir)
    if keys := without_effect(made, options.words):
        told = f"{', '.join(keys)}: of training, and a series is trained already; nothing changes by it"
        print(f"warning: {told}", file=sys.stderr)  # noqa: T201
    return made


def points_of(words: Sequence[str], config_dir: Path | None) -> list[GridPoint]:
    """The points that Hydra overrides make.

    Raises:
        UserError: they are wrong.
    """
    from mi_sweeps.sweeps import quick_checks
    from mi_sweeps.sweeps.grid import expand

    stray = [word for word in words if "=" not in word and not word.startswith(("~", "+"))]
    if stray:
        raise UserError(f"{stray[0]}: not KEY=VALUE; for example sweep={stray[0]}")
    made = expand(words, config_dir)
    quick_checks.check(made)
    return made


def output_of(words: Iterable[str]) -> Path:
    """The folder of results that output=DIR among some words means, absolute; without it ./outputs.

    Raises:
        UserError: it means none on this machine.
    """
    given = [word.removeprefix("output=") for word in words if word.startswith("output=")]
    return locations.output(given[-1] if given else locations.DEFAULT)


def one_id(words: Sequence[str], command: str) -> tuple[str, list[str]]:
    """The one word that is the id of a run or patch job, and all that are KEY=VALUE but output=DIR.

    Raises:
        UserError: there is none, or more than one.
    """
    ids = [word for word in words if "=" not in word]
    if len(ids) != 1:
        raise UserError(f"{command}: give one id of a run or patch job; `mi-sweeps status --points` lists ids")
    return ids[0], [word for word in words if "=" in word and not word.startswith("output=")]


def sweeps(options: argparse.Namespace) -> tuple[Path, list[str]]:
    """The folder of results and the sweeps that are meant: names, sweep=NAME, output=DIR; no name means all that can be
    read.

    Raises:
        UserError: a sweep that was named is not there, or cannot be read; or there is none.
    """
    from mi_sweeps.sweeps import manifest

    output, chosen = output_of(options.words), []
    for word in options.words:
        key, equals, value = word.partition("=")
        if not equals:
            chosen.append(word)
        elif key == "sweep":
            chosen += value.split(",")
        elif key != "output":
            raise UserError(f"{word}: this command takes sweep names and output=DIR")
    if chosen:
        for name in chosen:
            manifest.load(output, name)
        return output, chosen
    damage = []
    for name in manifest.names(output):
        try:
            manifest.load(output, name)
            chosen.append(name)
        except UserError as error:
            damage.append(str(error))
    if not chosen:
        nothing = f"{output}: no sweep was run into this folder; give another with output=DIR"
        raise UserError("; ".join(damage) or nothing)
    options.damaged += damage
    return output, chosen


def retry(parser: argparse.ArgumentParser) -> None:
    """Adds --retry."""
    parser.add_argument(
        "--retry",
        type=_failures,
        default=(),
        metavar="KINDS",
        help="also what failed before; --retry=timeout,node only what failed so (error, oom, timeout, node)",
    )


def config_dir(parser: argparse.ArgumentParser) -> None:
    """Adds --config-dir."""
    parser.add_argument("--config-dir", type=place, metavar="DIR", help="your configuration, searched before ours")


def wait(parser: argparse.ArgumentParser) -> None:
    """Adds --wait."""
    parser.add_argument(
        "--wait",
        action="store_true",
        help="stay until all is done where the launcher would return; Ctrl-C ends the waiting, not the work",
    )


def count(text: str) -> int:
    """A number that an option takes."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: not 0 or a positive number")
    return int(text)


def place(text: str) -> Path:
    """A file or folder that an option names; no shell expands the ~ of --to=~/page.html."""
    try:
        return locations.local(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from None


def _failures(text: str) -> tuple[Failure, ...]:
    kinds: tuple[Failure, ...] = get_args(Failure)
    if text == "all":
        return kinds
    chosen = tuple(kind for kind in kinds if kind in text.split(","))
    if len(chosen) != len(text.split(",")):
        raise argparse.ArgumentTypeError(f"{text}: not some of {','.join(kinds)}")
    return chosen
