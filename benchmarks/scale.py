"""Measures the cost of thousands of grid points in planning, status and loading: seconds, memory, files and bytes.

The sweeps are learning rates x seeds x 2 corruptions of `mini`, so there are half as many fine-tunes as points. One
point is computed, and its files serve for all others (`simulate.py`): of every hundred fine-tunes a few have failed,
been interrupted or not begun. 16 in all are running; this process holds their locks.

- Seconds are wall-clock, on a local disk that the system has cached; on a shared file system each system call takes
  longer (they are counted below). Medians of `--repeats`, with the smallest and the largest; then the median of
  CPU-seconds, which other work on the machine affects less.
- "x" compares the largest sweep with the second largest: the ratio of their CPU-seconds over the ratio of their points.
  At 1 the cost is linear; below 1 the fixed cost of starting a process still shows.
- Rows in `code` are commands as typed, each in a process of its own, including its imports.
- All tables of patch jobs are loaded only up to `--tables` points; beyond that they fill the memory.

`python benchmarks/scale.py --help` lists the options; benchmarks/README.md has results.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import gc
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from printing import note, processor, spread, table
from simulate import Sample, fill, sample

from mi_sweeps.config import SlurmConfig
from mi_sweeps.slurm.arrays import layout, parameters
from mi_sweeps.slurm.queue import Limits
from mi_sweeps.sweeps import manifest, plan
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.sweeps.points import GridPoint

RATES = ("1e-5", "3e-5", "1e-4", "3e-4", "1e-3")
CALLS = "openat mkdir unlink rmdir rename fsync flock".split()
"""System calls that are slow on a shared file system."""


@dataclass(frozen=True)
class Sweep:
    """A grid with this many points."""

    count: int
    folder: Path
    more: tuple[str, ...]
    """Further overrides."""

    @property
    def output(self) -> Path:
        """The folder of its simulated results."""
        return self.folder / f"outputs-{self.count}"

    @property
    def overrides(self) -> list[str]:
        """The overrides on the command line."""
        seeds = self.count // (2 * len(RATES))
        grid = [f"seed=range(0,{seeds})", f"optim.lr={','.join(RATES)}", "corruption=first,second"]
        return [*grid, "sweep.name=big", f"output={self.output}", *self.more]


@dataclass
class Took:
    """Measurements of one thing, by how many points there are."""

    wall: dict[int, list[float]] = field(default_factory=dict)
    cpu: dict[int, list[float]] = field(default_factory=dict)
    memory: dict[int, float] = field(default_factory=dict)
    """Peak MB of commands."""


@dataclass(frozen=True)
class Process:
    """The cost of a process."""

    cpu: float
    memory: float
    """Peak MB."""


Row = tuple[str, Callable[[], object]]
"""What is measured, and the function that does it."""


def before(sweep: Sweep, points: Sequence[GridPoint]) -> Iterator[Row]:
    """Returns the work before anything is computed, in an empty output folder; one row each."""
    yield "plan: overrides to points", lambda: expand(sweep.overrides)
    reference = "checkpoint.every=${train.steps}"
    yield "plan: the same with a reference, `${…}`", lambda: expand([*sweep.overrides, reference])
    yield "plan: states of an empty output", lambda: plan.make(points)
    yield "`mi-sweeps plan`", command("plan", *sweep.overrides)
    yield "submit: arrays and their sbatch parameters", lambda: submission(points)
    yield "sweep.json: written", lambda: manifest.add(sweep.output, "big", points, "mi-sweeps run")


def submission(points: Sequence[GridPoint]) -> list[dict[str, Any]]:
    """Returns submitit's parameters for each array of a submission."""
    (one,) = expand(["launcher=slurm", "launcher.pack=2", "launcher.gpus=1"])
    launcher = one.config.launcher
    assert isinstance(launcher, SlurmConfig)
    arrays = layout(*plan.make(points).missing(), {}, launcher, "big", Limits().tasks)
    return [parameters(array, launcher, "aftercorr:1") for array in arrays]


def after(sweep: Sweep, tables: bool) -> Iterator[Row]:
    """Returns the work once most points are done."""
    # Imported here, because planning does not need the libraries of analysis.
    from mi_sweeps.analysis import frames

    output = sweep.output
    points = [entry.point(output) for entry in manifest.load(output, "big")]
    yield "sweep.json: read", lambda: [entry.point(output) for entry in manifest.load(output, "big")]
    yield "states of all folders", lambda: plan.make(points)
    yield "`mi-sweeps status`", command("status", "big", f"output={output}")
    yield "`mi-sweeps status --points`", command("status", "--points", "big", f"output={output}")
    yield "frames: runs, patch jobs, metrics", lambda: frames.load(output, ["big"], most=0)
    if tables:
        yield "frames: all tables", lambda: frames.load(output, ["big"])
    yield "`mi-sweeps report`", command("report", "big", f"output={output}")


COMMAND = """
import re, sys, time
from pathlib import Path
from mi_sweeps import cli
try:
    cli.main(sys.argv[1:])
finally:
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
    print(time.process_time(), peak, file=sys.stderr)
"""
"""Runs the command line, then prints its CPU-seconds and the peak memory of its process."""


def command(*arguments: str) -> Callable[[], Process]:
    """Runs a command in its own process."""

    def run() -> Process:
        done = subprocess.run([sys.executable, "-c", COMMAND, *arguments], check=True, capture_output=True, text=True)
        cpu, kilobytes = done.stderr.split()[-2:]
        return Process(float(cpu), int(kilobytes) / 1024)

    return run


