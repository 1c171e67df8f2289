"""Shared by the commands: where they print, and which grid points and sweeps their words name."""

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


class StandardOutput:
    """Standard output that may fail without stopping work, because the disk is full or the reader (such as `head`) has
    ended. Later output is lost."""

    def __init__(self, file: IO[str] | None) -> None:
        if isinstance(file, io.TextIOWrapper):
            file.reconfigure(errors="replace")  # Prints "?" for letters that the terminal lacks, instead of failing.
        # None if the shell has closed it.
        self._file = Path(os.devnull).open("w") if file is None else file  # noqa: SIM115
        self.error: OSError | None = None
        """The first error."""

    def write(self, text: str) -> int:
        """As for any file."""
        with self._without_failing():
            self._file.write(text)
        return len(text)

    def flush(self) -> None:
        """As for any file."""
        with self._without_failing():
            self._file.flush()

    @contextmanager
    def _without_failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = self.error or error
            with suppress(OSError):  # Otherwise the buffer would fail again when Python exits.
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._file.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def console() -> Console:
    """Makes the console that a command prints to."""
    from mi_sweeps.lines import WIDE, Lines

    is_notebook = Lines().is_jupyter
    # In a notebook it prints as to a file: otherwise each line, and each update of a bar, would be a separate output.
    terminal = False if is_notebook else None
    # Tools that read a pipe want whole lines.
    piped = not (sys.stdout.isatty() or is_notebook or "COLUMNS" in os.environ)
    # Names may contain [x] or :fire:, so markup and emoji are off.
    return Lines(
        highlight=False,
        markup=False,
        emoji=False,
        force_jupyter=False,
        force_terminal=terminal,
        width=WIDE if piped else None,
    )


def write(console: Console, lines: Iterable[str]) -> None:
    """Prints lines without rich's layout, which is slow for thousands."""
    from mi_sweeps.lines import at_words

    if console.is_terminal:
        lines = (part for line in lines for part in at_words(line, console.width))
    console.file.write("".join(f"{line}\n" for line in lines))


def points(options: argparse.Namespace) -> list[GridPoint]:
    """Returns the grid points that a command's words make; warns of words without effect."""
    from mi_sweeps.sweeps.quick_checks import without_effect

    made = points_of(options.words, options.config_dir)
    if keys := without_effect(made, options.words):
        reason = f"{', '.join(keys)}: no effect, because a series is not trained"
        print(f"warning: {reason}", file=sys.stderr)  # noqa: T201
    return made


def points_of(words: Sequence[str], config_dir: Path | None) -> list[GridPoint]:
    """Returns the grid points that Hydra overrides make.

    Raises:
        UserError: an override is wrong.
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
    """Returns the output folder from output=DIR among some words, absolute; the default is ./outputs.

    Raises:
        UserError: it is not a folder on this machine.
    """
    given = [word.removeprefix("output=") for word in words if word.startswith("output=")]
    return locations.output(given[-1] if given else locations.DEFAULT)


def one_id(words: Sequence[str], command: str) -> tuple[str, list[str]]:
    """Returns the one word that is an id of a run or patch job, and all KEY=VALUE words except output=DIR.

    Raises:
        UserError: there is no id, or more than one.
    """
    ids = [word for word in words if "=" not in word]
    if len(ids) != 1:
        raise UserError(f"{command}: give one id of a run or patch job; `mi-sweeps status --points` lists them")
    return ids[0], [word for word in words if "=" in word and not word.startswith("output=")]


def sweeps(options: argparse.Namespace) -> tuple[Path, list[str]]:
    """Returns the output folder and the named sweeps (NAME or sweep=NAME); without names, all that can be read.

    Raises:
        UserError: a named sweep does not exist or cannot be read, or there is no sweep at all.
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
        nothing = f"{output}: no sweeps in this folder; give another with output=DIR"
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
        help="also try failed work again; --retry=timeout,node only these failures (error, oom, timeout, node)",
    )


def config_dir(parser: argparse.ArgumentParser) -> None:
    """Adds --config-dir."""
    parser.add_argument("--config-dir", type=place, metavar="DIR", help="your configuration, searched before ours")


def wait(parser: argparse.ArgumentParser) -> None:
    """Adds --wait."""
    parser.add_argument(
        "--wait",
        action="store_true",
        help="wait until all is done, whatever the launcher; Ctrl-C stops waiting, not the work",
    )


def count(text: str) -> int:
    """Parses a number for an option."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: not 0 or a positive number")
    return int(text)


def place(text: str) -> Path:
    """Parses a file or folder for an option; shells do not expand the ~ in --to=~/page.html."""
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
