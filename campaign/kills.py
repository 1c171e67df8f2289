"""Kills processes at random moments: single ones, several at once, local workers, and jobs on a private cluster."""

from __future__ import annotations

import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from campaign import children, disk, sweep
from campaign.children import Child
from campaign.scenarios import Fault, Left, Scenario, Values

COMMANDS = ["run"] * 12 + ["report", "export", "status"]
"""The commands to kill. Commands other than `run` need results to work on."""

SIGNALS = [signal.SIGKILL] * 3 + [signal.SIGTERM] * 2

CLOCKS = (0.0, 0.0, 86400.0, -86400.0, 3600.0, -30.0, 10 * 365.25 * 86400, -10 * 365.25 * 86400)
"""Clock errors of racing processes in seconds; some from the start, others during work."""

CODES = {0, 1, 2, 130, 143, -signal.SIGKILL, -signal.SIGTERM}
"""1: not finished, because of other processes. 2: other processes are working."""


def scenarios(folder: Path, quick: bool) -> Iterator[Scenario]:
    """The whole campaign has at least 200 SIGKILLs and 100 SIGTERMs."""
    counts = {"alone": 1} if quick else {"alone": 36, "racing": 14, "fresh": 8, "local": 6, "slurm": 4}
    kinds = {"alone": alone, "racing": racing, "fresh": fresh, "local": local, "slurm": on_cluster}
    for kind, count in counts.items():
        for number in range(count):
            yield Scenario(f"{kind}-{number:03d}", partial(kinds[kind], folder, 2 if quick else 8))


def alone(folder: Path, most: int, chance: random.Random, scenario: Path) -> Values:
    """Kills one process at a time, at a random moment or at a random call that writes."""
    expected = sweep.reference(folder)
    output = scenario / "outputs"
    counts: Counter[str] = Counter()
    for number in range(2 * most):
        if counts["SIGKILL"] + counts["SIGTERM"] >= most:
            break
        command = chance.choice(COMMANDS) if sweep.results(output) else "run"
        signum = chance.choice(SIGNALS)
        log = scenario / f"{number:02d}-{command}.log"
        # Less and less work is left, so early calls are more likely.
        nth = 1 + int(expected.writes * chance.random() ** 2)
        moment = expected.seconds * chance.random() ** 2
        at_call = disk.available() and chance.random() < 0.5
        place = scenario if command == "export" else output
        prepare = partial(disk.arm, place, disk.Kind.KILL, signum, nth) if at_call else lambda: None
        child = children.fork(scenario, sweep.words(command, output), log, prepare)
        if not at_call:
            _after(child, moment, signum)
        counts["commands"] += 1
        if _is_killed(children.wait(child), log, signum, counts):
            counts["at a call" if at_call else "by the clock"] += 1
            counts[f"of {command}"] += 1
        elif command == "run":
            _undo(output, chance)
    commands = chance.choice([("run",), ("run", "report"), ("run", "export")])
    sweep.finish(scenario, output, expected, commands=commands)
    return counts


def racing(folder: Path, most: int, chance: random.Random, scenario: Path) -> Values:
    """Runs two to four processes at once, with wrong clocks."""
    expected = sweep.reference(folder)
    output = scenario / "outputs"
    counts: Counter[str] = Counter()
    for number in range(most):
        if counts["SIGKILL"] + counts["SIGTERM"] >= most:
            break
        running: list[tuple[Child, float, int]] = []
        began = time.monotonic()
        for index in range(chance.randint(2, 4)):
            log = scenario / f"{number:02d}-{index}.log"
            clock = partial(children.shift_clock, chance.choice(CLOCKS), chance.choice([0.0, expected.seconds / 4]))
            more = ("--wait",) if chance.random() < 0.5 else ()
            child = children.fork(scenario, sweep.words("run", output, *more), log, clock)
            # The last one of a round is sometimes not killed, and finishes the work of the others.
            moment = 1.5 * expected.seconds * chance.random() if chance.random() < 0.8 else 1e9
            running.append((child, moment, chance.choice(SIGNALS)))
            counts["racing processes"] += 1
        while running:
            for one in list(running):
                child, moment, signum = one
                if children.ended(child):
                    running.remove(one)
                    _is_killed(children.wait(child), child.log, signum, counts)
                elif time.monotonic() - began > moment:
                    children.send(child.pid, signum)
                    running[running.index(one)] = (child, 1e9, signum)
            time.sleep(0.002)
        if len(sweep.results(output)) == len(expected.files):
            _undo(output, chance)
    sweep.finish(scenario, output, expected)
    return counts


def fresh(folder: Path, most: int, chance: random.Random, scenario: Path) -> Values:
    """Starts each process as a user does, with all imports."""
    expected = sweep.reference(folder)
    output = scenario / "outputs"
    counts: Counter[str] = Counter()
    startup = _startup()
    for number in range(most):
        signum = chance.choice(SIGNALS)
        log = scenario / f"{number:02d}.log"
        child = children.start(scenario, sweep.words("run", output), log)
        _after(child, startup * 0.5 + (startup + expected.seconds) * chance.random() ** 2, signum)
        counts["fresh processes"] += 1
        if not _is_killed(children.wait(child), log, signum, counts):
            _undo(output, chance)
    sweep.finish(scenario, output, expected)
    return counts


