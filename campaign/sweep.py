"""The sweep to disturb, and the checks that it must pass in the end."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from campaign import children, disk
from campaign.scenarios import Fault

OVERRIDES = (
    "task.prompts.train=24",
    "task.prompts.heldout=12",
    "task.prompts.two_name=4",
    "train.steps=4",
    "train.batch_size=8",
    "checkpoint.every=2",
    "checkpoint.steps=[]",
    "patching=heads",
    "patching.prompts=6",
    "patching.steps=[0,4]",
    "seed=0,1",
    "corruption=first,second",
    "launcher.threads=1",
    "sweep.name=s",
)
"""Two fine-tunes with three checkpoints, and four patch jobs with two tables: every phase in a few seconds."""

NAME = "s"


@dataclass(frozen=True)
class Reference:
    """The undisturbed sweep."""

    files: dict[str, bytes]
    """Weights and tables, which must be equal bit for bit, by path in the output folder."""
    seconds: float
    writes: int
    """Number of write calls below the output folder."""
    reads: int


def words(command: str, output: Path, *more: str) -> list[str]:
    """A command on the sweep."""
    if command == "run":
        return ["run", *OVERRIDES, f"output={output}", *more]
    if command == "export":
        return ["export", str(output.with_name("exported")), NAME, f"output={output}", *more]
    return [command, NAME, f"output={output}", *more]


def results(output: Path) -> dict[str, bytes]:
    """The bytes of all computed files, by path."""
    places = ("*/metrics.parquet", "*/checkpoints/[0-9]*", "*/patches/*/tables/[0-9]*")
    found = (file for place in places for file in (output / "runs").glob(place))
    return {str(file.relative_to(output)): file.read_bytes() for file in sorted(found)}


@cache
def reference(folder: Path) -> Reference:
    """The undisturbed sweep, run once per folder."""
    scenario = folder / "scratch" / "reference"
    shutil.rmtree(scenario, ignore_errors=True)
    scenario.mkdir(parents=True)
    output = scenario / "outputs"

    def counted() -> None:
        disk.arm(output)
        real = os._exit

        def leave(code: int) -> None:
            (scenario / "calls").write_text(" ".join(map(str, disk.calls())))
            real(code)

        os._exit = leave

    began = time.monotonic()
    code = children.wait(children.fork(scenario, words("run", output), scenario / "log", counted))
    if code:
        raise Fault(f"the undisturbed sweep ended with {code}; see {scenario / 'log'}")
    seconds = time.monotonic() - began
    writes, reads = map(int, (scenario / "calls").read_text().split())
    return Reference(results(output), seconds, writes, reads)


def finish(
    scenario: Path,
    output: Path,
    expected: Reference,
    *more: str,
    commands: Sequence[str] = ("run",),
    once: bool = True,
) -> None:
    """Finishes the sweep without disturbing it, and checks that the result is as if nothing had happened.

    Args:
        more: options of the last command.
        commands: commands still to run.
        once: whether nothing was deleted in the meantime, so that nothing may be computed twice.

    Raises:
        Fault: a check fails.
    """
    children.clear(scenario)
    # As if an hour had passed: older leftovers count as abandoned.
    for partial in output.rglob("*.partial"):
        os.utime(partial, (time.time() - 7200,) * 2)
    for command in commands:
        log = scenario / f"last-{command}.log"
        code = children.wait(children.fork(scenario, words(command, output, *more), log))
        if code:
            raise Fault(f"the undisturbed `{command}` ended with {code}: {last_line(log)}; see {log}")
    found = results(output)
    for name, content in expected.files.items():
        if name not in found:
            raise Fault(f"{output / name}: not there")
        if found[name] != content:
            raise Fault(f"{output / name}: other bits than those of an undisturbed sweep")
    check_tidy(output)
    if once:
        check_once(output)
    check_secrets(scenario)
    log = scenario / "again.log"
    before = {file: file.stat().st_mtime_ns for file in output.glob("runs/**/*") if file.is_file()}
    code = children.wait(children.fork(scenario, words("run", output), log))
    if code or "nothing to do" not in log.read_text():
        raise Fault(f"`run` of a finished sweep ended with {code}; see {log}")
    changed = [file for file, at in before.items() if file.stat().st_mtime_ns != at and file.name != ".lock"]
    if changed:
        raise Fault(f"{changed[0]}: written again by `run` of a finished sweep")


def check_tidy(output: Path) -> None:
    """Checks that no temporary file is left."""
    left = [str(file) for file in output.rglob("*") if "partial" in file.name or file.suffix in (".tmp", ".temp")]
    if left:
        raise Fault(f"left behind: {', '.join(left[:3])}")


def check_once(output: Path) -> None:
    """Checks in the logs that no fine-tune and no table was completed twice."""
    for log in (output / "runs").glob("**/log.txt"):
        ends = Counter(re.findall(r"INFO (step \d+): (?:\d+ rows)?", log.read_text(errors="replace")))
        is_patch = log.parent.parent.name == "patches"
        last = max((int(step.split()[1]) for step in ends), default=0)
        for step, count in ends.items():
            # A checkpoint is made again if its attempt was killed before the resume state was written.
            if count > 1 and (is_patch or step == f"step {last}"):
                raise Fault(f"{log}: {step} was done {count} times")


def check_secrets(scenario: Path) -> None:
    """Checks that no file contains a secret."""
    for file in scenario.rglob("*"):
        if file.is_file() and not file.is_symlink():
            content = file.read_bytes()
            for name, secret in children.SECRETS.items():
                if secret.encode() in content:
                    raise Fault(f"{file}: has {name}")


def last_line(log: Path) -> str:
    """Returns the last line of a log."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
