"""`mi-sweeps plan`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mi_sweeps.commands import common
from mi_sweeps.commands.common import DONE
from mi_sweeps.errors import UserError

if TYPE_CHECKING:
    from mi_sweeps.sweeps.points import GridPoint

HELP = "show what `run` would do, and write nothing"
WORDS = "KEY=VALUE"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    common.retry(parser)
    common.config_dir(parser)
    parser.add_argument("--config", action="store_true", help="print the whole configuration of the first grid point")
    parser.add_argument("--points", action="store_true", help="print every grid point with its ids and states")


def run(options: argparse.Namespace) -> int:
    """`mi-sweeps plan`."""
    from mi_sweeps.sweeps import changed, costs, memory, model_notes, show
    from mi_sweeps.sweeps import plan as planning

    points = common.points(options)
    console = common.console()
    if options.config:
        from omegaconf import OmegaConf

        console.print(OmegaConf.to_yaml(OmegaConf.create(points[0].config.dump())), markup=False, end="")
        return DONE
    first = points[0].config
    console.print(
        f"sweep {first.sweep.name} in {first.output.absolute()}, launcher {first.launcher.name}", soft_wrap=True
    )
    # The launchers differ only here and in `run`, where each has its own order of steps: no common interface.
    requested: list[str] = []
    if first.launcher.name == "slurm":
        from mi_sweeps.slurm import steer, submit

        try:
            work = submit.look(points, first.launcher, options.retry)
        except UserError as error:
            console.print(f"{error}; the states shown are those in the folders", markup=False, soft_wrap=True)
            work = submit.look(points, first.launcher, options.retry, ask=False)
        if work.notice:
            console.print(work.notice, markup=False, soft_wrap=True)
        made, requested = work.plan, list(steer.requested(work.plan, work.arrays, first.launcher))
        if work.too_many:
            requested.append(f"warning: {work.too_many}")
    else:
        made = planning.make(points)
    for line in switched_off(points):
        console.print(line, markup=False, soft_wrap=True)
    for line in show.axes(points):
        console.print(f"  {line}", markup=False, soft_wrap=True)
    for line in (*show.schedules(points), *model_notes.lines(points), *memory.lines(points), *costs.lines(points)):
        console.print(f"  {line}", markup=False, soft_wrap=True)
    console.print(show.summary(made), soft_wrap=True)
    for line in (*changed.lines(made), *requested):
        console.print(line, markup=False, soft_wrap=True)
    if options.points:
        common.write(console, show.point_lines(made))
    return DONE


def switched_off(points: Sequence[GridPoint]) -> Iterator[str]:
    """Yields a line if tracking is on but wandb is disabled in the environment."""
    from mi_sweeps.tracking import unmirrored

    if unmirrored.switched_off() and points[0].values["tracking"]["mode"] != "disabled":
        yield f"{unmirrored.OFF}: nothing is mirrored to wandb; `mi-sweeps track` can do it later"
