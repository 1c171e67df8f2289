"""The campaign's command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # A pool of threads does not survive a fork.

from campaign import disk
from campaign.scenarios import Record, Scenario, perform, totals

PARTS = ("kills", "faults", "files", "fuzz", "load", "secrets", "bits")

Scenarios = Callable[[Path, bool], Iterator[Scenario]]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("python -m campaign", description="Tests what mi-sweeps survives.")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part; may be repeated")
    parser.add_argument("--scenario", metavar="NAME", help="repeat only this scenario and keep its folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a few scenarios of each part")
    parser.add_argument("--folder", type=Path, default=Path("build/campaign"), help="default: %(default)s")
    parser.add_argument("--write", action="store_true", help="write the figures in --folder into docs/reliability.md")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the campaign; 1 if a fault was found."""
    options = parse(arguments)
    folder: Path = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if options.write:
        from campaign import figures

        figures.write(folder)
        return 0
    disk.preload(folder)
    from campaign import children

    children.ready()
    return max(run(part, options, folder) for part in options.part or PARTS)


def run(part: str, options: argparse.Namespace, folder: Path) -> int:
    """Runs a part and prints the result."""
    from importlib import import_module

    scenarios: Scenarios = import_module(f"campaign.{part}").scenarios
    records: list[Record] = []
    for record in perform(part, scenarios(folder, options.quick), options.seed, folder, options.scenario):
        records.append(record)
        result = record.fault or record.left or ", ".join(f"{key} {value:g}" for key, value in record.values.items())
        word = "FAULT" if record.fault else "left out" if record.left else "ok"
        print(f"{part} {record.scenario} (seed {record.seed}, {record.seconds:.0f} s) {word}: {result}", flush=True)
    faults = sum(record.fault is not None for record in records)
    left = sum(record.left is not None for record in records)
    counted = ", ".join(f"{key} {value:g}" for key, value in totals(records).items()) if len(records) > 1 else ""
    print(
        f"{part}: {len(records) - left} tried, {len(records) - left - faults} survived, {faults} faults"
        f"{f', {left} left out' if left else ''} (seed {options.seed}){f'; {counted}' if counted else ''}",
        flush=True,
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
