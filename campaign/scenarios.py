"""Scenarios and their results, stored as JSON lines, from which an interrupted part resumes.

They are read and written with `json`; a library for JSON lines would not accept a cut last line.
"""

from __future__ import annotations

import json
import random
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

Values = dict[str, float]
"""The counts or measurements of a scenario."""


class Fault(Exception):
    """The scenario found a fault of the program.

    Args:
        values: the counts until then.
    """

    def __init__(self, what: str, values: Values | None = None) -> None:
        super().__init__(what)
        self.values = values or {}


class Left(Exception):
    """The scenario is not possible on this machine; the reason in one line."""


@dataclass(frozen=True)
class Scenario:
    """One scenario."""

    name: str
    run: Callable[[random.Random, Path], Values]
    """Takes its own random numbers and an empty folder; raises `Fault` or `Left`."""


@dataclass(frozen=True)
class Record:
    """The result of a scenario."""

    part: str
    scenario: str
    seed: int
    seconds: float
    values: Values
    fault: str | None = None
    left: str | None = None


def perform(
    part: str, scenarios: Iterable[Scenario], seed: int, folder: Path, only: str | None = None
) -> Iterator[Record]:
    """Runs the scenarios that have no result yet or had a fault, or `only` one of them; returns the results of all.

    A scenario depends only on the seed, the part and its name. Its folder is kept if it found a fault.
    """
    results = folder / f"{part}.jsonl"
    known = {record.scenario: record for record in read(results) if record.seed == seed and not record.fault}
    for scenario in scenarios:
        if only not in (None, scenario.name):
            continue
        if scenario.name not in known or only:
            scratch = folder / "scratch" / part / scenario.name
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            known[scenario.name] = record = _one(part, scenario, seed, scratch)
            with results.open("a") as lines:
                # The previous line may be cut.
                lines.write(f"\n{json.dumps(asdict(record))}\n")
            if not record.fault and not only:
                shutil.rmtree(scratch, ignore_errors=True)
        yield known[scenario.name]


def _one(part: str, scenario: Scenario, seed: int, scratch: Path) -> Record:
    began = time.monotonic()
    values: Values = {}
    fault = left = None
    try:
        values = dict(scenario.run(random.Random(f"{seed}/{part}/{scenario.name}"), scratch))
    except Left as reason:
        left = str(reason)
    except Fault as found:
        fault, values = str(found), dict(found.values)
    except Exception:  # A bug of the campaign, or of what it calls in this process.
        fault = traceback.format_exc()
    return Record(part, scenario.name, seed, round(time.monotonic() - began, 2), values, fault, left)


def read(results: Path) -> list[Record]:
    """Reads the results on disk, except a line cut when the machine stopped, and those of earlier versions."""
    found = {}
    for line in results.read_text().splitlines() if results.exists() else ():
        try:
            record = Record(**json.loads(line))
        except (ValueError, TypeError):
            continue
        found[(record.scenario, record.seed)] = record
    return list(found.values())


def totals(records: Iterable[Record]) -> Counter[str]:
    """Sums all values."""
    total: Counter[str] = Counter()
    for record in records:
        total.update(record.values)
    return total
