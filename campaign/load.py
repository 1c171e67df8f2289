"""Ten thousand grid points, and tables of a thousand runs, must stay within the times of docs/scale.md and 4 GB.

Folders are simulated as in benchmarks/scale.py: one point is computed, and its files serve for all others.
"""

from __future__ import annotations

import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from campaign import children
from campaign.scenarios import Fault, Scenario, Values

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

SECONDS = {"plan": 3.1, "status": 1.6, "report": 41.0, "export": 150.0}
"""Seconds on a quiet machine, from docs/scale.md; for `export` of 1,000 runs with 54,000 tables, as measured once."""

BUSY = 4.0
"""Allowed factor on a busy machine."""

MEMORY = 4000.0
"""MB that a command may take."""


def scenarios(folder: Path, quick: bool) -> Iterator[Scenario]:
    """Sweeps of both sizes; a hundredth of them if quick."""
    few = 100 if quick else 1
    yield Scenario("points", partial(commands, 10_000 // few, ("plan", "status", "report")))
    yield Scenario("runs", partial(commands, 2_000 // few, ("export",)))


def commands(count: int, names: tuple[str, ...], chance: random.Random, scenario: Path) -> Values:
    """Measures seconds and MB of each command on a sweep with this many points."""
    sys.path.insert(0, str(BENCHMARKS))
    import scale
    import simulate

    from mi_sweeps.sweeps import manifest
    from mi_sweeps.sweeps.grid import expand

    sweep = scale.Sweep(count, scenario, ())
    found: Values = {"points": count}
    if "plan" in names:
        found |= _measured("plan", ["plan", *sweep.overrides], scenario)
    points = expand(sweep.overrides)
    with ExitStack() as at_work:
        manifest.add(sweep.output, "big", points, "mi-sweeps run")
        simulate.fill(points, simulate.sample(scenario / "sample", [], []), at_work)
        for name in names:
            words: dict[str, list[str]] = {"export": ["export", str(scenario / "exported"), "big"]}
            if name != "plan":
                found |= _measured(name, [*words.get(name, [name, "big"]), f"output={sweep.output}"], scenario)
    return found


def _measured(name: str, words: list[str], scenario: Path) -> Values:
    sys.path.insert(0, str(BENCHMARKS))
    import scale

    began = time.monotonic()
    done: Any = subprocess.run(
        [sys.executable, "-c", scale.COMMAND, *words],
        capture_output=True,
        text=True,
        env=children.environment(scenario),
    )
    seconds = time.monotonic() - began
    if done.returncode or not re.search(r"\d+$", done.stderr.strip()):
        raise Fault(f"`{name}` ended with {done.returncode}: {done.stderr[-500:]}")
    memory = int(done.stderr.split()[-1]) / 1024
    if seconds > BUSY * SECONDS[name]:
        raise Fault(f"`{name}` took {seconds:.1f} s, and {SECONDS[name]} s are stated")
    if memory > MEMORY:
        raise Fault(f"`{name}` took {memory:.0f} MB, more than {MEMORY:.0f}")
    return {f"{name}, seconds": round(seconds, 1), f"{name}, MB": round(memory)}
