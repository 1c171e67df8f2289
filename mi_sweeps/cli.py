"""The command line: `mi-sweeps COMMAND [options] [Hydra overrides]`.

The commands themselves are in `mi_sweeps.commands`.
"""

from __future__ import annotations

import argparse
import errno
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import TextIO, cast

from mi_sweeps import __version__, libraries
from mi_sweeps.commands import common
from mi_sweeps.commands.common import StandardOutput
from mi_sweeps.errors import UserError
from mi_sweeps.store.endings import Cancelled, Superseded, describe

BAD_INPUT, INTERRUPTED = 2, 130

COMMANDS = (
    *("plan", "run", "zoom", "audit", "status", "show", "wait", "cancel", "logs"),
    *("report", "export", "track", "sync", "dashboard", "doctor"),
)
"""In the order of `--help`. Each is a module of `mi_sweeps.commands` with HELP, WORDS, `arguments` and `run`."""

Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and exits: 0 done, 1 a run failed or cannot be read, 2 bad input or output that cannot be
    written."""
    libraries.quiet()
    given, output = sys.stdout, StandardOutput(sys.stdout)
    sys.stdout = cast(TextIO, output)
    try:
        code = _run(arguments)
        output.flush()
    finally:
        sys.stdout = given
    if output.error and not isinstance(output.error, BrokenPipeError):
        _complain(f"standard output cannot be written: {output.error.strerror}; redirect it elsewhere")
        code = code or BAD_INPUT
    sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    """Runs a command; returns its exit code."""
    parser = _parser()
    # Options may come between words, which argparse does not allow in sub-commands.
    given = [
        "--retry=all" if word == "--retry" else word for word in (sys.argv[1:] if arguments is None else arguments)
    ]
    options, words = parser.parse_known_args(given)
    unknown = [word for word in words if word.startswith("-")]
    if unknown:
        parser.error(f"{unknown[0]}: no such option; see `mi-sweeps COMMAND --help`")
    options.words += words
    options.line = shlex.join(["mi-sweeps", *(sys.argv[1:] if arguments is None else arguments)])
    options.damaged = []  # Collects files that could not be read and were left out.
    command: Command = options.command
    try:
        code = command(options)
        for damage in options.damaged:
            _tell(f"warning: {damage}")
        return code or (common.FAILED if options.damaged else common.DONE)
    except UserError as error:
        _complain(str(error))
        return BAD_INPUT
    except OSError as error:
        known = error.strerror and error.filename and error.errno not in (errno.ENOSPC, errno.EDQUOT)
        _complain(f"{error.filename}: {error.strerror}" if known else describe(error))
        return BAD_INPUT
    except Superseded as error:
        _complain(f"{error}, or its status.json cannot be read; the same command resumes it")
        return common.FAILED
    except (KeyboardInterrupt, Cancelled) as stopped:
        _complain(str(stopped) or "stopped; the same command resumes it")
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mi-sweeps",
        description="Sweeps that show how circuits form and change during training.",
        epilog="Overrides are Hydra's: `mi-sweeps run sweep=grid optim.lr=1e-4,3e-4 'seed=range(0,5)'`.",
    )
    parser.add_argument("--version", action="version", version=f"mi-sweeps {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        command = import_module(f"mi_sweeps.commands.{name}")
        summary = command.HELP
        sub = subparsers.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        sub.add_argument("words", nargs="*", metavar=command.WORDS)
        sub.set_defaults(command=command.run)
        command.arguments(sub)
    return parser


def _complain(message: str) -> None:
    with suppress(OSError):
        _tell(f"error: {message}")


def _tell(line: str) -> None:
    """Prints a line, wrapped if on a terminal."""
    if sys.stderr.isatty():
        from mi_sweeps.lines import at_words

        line = "\n".join(at_words(line, shutil.get_terminal_size().columns))
    print(line, file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    main()
