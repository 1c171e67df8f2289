"""Simulations with a planted truth, too long for the tests: `python -m mi_sweeps.analysis.planted NAME [DRAWS]`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

from ..errors import UserError
from .agreement import simulations as agreement
from .inference import false_verdicts, turnovers
from .inference import simulations as transitions

SIMULATIONS: dict[str, tuple[Callable[..., Iterator[str]], int]] = {
    "agreement": (agreement.agreement, 400),
    "no_effects": (agreement.no_effects, 400),
    "roles": (agreement.roles, 200),
    "members": (agreement.members, 200),
    "stability_interval": (agreement.stability_interval, 1000),
    "transitions": (transitions.transitions, 100),
    "widths": (transitions.widths, 20),
    "transformations": (turnovers.simulations, 400),
    "verdicts": (false_verdicts.simulations, 200),
}
"""By name, with the default number of draws."""

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m mi_sweeps.analysis.planted", description="Simulations with a planted truth."
    )
    parser.add_argument("name", choices=SIMULATIONS)
    parser.add_argument("draws", nargs="?", type=int, help="how many (each simulation has its own default)")
    parser.add_argument("output", nargs="?", help="verdicts: an output folder whose heads' effects are drawn")
    options = parser.parse_args()
    if options.output and options.name != "verdicts":
        parser.error(f"{options.name} takes no output folder")
    simulation, usual = SIMULATIONS[options.name]
    try:
        for line in simulation(options.draws or usual, *filter(None, [options.output])):
            print(line, flush=True)  # noqa: T201
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
