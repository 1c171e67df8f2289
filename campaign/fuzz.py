"""Hostile input, in this process: every case must give a right result or a one-line error.

The `hostile_*` modules make the cases.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from campaign import hostile_files, hostile_models, hostile_settings
from campaign.scenarios import Fault, Scenario, Values

AT_ONCE = 500
"""Cases in a scenario, each reproducible from the scenario's seed."""

CASES = {
    "prompts": 40_000,
    "values": 24_000,
    "records": 20_000,
    "checkpoints": 10_000,
    "overrides": 4_000,
    "grids": 1_500,
    "tokenizers": 500,
    "models": 500,
}
"""Number of cases of each kind: 100,500 in all."""

MEMORY = 8 << 30
"""Memory limit for a case, in bytes."""

LONGEST = 15_000
"""The longest message allowed, in characters: it quotes up to 5,000 characters of the input, perhaps twice."""


def scenarios(folder: Path, quick: bool) -> Iterator[Scenario]:
    """One scenario for every AT_ONCE cases of a kind."""
    kinds: dict[str, Callable[[random.Random, Path], Callable[[], Any]]] = {
        "prompts": hostile_files.prompts,
        "values": hostile_settings.values,
        "records": partial(hostile_files.records, folder),
        "checkpoints": hostile_models.checkpoints,
        "overrides": hostile_settings.overrides,
        "grids": hostile_settings.grids,
        "tokenizers": hostile_models.tokenizers,
        "models": hostile_models.models,
    }
    for name, case in kinds.items():
        if quick:
            yield Scenario(f"{name}-quick", partial(cases, case, max(4, CASES[name] // 1000)))
        else:
            for number in range(CASES[name] // AT_ONCE):
                yield Scenario(f"{name}-{number:03d}", partial(cases, case, AT_ONCE))


def cases(
    make: Callable[[random.Random, Path], Callable[[], Any]], count: int, chance: random.Random, scenario: Path
) -> Values:
    """Makes `count` cases and checks the result of each."""
    from mi_sweeps.errors import UserError

    # Running out of memory must fail the case, not the machine.
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    counts: Counter[str] = Counter()
    before = set(os.listdir("."))
    faults: dict[str, str] = {}
    for number in range(count):
        place = scenario / str(number)
        place.mkdir()
        work = make(random.Random(f"{chance.random()}"), place)
        counts["cases"] += 1
        fault = None
        try:
            work()
            counts["right results"] += 1
        except (UserError, OSError) as error:  # The command line prints one line for both.
            counts["one-line errors"] += 1
            if "\n" in str(error) or len(str(error)) > LONGEST + len(str(place)):
                fault = f"not one line: {str(error)[:300]!r}"
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # A panic in a Rust library is not an Exception.
            fault = f"{type(error).__name__}: {str(error)[:300]!r}, {_where(error)}"
        if fault:
            faults.setdefault(fault[:40], f"case {number}: {fault}")
        else:
            shutil.rmtree(place)
    if set(os.listdir(".")) != before:
        faults["made"] = f"made {set(os.listdir('.')) - before}"
    if faults:
        raise Fault("\n  ".join(["", *faults.values()]), counts)
    return counts


def _where(error: BaseException) -> str:
    """The last line of our code that an error passed through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "mi_sweeps" in frame.filename]
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else "nowhere of ours"
