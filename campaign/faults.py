"""Disks that fill up, fail, write only a part, or turn read-only during work."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from campaign import children, disk, sweep
from campaign.disk import ERRORS, Kind
from campaign.scenarios import Fault, Left, Scenario, Values

COMMANDS = ["run"] * 8 + ["report", "export", "status"]

WAYS = [
    *((Kind.ONCE, error) for error in ("ENOSPC", "EIO", "EDQUOT")),
    *((Kind.FROM_THEN_ON, error) for error in ("ENOSPC", "EIO", "EROFS")),
    (Kind.SHORT, "short"),
    (Kind.READING, "EIO"),
]


def scenarios(folder: Path, quick: bool) -> Iterator[Scenario]:
    """Errors at random calls, and file systems that are too small."""
    for place in (folder / "scratch" / "faults").glob("*/disk"):  # A leftover of a campaign that was killed.
        subprocess.run(["umount", str(place)], capture_output=True)
    for number in range(1 if quick else 72):
        yield Scenario(f"call-{number:03d}", partial(at_a_call, folder, WAYS[number % len(WAYS)], 1 if quick else 2))
    for number in range(0 if quick else 12):
        yield Scenario(f"full-{number:03d}", partial(too_small, folder))


def at_a_call(folder: Path, way: tuple[Kind, str], commands: int, chance: random.Random, scenario: Path) -> Values:
    """Makes the n-th call fail, in one command after another."""
    if not disk.available():
        raise Left("no C compiler (cc) to build the library that lets calls fail")
    kind, error = way
    expected = sweep.reference(folder)
    output = scenario / "outputs"
    counts: Counter[str] = Counter()
    for number in range(commands):
        command = chance.choice(COMMANDS) if sweep.results(output) else "run"
        calls = expected.reads if kind == Kind.READING else expected.writes
        nth = 1 + int(calls * chance.random() ** 2)
        log = scenario / f"{number:02d}-{command}.log"
        place = scenario / "exported" if command == "export" else output
        prepare = partial(disk.arm, place, kind, ERRORS.get(error, errno.EIO), nth)
        words = sweep.words(command, output, *(("--retry",) if command == "run" else ()))
        _count(children.wait(children.fork(scenario, words, log, prepare)), log, counts)
        counts[f"{error} {kind.name.lower().replace('_', ' ')}" if kind != Kind.SHORT else "short writes"] += 1
        check_whole(output)
    sweep.finish(scenario, output, expected, "--retry")
    return counts


def too_small(folder: Path, chance: random.Random, scenario: Path) -> Values:
    """Uses a file system that fills up before the sweep is done, and then enlarges it."""
    expected = sweep.reference(folder)
    most = 3 * sum(map(len, expected.files.values()))
    place = scenario / "disk"
    place.mkdir()
    output = place / "outputs"
    counts: Counter[str] = Counter()
    size = chance.randint(most // 50, most // 2)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True, text=True
    )
    if mounted.returncode:
        raise Left(f"no small file system can be mounted: {mounted.stderr.strip()}")
    try:
        for number in range(2):
            log = scenario / f"{number:02d}.log"
            code = children.wait(children.fork(scenario, sweep.words("run", output, "--retry"), log))
            _count(code, log, counts)
            check_whole(output)
            counts["file systems that were full"] += 1
            size *= 2
            subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)
        subprocess.run(["mount", "-o", f"remount,size={10 * most}", str(place)], check=True)
        sweep.finish(scenario, output, expected, "--retry")
        return counts
    finally:
        children.clear(scenario)
        shutil.copytree(place, scenario / "was", ignore_dangling_symlinks=True)
        subprocess.run(["umount", str(place)], check=True)


def _count(code: int, log: Path, counts: Counter[str]) -> None:
    """Counts how a command ended.

    Raises:
        Fault: it was killed, or did not say why it failed.
    """
    if code not in (0, 1, 2):
        raise Fault(f"ended with {code}: {sweep.last_line(log)}; see {log}")
    counts["recovered" if code == 0 else "refused"] += 1
    if code and not re.search(r"^(error|first error|not finished):? ", log.read_text(), re.M):
        raise Fault(f"ended with {code} and did not say why; see {log}")


def check_whole(output: Path) -> None:
    """Checks that every file with a final name is complete.

    Raises:
        Fault: one is not.
    """
    from mi_sweeps.errors import UserError
    from mi_sweeps.store.files import read_json, read_table
    from mi_sweeps.training import checkpoints

    readers = {".json": read_json, ".parquet": read_table, ".safetensors": checkpoints._load}
    for file in output.rglob("*"):
        inside = any(part.endswith(".partial") for part in file.relative_to(output).parts)
        if inside or file.suffix not in readers or not os.path.isfile(file):
            continue
        try:
            readers[file.suffix](file)
        except UserError as error:
            raise Fault(f"looks whole and is not: {error}") from None
