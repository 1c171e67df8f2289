"""`mi-sweeps plan`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mi_sweeps.commands import common
from mi_sweeps.commands.common import DONE
from mi_sweeps.errors import UserError

if TYPE_CHECKING:
    from mi_sweeps.sweeps.cells import Cell

HELP = "show what `run` would do, and write nothing"
WORDS = "KEY=VALUE"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds its own."""
    common.retry(parser)
    common.config_dir(parser)
    parser.add_argument("--config", action="store_true", help="print the whole configuration of the first cell")
    parser.add_argument("--cells", action="store_true", help="print every cell with its ids and states")


def run(options: argparse.Namespace) -> int:
    """`mi-sweeps plan`."""
    from mi_sweeps.models import architectures
    from mi_sweeps.sweeps import changed, costs, memory, show
    from mi_sweeps.sweeps import plan as planning

    cells = common.cells(options)
    console = common.console()
    if options.config:
        from omegaconf import OmegaConf

        console.print(OmegaConf.to_yaml(OmegaConf.create(cells[0].config.dump())), markup=False, end="")
        return DONE
    first = cells[0].config
    console.print(
        f"sweep {first.sweep.name} in {first.output.absolute()}, launcher {first.launcher.name}", soft_wrap=True
    )
    asked: list[str] = []
    if first.launcher.name == "slurm":
        from mi_sweeps.slurm import steer, submit

        try:
            work = submit.look(cells, first.launcher, options.retry)
        except UserError as error:
            console.print(f"{error}; shown is what the folders say", markup=False, soft_wrap=True)
            work = submit.look(cells, first.launcher, options.retry, ask=False)
        if work.notice:
            console.print(work.notice, markup=False, soft_wrap=True)
        made, asked = work.plan, list(steer.asked(work.plan, work.arrays, first.launcher))
        if work.too_many:
            asked.append(f"warning: {work.too_many}")
    else:
        made = planning.make(cells)
    for line in switched_off(cells):
        console.print(line, markup=False, soft_wrap=True)
    for line in show.axes(cells):
        console.print(f"  {line}", markup=False, soft_wrap=True)
    for line in (*show.schedules(cells), *architectures.told(cells), *memory.told(cells), *costs.told(cells)):
        console.print(f"  {line}", markup=False, soft_wrap=True)
    console.print(show.summary(made), soft_wrap=True)
    for line in (*changed.lines(made), *asked):
        console.print(line, markup=False, soft_wrap=True)
    if options.cells:
        common.write(console, show.cell_lines(made))
    return DONE


def switched_off(cells: Sequence[Cell]) -> Iterator[str]:
    """A line where wandb is asked for and the environment forbids it."""
    from mi_sweeps.tracking import unmirrored

    if unmirrored.switched_off() and cells[0].values["tracking"]["mode"] != "disabled":
        yield f"{unmirrored.OFF}: nothing is mirrored to wandb; `mi-sweeps track` does it later"
