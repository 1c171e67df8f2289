"""Runs commands in processes that can be killed: forked from this one, which has imported everything, so that each
takes a second; or started as a user starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from campaign.scenarios import Fault

SECONDS = 300.0
"""Time limit for a command on a busy machine."""

MARK = "MI_SWEEPS_SCENARIO"
"""An environment variable that marks the processes of a scenario, including workers."""

SECRETS = {name: f"planted{name.replace('_', '')}d41d8cd98f00b204e9800998" for name in ("WANDB_API_KEY", "HF_TOKEN")}
"""Secrets that must not appear in any file."""


@dataclass(frozen=True)
class Child:
    """A command that was started."""

    pid: int
    log: Path
    """What it prints."""


def ready() -> None:
    """Imports what commands use, without computing anything or starting threads."""
    from mi_sweeps import libraries

    libraries.quiet()
    import torch

    torch.set_num_threads(1)
    import datasets  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import submitit  # noqa: F401
    import transformers.models.gpt2.modeling_gpt2
    import transformers.models.llama.modeling_llama  # noqa: F401

    from mi_sweeps import cli  # noqa: F401
    from mi_sweeps.analysis import frames, report  # noqa: F401
    from mi_sweeps.circuits import examine  # noqa: F401
    from mi_sweeps.jobs import (
        execute,  # noqa: F401
    )
    from mi_sweeps.training import loop  # noqa: F401


def environment(scenario: Path) -> dict[str, str]:
    """The environment of a scenario's processes."""
    return {**os.environ, **SECRETS, MARK: str(scenario), "OMP_NUM_THREADS": "1"}


def fork(scenario: Path, words: Sequence[str], log: Path, prepare: Callable[[], None] = lambda: None) -> Child:
    """Starts a command in a child of this process.

    Args:
        prepare: called in the child before the command.
    """
    sys.stdout.flush()
    log.touch()  # It may be killed before it prints.
    pid = os.fork()
    if pid:
        return Child(pid, log)
    code = 99
    try:
        os.setsid()
        os.environ |= environment(scenario)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for stream in (1, 2):
            os.dup2(file, stream)
        prepare()
        from mi_sweeps import cli

        cli.main(list(words))
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def start(scenario: Path, words: Sequence[str], log: Path) -> Child:
    """Starts a command as a user does."""
    with log.open("ab") as stream:
        command = [sys.executable, "-m", "mi_sweeps.cli", *words]
        begun = subprocess.Popen(
            command, stdout=stream, stderr=stream, env=environment(scenario), start_new_session=True
        )
    begun.returncode = 0  # It is waited for by its id.
    return Child(begun.pid, log)


def wait(child: Child, seconds: float = SECONDS) -> int:
    """Waits for a command; returns its exit code, or the negative number of the signal that killed it.

    Raises:
        Fault: it does not end, or has printed a traceback.
    """
    deadline = time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > deadline:
            os.kill(child.pid, signal.SIGKILL)
            os.waitpid(child.pid, 0)
            raise Fault(f"hangs: no end within {seconds:.0f} s; see {child.log}")
        time.sleep(0.005)
    printed = child.log.read_text(errors="replace")
    if "Traceback (most recent call last)" in printed:
        raise Fault(f"a traceback: {printed.strip().splitlines()[-1]}; see {child.log}")
    return os.waitstatus_to_exitcode(status)


def ended(child: Child) -> bool:
    """Whether it has ended; it can still be waited for."""
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def send(pid: int, signum: int) -> bool:
    """Sends a signal; returns False if the process is gone."""
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return False
    return True


def of_scenario(scenario: Path) -> list[int]:
    """Finds the processes of a scenario, whoever started them."""
    mark = f"{MARK}={scenario}".encode()
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark in file.read_bytes().split(b"\0") and int(file.parent.name) != os.getpid():
                found.append(int(file.parent.name))
    return found


def clear(scenario: Path) -> None:
    """Ends every process of a scenario."""
    while pids := of_scenario(scenario):
        for pid in pids:
            send(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.05)


def shift_clock(seconds: float, after: float = 0.0) -> None:
    """Shifts this process's clock by some seconds, after a delay."""
    from datetime import datetime, timedelta, timezone

    from mi_sweeps.jobs import execute
    from mi_sweeps.slurm import submissions
    from mi_sweeps.store import folders

    real, began = time.time, time.monotonic()

    def shifted() -> float:
        return real() + (seconds if time.monotonic() - began >= after else 0.0)

    def now() -> str:
        moment = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=shifted())
        return moment.isoformat(timespec="microseconds")

    time.time = shifted
    folders.now = execute.now = submissions.now = now
