"""`mi-sweeps audit`: checks a series of checkpoints before it is used."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mi_sweeps.commands import common
from mi_sweeps.commands.common import DONE, FAILED

if TYPE_CHECKING:
    from mi_sweeps.series.audit import Audit

HELP = "check a series of checkpoints before it is used, and write nothing"
WORDS = "KEY=VALUE"
HASH = 8
"""Characters of a hash to show."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    common.config_dir(parser)


def run(options: argparse.Namespace) -> int:
    """`mi-sweeps audit`."""
    from mi_sweeps.series import audit as auditing
    from mi_sweeps.series import checkpoints

    series = []
    for point in common.points(options):
        found = checkpoints.of(point.config)
        if found not in series:  # Several grid points may use the same series.
            series.append(found)
    console, faults = common.console(), 0
    for one in series:
        made = auditing.of(one)
        title = one.checkpoints[0].model.hub
        common.write(
            console, [*([title] if title and len(series) > 1 else []), *_table(made), *_findings(made), *_summary(made)]
        )
        faults += len(made.findings)
    return FAILED if faults else DONE


def _table(made: Audit) -> Iterator[str]:
    """Yields a line for each checkpoint. Plain text: `status` uses rich, which breaks long paths."""
    named = {one.step for one in made.findings}
    rows = [("step", "checkpoint", "bytes", "hash", "change", "")]
    for line in made.lines:
        change = "" if line.change is None else f"{line.change:.2g}"
        mark = "missing" if line.step in made.missing_steps else "see below" if line.step in named else ""
        rows.append((str(line.step), line.name, f"{line.bytes:,}", line.hash[:HASH], change, mark))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        step, name, *rest = (
            point.ljust(width) if place in (1, 3) else point.rjust(width)
            for place, (point, width) in enumerate(zip(row[:-1], widths, strict=False))
        )
        yield "  ".join([step, name, *rest, row[-1]]).rstrip()


def _findings(made: Audit) -> Iterator[str]:
    """Yields a line for each finding; the same finding at several steps takes one line."""
    from mi_sweeps.series import missing_steps

    for kind in dict.fromkeys(one.kind for one in made.findings):
        reasons: dict[int, list[str]] = {}
        for one in made.findings:
            if one.kind == kind:
                reasons.setdefault(one.step, []).append(one.reason)
        for line in missing_steps.lines({step: "; ".join(several) for step, several in reasons.items()}):
            yield f"{kind} at {line}"


def _summary(made: Audit) -> Iterator[str]:
    yield from made.unseen
    usable = len(made.lines) - sum(line.step in made.missing_steps for line in made.lines)
    yield f"{usable} of {len(made.lines)} checkpoints can be used"
