"""`mi-sweeps report`."""

from __future__ import annotations

import argparse
import os
import sys
import time
import webbrowser
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mi_sweeps import libraries
from mi_sweeps.commands import common
from mi_sweeps.commands.common import DONE
from mi_sweeps.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from mi_sweeps.analysis.gallery import Draw

HELP = "write a self-contained HTML page that compares runs"
WORDS = "SWEEP"

MOST_PROCESSES = 8
"""Most processes for drawing, each of which needs memory."""

PROGRESS_SECONDS = 10.0
"""How often progress is printed without a terminal."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument(
        "--to", type=common.place, metavar="FILE", help="default: OUTPUT/report.html, or report-SWEEP.html"
    )
    parser.add_argument("--open", action="store_true", help="show the page in the browser")
    parser.add_argument(
        "--figures",
        type=common.place,
        metavar="DIR",
        help="also write the pictures as PNG, SVG and PDF, their numbers as CSV, and films over the checkpoints as GIF "
        "(with ffmpeg also MP4)",
    )
    parser.add_argument("--no-animations", action="store_true", help="no GIF and MP4")
    parser.add_argument(
        "--only",
        type=_names,
        default=(),
        metavar="NAME[,NAME]",
        help="only these pictures: names, or patterns such as 'heads-*'",
    )
    parser.add_argument(
        "--paper",
        action="store_true",
        help="for a paper: no titles or footnotes, light grids, PNG at 300 dpi, no films",
    )


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError(f"{text!r}: give names separated by commas")
    return names


def run(options: argparse.Namespace) -> int:
    """`mi-sweeps report`."""
    libraries.calculate_alone()
    from mi_sweeps.analysis.report import place, titled, write_report
    from mi_sweeps.training.outcome import WORSE

    for name in ("only", "paper"):
        if getattr(options, name) and not options.figures:
            raise UserError(f"--{name}: only for --figures; give --figures DIR too")
    output, chosen = common.sweeps(options)
    drawings = _drawings(output, chosen, options) if options.figures else []
    are_named = any(not word.startswith("output=") for word in options.words)
    file = options.to or place(output, chosen if are_named else ())
    worse: list[str] = []
    before = titled(file)
    console = common.console()

    def write() -> None:
        page = write_report(output, chosen, file, options.damaged, worse)
        if worse:
            console.print(f"{WORSE}: {len(worse)} ({', '.join(worse)})", soft_wrap=True)
        console.print(f"report: {page.absolute()}", soft_wrap=True)
        if before not in (None, titled(page)):
            console.print(f"it replaces the report on {before}", soft_wrap=True)
        if options.open:
            _open(console, page.absolute())

    if options.figures:
        _draw(console, drawings, options, write)
    else:
        write()
    return DONE


def _draw(
    console: Console, drawings: Sequence[tuple[str, Draw]], options: argparse.Namespace, meanwhile: Callable[[], None]
) -> None:
    from mi_sweeps.analysis import gallery

    with _drawn(console, len(drawings)) as progress:
        files = gallery.write(
            drawings,
            options.figures,
            paper=options.paper,
            processes=_cores(),
            report=progress,
            meanwhile=meanwhile,
        )
    counts = Counter(file.suffix[1:].upper() for file in files if file.stem != "figures")
    written = ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "nothing to draw yet"
    console.print(f"figures: {options.figures.absolute()} ({written})", soft_wrap=True)
    if counts["GIF"] and not counts["MP4"]:
        console.print("MP4 was left out: no ffmpeg on this machine")


def _cores() -> int:
    """Returns the cores to draw with; 1 except on Linux, because elsewhere forking is not safe."""
    return min(len(os.sched_getaffinity(0)), MOST_PROCESSES) if sys.platform == "linux" else 1


def _drawings(output: Path, chosen: Sequence[str], options: argparse.Namespace) -> list[tuple[str, Draw]]:
    """Returns the pictures to draw. It is called before the page is written, so that a wrong name fails early."""
    from mi_sweeps.analysis import figures
    from mi_sweeps.analysis.frames import load

    # Damaged files are reported when the page is written.
    tables = load(output, chosen, damaged=[])
    return figures.chosen(tables, options.only, animate=not options.no_animations and not options.paper)


@contextmanager
def _drawn(console: Console, total: int) -> Iterator[Callable[[int], None]]:
    """Shows how many pictures are drawn: with a bar, or without a terminal, with a line every few seconds."""
    if console.is_terminal:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

        columns = ("figures", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bars:
            bar = bars.add_task("", total=total)
            yield lambda done: bars.update(bar, completed=done)
        return
    last = time.monotonic()

    def progress(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= PROGRESS_SECONDS:
            last = time.monotonic()
            console.print(f"figures: {done} of {total} drawn")

    yield progress


def _open(console: Console, page: Path) -> None:
    """Opens a page in a browser, if there is a screen: otherwise Python would open a text browser in the terminal."""
    has_screen = not sys.platform.startswith("linux") or {"DISPLAY", "WAYLAND_DISPLAY", "BROWSER"} & set(os.environ)
    try:
        opened = bool(has_screen) and webbrowser.open(page.as_uri())
    except (OSError, webbrowser.Error):
        opened = False
    if not opened:
        console.print("--open: no browser on this machine; copy the page (a single file) to one that has one")
