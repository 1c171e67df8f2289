"""The figures of docs/reliability.md, generated from the results on disk, between two marks in the page."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from campaign.scenarios import Record, read, totals

PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"

BEGIN, END = "<!-- figures: python -m campaign --write -->\n", "<!-- end of figures -->\n"

PARTS = {
    "kills": "Kills",
    "faults": "Faults of the disk",
    "files": "Damaged files",
    "fuzz": "Hostile input",
    "load": "Load",
    "secrets": "Secrets",
}

KINDS = {
    "alone": "one process at a time, forked",
    "racing": "two to four at once, clocks wrong",
    "fresh": "new processes, with all imports",
    "local": "local workers",
    "slurm": "a private SLURM cluster",
}


def write(folder: Path) -> None:
    """Writes the figures from a folder of results into the page."""
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{figures(folder)}\n{END}{after}")


def figures(folder: Path) -> str:
    """Returns the figures as Markdown."""
    found = {part: read(folder / f"{part}.jsonl") for part in (*PARTS, "bits")}
    seeds = sorted({record.seed for records in found.values() for record in records})
    parts = (_row(name, found[part]) for part, name in PARTS.items())
    load = ([key, f"{value:,g}"] for record in found["load"] for key, value in record.values.items())
    counted = [line for part in ("kills", "faults", "files", "fuzz", "secrets") for line in _counted(part, found[part])]
    lines = [
        f"Measured {datetime.now(timezone.utc):%Y-%m-%d} on {machine()}; Python {platform.python_version()}, "
        f"torch {version('torch')}, transformers {version('transformers')}; seed {', '.join(map(str, seeds))}.",
        "",
        *_table("part | scenarios | survived | faults | not here | minutes", parts),
        "",
        "Kills, by how the sweep was run:",
        "",
        *_table("sweep | SIGKILL | SIGTERM | survived", _kills(found["kills"])),
        "",
        *counted,
        "Load:",
        "",
        *_table("what | measured", load),
        "",
        *_faults(found["load"]),
        "",
        "Bits, against the same sweep in one process with one thread: files that are equal, and the largest",
        "differences after 40 steps, in the units of weights, of metrics and of logits.",
        "",
        *_table("way | equal files | weights | metrics | logit differences", _bits(found["bits"])),
        "",
    ]
    return "\n".join(lines)


def machine() -> str:
    """Describes the processor and its cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{os.cpu_count()} cores of a shared {name}, {sys.platform}"


def _table(head: str, rows: Iterator[Sequence[str]]) -> list[str]:
    columns = head.split(" | ")
    return [f"| {head} |", f"|{'---|' * len(columns)}", *(f"| {' | '.join(row)} |" for row in rows)]


def _row(name: str, records: Sequence[Record]) -> list[str]:
    left = sum(record.left is not None for record in records)
    faults = sum(record.fault is not None for record in records)
    minutes = sum(record.seconds for record in records) / 60
    tried = len(records) - left
    return [name, str(tried), str(tried - faults), str(faults), str(left), f"{minutes:.0f}"]


def _kills(records: Sequence[Record]) -> Iterator[list[str]]:
    for kind, label in KINDS.items():
        some = [record for record in records if record.scenario.startswith(f"{kind}-") and not record.left]
        counted = totals(some)
        survived = sum(record.fault is None for record in some)
        yield [label, f"{counted['SIGKILL']:g}", f"{counted['SIGTERM']:g}", f"{survived} of {len(some)} sweeps"]
    counted = totals(records)
    yield ["all", f"{counted['SIGKILL']:g}", f"{counted['SIGTERM']:g}", ""]


def _counted(part: str, records: Sequence[Record]) -> Iterator[str]:
    counted = ", ".join(f"{key} {value:,g}" for key, value in sorted(totals(records).items()))
    yield f"Counted in `{part}`: {counted or 'nothing'}."
    yield ""
    yield from _faults(records)
    for reason in sorted({record.left for record in records if record.left}):
        yield f"- not here: {reason}"


def _faults(records: Sequence[Record]) -> list[str]:
    return [f"- Fault in `{record.scenario}`: {record.fault[:200]}." for record in records if record.fault]


def _bits(records: Sequence[Record]) -> Iterator[list[str]]:
    for record in records:
        if record.left or record.fault:
            yield [record.scenario, str(record.left or record.fault)[:100], "", "", ""]
            continue
        files = f"{record.values['equal files']:g} of {record.values['files']:g}"
        yield [
            record.scenario,
            files,
            *(f"{record.values[f'{kind} apart']:.2g}" for kind in ("weights", "metrics", "tables")),
        ]
