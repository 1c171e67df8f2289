"""Trials: what is tried, under which seed, and what came of it, as lines of JSON from which a part goes on."""

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
"""What a trial counted or measured."""


class Fault(Exception):
    """What must never be: the trial's result is a fault of the program.

    Args:
        values: what was counted until then.
    """

    def __init__(self, what: str, values: Values | None = None) -> None:
        super().__init__(what)
        self.values = values or {}


class Left(Exception):
    """The trial cannot be made on this machine; why, in one line."""


@dataclass(frozen=True)
class Trial:
    """One thing to try."""

    name: str
    run: Callable[[random.Random, Path], Values]
    """Given its own random numbers and an empty folder; raises `Fault` or `Left`."""


@dataclass(frozen=True)
class Record:
    """What came of a trial."""

    part: str
    trial: str
    seed: int
    seconds: float
    values: Values
    fault: str | None = None
    left: str | None = None


def perform(part: str, trials: Iterable[Trial], seed: int, folder: Path, only: str | None = None) -> Iterator[Record]:
    """Makes those trials that have no result yet or had a fault, or `only` one of them, and gives the results of all.

    Everything a trial does comes from the seed, the part and its name. The folder of a trial stays if it found a fault.
    """
    results = folder / f"{part}.jsonl"
    known = {record.trial: record for record in read(results) if record.seed == seed and not record.fault}
    for trial in trials:
        if only not in (None, trial.name):
            continue
        if trial.name not in known or only:
            scratch = folder / "scratch" / part / trial.name
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            known[trial.name] = record = _one(part, trial, seed, scratch)
            with results.open("a") as lines:
                # The line before may be cut.
                lines.write(f"\n{json.dumps(asdict(record))}\n")
            if not record.fault and not only:
                shutil.rmtree(scratch, ignore_errors=True)
        yield known[trial.name]


def _one(part: str, trial: Trial, seed: int, scratch: Path) -> Record:
    began = time.monotonic()
    values: Values = {}
    fault = left = None
    try:
        values = dict(trial.run(random.Random(f"{seed}/{part}/{trial.name}"), scratch))
    except Left as reason:
        left = str(reason)
    except Fault as found:
        fault, values = str(found), dict(found.values)
    except Exception:  # Of the campaign itself, or of what it calls in this process.
        fault = traceback.format_exc()
    return Record(part, trial.name, seed, round(time.monotonic() - began, 2), values, fault, left)


def read(results: Path) -> list[Record]:
    """The results on disk; the last line may be cut where the machine stopped."""
    found = {}
    for line in results.read_text().splitlines() if results.exists() else ():
        try:
            record = Record(**json.loads(line))
        except ValueError:
            continue
        found[(record.trial, record.seed)] = record
    return list(found.values())


def totals(records: Iterable[Record]) -> Counter[str]:
    """The sums of all values."""
    total: Counter[str] = Counter()
    for record in records:
        total.update(record.values)
    return total
