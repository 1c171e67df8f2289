"""The command line: `mi-sweeps COMMAND [options] [Hydra overrides]`.

The commands themselves are in `mi_sweeps.commands`.
"""

from __future__ import annotations

import argparse
import errno
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO, cast, get_args

from mi_sweeps import __version__, libraries, locations
from mi_sweeps.commands import common, results, series, sweeps
from mi_sweeps.commands.common import Output
from mi_sweeps.errors import UserError
from mi_sweeps.store.folders import Cancelled, Failure, Superseded, describe

BAD_INPUT, INTERRUPTED = 2, 130
TAIL_LINES = 20

Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and exits: 0 done, 1 some run failed or cannot be read, 2 bad input or output that cannot be
    written."""
    libraries.quiet()
    given, output = sys.stdout, Output(sys.stdout)
    sys.stdout = cast(TextIO, output)
    try:
        code = _run(arguments)
        output.flush()
    finally:
        sys.stdout = given
    if output.error and not isinstance(output.error, BrokenPipeError):
        _complain(f"standard output cannot be written: {output.error.strerror}; write it to another place")
        code = code or BAD_INPUT
    sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    """The exit code of a command."""
    parser = _parser()
    # Options may stand between the words, which argparse alone does not allow below a sub-command.
    given = [
        "--retry=all" if word == "--retry" else word for word in (sys.argv[1:] if arguments is None else arguments)
    ]
    options, words = parser.parse_known_args(given)
    unknown = [word for word in words if word.startswith("-")]
    if unknown:
        parser.error(f"{unknown[0]}: no such option; see `mi-sweeps COMMAND --help`")
    options.words += words
    options.line = shlex.join(["mi-sweeps", *(sys.argv[1:] if arguments is None else arguments)])
    options.damaged = []  # What could not be read, and was left out.
    command: Command = options.command
    try:
        code = command(options)
        for damage in options.damaged:
            print(f"warning: {damage}", file=sys.stderr)  # noqa: T201
        return code or (common.FAILED if options.damaged else common.DONE)
    except UserError as error:
        _complain(str(error))
        return BAD_INPUT
    except OSError as error:
        known = error.strerror and error.filename and error.errno not in (errno.ENOSPC, errno.EDQUOT)
        _complain(f"{error.filename}: {error.strerror}" if known else describe(error))
        return BAD_INPUT
    except Superseded as error:
        _complain(f"{error}, or its status.json cannot be read; the same command goes on from here")
        return common.FAILED
    except (KeyboardInterrupt, Cancelled) as stopped:
        _complain(str(stopped) or "stopped; the same command goes on from here")
        return INTERRUPTED


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: not 0 or a positive number")
    return int(text)


def _place(text: str) -> Path:
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mi-sweeps",
        description="Sweeps that show how circuits form and change during training.",
        epilog="Overrides are Hydra's: `mi-sweeps run sweep=grid optim.lr=1e-4,3e-4 'seed=range(0,5)'`.",
    )
    parser.add_argument("--version", action="version", version=f"mi-sweeps {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, command: Command, help: str, words: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        sub.add_argument("words", nargs="*", metavar=words)
        sub.set_defaults(command=command)
        return sub

    for name, command, help, words in (
        ("plan", sweeps.plan, "show what `run` would do, and write nothing", "KEY=VALUE"),
        ("run", sweeps.run, "do what is missing: fine-tunes first, then their patch jobs", "KEY=VALUE"),
        (
            "zoom",
            sweeps.zoom,
            "train a run once more, bit for bit, and keep and patch the checkpoints from=STEP to=STEP every=STEPS",
            "RUN KEY=VALUE",
        ),
    ):
        sub = add(name, command, help, words)
        sub.add_argument(
            "--retry",
            type=_failures,
            default=(),
            metavar="KINDS",
            help="also what failed before; --retry=timeout,node only what failed so (error, oom, timeout, node)",
        )
        if name != "zoom":
            sub.add_argument(
                "--config-dir", type=_place, metavar="DIR", help="your configuration, searched before ours"
            )
        if name == "plan":
            sub.add_argument("--config", action="store_true", help="print the whole configuration of the first cell")
            sub.add_argument("--cells", action="store_true", help="print every cell with its ids and states")
        else:
            sub.add_argument(
                "--wait",
                action="store_true",
                help="stay until all is done where the launcher would return; Ctrl-C ends the waiting, not the work",
            )
    sub = add(
        "audit", series.audit, "look at a series of checkpoints before it is believed, and write nothing", "KEY=VALUE"
    )
    sub.add_argument("--config-dir", type=_place, metavar="DIR", help="your configuration, searched before ours")
    sub = add("status", sweeps.status, "show how far sweeps are, what is running and what failed", "SWEEP")
    sub.add_argument("--cells", action="store_true", help="every cell with its ids and states")
    sub.add_argument("--watch", action="store_true", help="stay, and show it anew until nobody works on it any more")
    sub = add("show", results.show, "draw one run: its win rate, its layers, its heads", "ID")
    sub.add_argument("--site", default="z", help="of the heads: z, q, k, v, pattern (default: %(default)s)")
    sub.add_argument("--step", type=int, metavar="N", help="the checkpoint of the heads (default: the last)")
    add("wait", sweeps.wait, "wait until nobody works on a sweep any more; Ctrl-C ends the waiting alone", "SWEEP")
    add("cancel", sweeps.cancel, "stop the processes that work on a sweep; `run` goes on from there", "SWEEP")
    sub = add("logs", sweeps.logs, "print the end of each log, and the traceback of what failed", "SWEEP|ID")
    sub.add_argument("--failed", action="store_true", help="only what failed")
    sub.add_argument(
        "--lines", type=_count, default=TAIL_LINES, metavar="N", help="lines of each log (default: %(default)s)"
    )
    sub = add("report", results.report, "write a self-contained HTML page that compares runs", "SWEEP")
    sub.add_argument("--to", type=_place, metavar="FILE", help="default: OUTPUT/report.html")
    sub.add_argument(
        "--figures",
        type=_place,
        metavar="DIR",
        help="also write the pictures as PNG, SVG and PDF, and over the checkpoints as GIF (with ffmpeg also MP4)",
    )
    sub.add_argument("--no-animations", action="store_true", help="no GIF and MP4, which take longest")
    sub = add("export", results.export, "write tidy tables into DIR, one file a table", "DIR [SWEEP ...]")
    sub.add_argument("--format", choices=("parquet", "csv"), default="parquet")
    sub.add_argument("--by-prompt", action="store_true", help="also what each prompt has: many times as much")
    sub.add_argument(
        "--circuits", choices=("mib",), help="instead, each checkpoint's importances as JSON of the MIB track's form"
    )
    sub = add("track", results.track, "make wandb runs of sweeps that were run without wandb", "SWEEP")
    sub.add_argument("--mode", choices=("offline", "online"), default="offline", help="default: %(default)s")
    sub.add_argument("--project", metavar="NAME", help="default: the sweep's tracking.project")
    sub.add_argument("--entity", metavar="NAME", help="default: the sweep's tracking.entity")
    sub.add_argument("--again", action="store_true", help="also runs that are there already")
    sub = add("sync", results.sync, "upload what wandb has not yet uploaded, from a machine with a network", "SWEEP")
    sub.add_argument("--dry-run", action="store_true", help="show what would be uploaded")
    sub = add("dashboard", results.dashboard, "make or update a saved wandb workspace of a sweep", "SWEEP")
    sub.add_argument("--entity", metavar="NAME", help="user or team (default: the sweep's tracking's, or the login's)")
    sub.add_argument("--project", metavar="NAME", help="default: the sweep's tracking's")
    sub.add_argument("--baseline", metavar="RUN_ID", help="the run that the others are compared with")
    sub.add_argument(
        "--band",
        choices=("minmax", "stddev", "stderr"),
        default="minmax",
        help="what is shown around a mean over runs (default: %(default)s)",
    )
    sub.add_argument("--report", action="store_true", help="make or update a report, too")
    sub.add_argument("--dry-run", action="store_true", help="print what would be saved, as JSON; no login, no network")
    sub.add_argument("--to", type=_place, metavar="FILE", help="where a dry run is written")
    add("doctor", sweeps.doctor, "show what this machine has, and what is missing", "output=DIR")
    return parser


def _complain(message: str) -> None:
    with suppress(OSError):
        print(f"error: {message}", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    main()