def measure(rows: Iterator[Row], count: int, repeats: int, found: dict[str, Took]) -> None:
    """Adds the cost of each row with this many points."""
    for name, work in rows:
        took = found.setdefault(name, Took())
        for _ in range(repeats):
            # Keeps the garbage collector from scanning earlier measurements again and again.
            gc.collect()
            gc.freeze()
            began, begun = time.perf_counter(), time.process_time()
            result = work()
            cpu = result.cpu if isinstance(result, Process) else time.process_time() - begun
            took.wall.setdefault(count, []).append(time.perf_counter() - began)
            took.cpu.setdefault(count, []).append(cpu)
            if isinstance(result, Process):
                took.memory[count] = max(result.memory, took.memory.get(count, 0.0))
            del result
        note(f"{count} points, {name}: {median(took.wall[count]):.2f} s")


def growth(cpu: dict[int, list[float]]) -> str:
    """Returns the growth of the seconds from the second largest sweep to the largest, over that of the points."""
    if len(cpu) < 2:
        return ""
    (few, least), (many, most) = list(cpu.items())[-2:]
    return f"{median(most) / median(least) / (many / few):.2f}"


def disk(made: Sample) -> list[list[str]]:
    """Counts what one run and one patch job leave on disk."""
    rows = []
    for name, folder, without in (("run", made.run.path, "patches"), ("patch job", made.patch.path, "")):
        paths = [folder, *(path for path in folder.rglob("*") if path.relative_to(folder).parts[0] != without)]
        files = [path for path in paths if path.is_file()]
        large = [path for path in files if path.suffix == ".safetensors"]
        small = sum(path.stat().st_size for path in files if path not in large)
        weights = f"{sum(path.stat().st_size for path in large) / 1e6:.2f} in {len(large)}" if large else ""
        rows.append([name, str(len(files)), str(len(paths) - len(files)), weights, f"{small / 1e3:.0f}"])
    return rows


def traced(folder: Path) -> list[str]:
    """Returns the command prefix that records a job's system calls on files."""
    if not shutil.which("strace"):
        return []
    return ["strace", "-f", "-y", "-e", f"trace={','.join(CALLS)}", "-o", str(folder / "JOB.strace")]


def questions(folder: Path, below: Path) -> list[list[str]]:
    """Counts the system calls of a fine-tune and a patch job on their output folder."""
    rows = []
    for job in ("finetune", "patch"):
        lines = (folder / f"{job}.strace").read_text().splitlines()
        calls = Counter(line.split(maxsplit=1)[1].partition("(")[0] for line in lines if f"{below}/" in line)
        rows.append([job, *(str(calls[call]) for call in CALLS)])
    return rows


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measures the cost of thousands of grid points; prints Markdown.")
    parser.add_argument("--points", nargs="+", type=int, default=[100, 1000, 10000], help="multiples of 10, rising")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tables", type=int, default=100, metavar="N", help="load all tables of at most N points")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of all points")
    options = parser.parse_args(arguments)
    if any(count % (2 * len(RATES)) for count in options.points):
        parser.error(f"--points: give multiples of {2 * len(RATES)}")
    return options


def main(arguments: Sequence[str]) -> None:
    """Measures and prints."""
    options = parse(arguments)
    versions = ", ".join(f"{name} {version(name)}" for name in ("hydra-core", "pydantic", "pandas", "pyarrow"))
    print(
        f"{processor()}; Python {sys.version.split()[0]}, {versions}; {datetime.now(timezone.utc):%Y-%m-%d}; "
        f"load {os.getloadavg()[0]:.1f} at the start.\n\nMedians of {options.repeats} (smallest–largest)."
    )
    found: dict[str, Took] = {}
    sizes: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in options.points:
            sweep = Sweep(count, folder, tuple(options.set))
            measure(before(sweep, expand(sweep.overrides)), count, options.repeats, found)
        tracing = traced(folder)
        made = sample(folder / "sample", options.set, tracing)
        for count in options.points:
            sweep = Sweep(count, folder, tuple(options.set))
            with ExitStack() as at_work:
                fill(expand(sweep.overrides), made, at_work)
                note(f"{count} points simulated")
                measure(after(sweep, count <= options.tables), count, options.repeats, found)
            sizes[count] = manifest.path(sweep.output, "big").stat().st_size
            shutil.rmtree(sweep.output)
        print_costs(options.points, found)
        table("sweep.json", columns(options.points), [[f"{size / 1e6:.2f} MB" for size in sizes.values()]])
        table("On disk", "one | files | folders | weights, MB | all else, kB", disk(made))
        if tracing:
            asked = questions(folder, folder / "sample" / "runs")
            table("Requests to the file system below `runs`", f"one | {' | '.join(CALLS)}", asked)


def columns(counts: Sequence[int]) -> str:
    """Headings, one per number of points."""
    return " | ".join(f"{count:,} points" for count in counts)


def print_costs(counts: Sequence[int], found: Mapping[str, Took]) -> None:
    """The tables of seconds and of memory."""
    seconds, memory = [], []
    for what, took in found.items():
        printed = {at: f"{spread(wall)}; {median(took.cpu[at]):#.2g}" for at, wall in took.wall.items()}
        seconds.append([what, *(printed.get(count, "") for count in counts), growth(took.cpu)])
        if took.memory:
            memory.append([what, *(f"{took.memory[count]:.0f}" for count in counts)])
    table("Seconds; CPU-seconds", f"what | {columns(counts)} | x", seconds)
    table("Memory, MB at most", f"what | {columns(counts)}", memory)


if __name__ == "__main__":
    main(sys.argv[1:])
