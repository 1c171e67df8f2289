"""`mi-sweeps zoom`."""

from __future__ import annotations

import argparse

from mi_sweeps.commands import common
from mi_sweeps.commands.run import carry_out
from mi_sweeps.store.folders import run_folder

HELP = "train a run again, bit for bit, and keep and patch more checkpoints: from=STEP to=STEP every=STEPS"
WORDS = "RUN KEY=VALUE"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    common.retry(parser)
    common.wait(parser)


def run(options: argparse.Namespace) -> int:
    """`mi-sweeps zoom`."""
    from mi_sweeps.analysis.folder import find
    from mi_sweeps.sweeps import quick_checks
    from mi_sweeps.sweeps import zoom as zooming

    output, (id, words) = common.output_of(options.words), common.one_id(options.words, "zoom")
    (found,) = find(output, id, options.damaged).runs
    points = zooming.points(run_folder(output, found.run_id), output, words)
    quick_checks.check(points)
    return carry_out(points, options.retry, options.wait, options.line)
