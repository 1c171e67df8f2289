"""Prints Markdown tables to standard output, and progress to standard error."""
# ruff: noqa: T201

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median


def table(title: str, columns: str, rows: Sequence[Sequence[str]]) -> None:
    """Prints a table; `|` separates the names of columns."""
    names = [name.strip() for name in columns.split("|")]
    lines = [names, ["---"] * len(names), *rows]
    print(f"\n### {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines), flush=True)


def processor() -> str:
    """Describes the machine's processor and its cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "CPU")
    return f"{cpu}, {os.cpu_count()} cores"


def note(text: str) -> None:
    """Prints progress, which is not part of the results."""
    print(f"[{time.process_time():.0f} CPU-s] {text}", file=sys.stderr, flush=True)


def spread(values: Sequence[float], factor: float = 1.0) -> str:
    """Formats the median, with the smallest and largest value if there are several."""
    middle, least, most = (f"{factor * v:#.3g}".rstrip(".") for v in (median(values), min(values), max(values)))
    return f"{middle} ({least}–{most})" if len(values) > 1 else middle
