"""Simulations with a planted truth, too long for the tests: `python -m mi_sweeps.analysis.planted NAME [DRAWS]`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

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
"""By name, with the default number of draws. `verdicts DRAWS OUTPUT` takes its effects from an output folder."""

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in SIMULATIONS:
        sys.exit(f"name one of: {', '.join(SIMULATIONS)}")
    simulation, usual = SIMULATIONS[sys.argv[1]]
    for line in simulation(int(sys.argv[2]) if len(sys.argv) > 2 else usual, *sys.argv[3:]):
        print(line, flush=True)  # noqa: T201