def local(folder: Path, most: int, chance: random.Random, scenario: Path) -> Values:
    """Kills random workers of `launcher=local`."""
    expected = sweep.reference(folder)
    output = scenario / "outputs"
    counts: Counter[str] = Counter()
    for number in range(max(1, most // 2)):
        log = scenario / f"{number:02d}.log"
        child = children.fork(scenario, sweep.words("run", output, "launcher=local", "launcher.workers=2"), log)
        if code := children.wait(child):
            raise Fault(f"`run launcher=local` ended with {code}: {sweep.last_line(log)}")
        for _ in range(2):
            time.sleep((_startup() + expected.seconds) * chance.random())
            pids = children.of_scenario(scenario)
            signum = chance.choice(SIGNALS)
            if pids and children.send(chance.choice(pids), signum):
                counts[signum.name] += 1
                counts["of workers"] += 1
        if chance.random() < 0.5:
            children.clear(scenario)
        else:  # The remaining workers go on beside new ones.
            counts["workers left beside new ones"] += len(children.of_scenario(scenario))
        if len(sweep.results(output)) == len(expected.files):
            _undo(output, chance)
    sweep.finish(scenario, output, expected)
    return counts


def on_cluster(folder: Path, most: int, chance: random.Random, scenario: Path) -> Values:
    """Runs job arrays on a private SLURM cluster: kills their processes, or lets the scheduler end them."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cluster"))
    import cluster as private

    if absent := private.missing():
        raise Left(f"no {', '.join(absent)}: `make slurm` installs SLURM where there are root and apt")
    expected = sweep.reference(folder)
    output = scenario / "outputs"
    counts: Counter[str] = Counter()
    job = ("launcher=slurm", "launcher.cpus=2", "launcher.memory=2500M", "launcher.time=5", "launcher.partition=low")
    with ExitStack() as stack:
        cluster = stack.enter_context(private.running())
        stack.callback(children.clear, scenario)

        def run(number: int) -> None:
            log = scenario / f"{number:02d}.log"
            words = sweep.words("run", output, *job, "--retry")
            child = children.fork(scenario, words, log, lambda: _on(cluster.env))
            if (code := children.wait(child)) not in (0, 1):
                raise Fault(f"`run launcher=slurm` ended with {code}: {sweep.last_line(log)}")

        for number in range(max(1, most // 3)):
            run(number)
            for _ in range(3):
                time.sleep((_startup() + 2.0) * chance.random())
                running = [job for job in cluster.jobs().values() if job.state == "RUNNING"]
                if not running:
                    continue
                one = chance.choice(running)
                signum = chance.choice(SIGNALS)
                if signum == signal.SIGTERM:
                    cluster.run("scontrol", "requeue", one.id, check=False)  # SIGTERM, and SIGKILL later
                    counts["SIGTERM"] += 1
                elif (pids := cluster.pids(one.id)) and children.send(chance.choice(pids), signum):
                    counts["SIGKILL"] += 1
                else:
                    continue
                counts["of tasks on a cluster"] += 1
        for number in range(100, 104):
            cluster.wait_until(lambda: not cluster.jobs(), children.SECONDS, "the queue empty")
            if len(sweep.results(output)) == len(expected.files):
                break
            run(number)
    sweep.finish(scenario, output, expected, "--retry")
    return counts


def _on(env: dict[str, str]) -> None:
    import os

    os.environ |= {name: env[name] for name in ("PATH", "SLURM_CONF")}


def _after(child: Child, seconds: float, signum: int) -> None:
    """Sends a signal after some seconds, unless the process has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not children.ended(child):
        time.sleep(0.001)
    children.send(child.pid, signum)


def _is_killed(code: int, log: Path, signum: int, counts: Counter[str]) -> bool:
    """Returns whether a command was killed, and counts it.

    Raises:
        Fault: it ended in a way that is not allowed.
    """
    if code not in CODES:
        raise Fault(f"ended with {code}: {sweep.last_line(log)}; see {log}")
    if code in (130, 143, -signal.SIGKILL, -signal.SIGTERM):
        counts[signal.Signals(signum).name] += 1
        return True
    if code in (1, 2) and "error" in sweep.last_line(log) and "is working on this" not in sweep.last_line(log):
        counts["refused"] += 1
    return False


def _undo(output: Path, chance: random.Random) -> None:
    """Deletes some results, so that there is work to do again."""
    runs = sorted((output / "runs").glob("[0-9a-f]*"))
    if not runs:
        return
    run = chance.choice(runs)
    jobs = sorted(run.glob("patches/*"))
    shutil.rmtree(chance.choice([run, *jobs]), ignore_errors=True)


def _startup() -> float:
    """About how many seconds a new process takes to import everything."""
    return 5.0
