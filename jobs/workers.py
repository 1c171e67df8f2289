"""Worker processes on this machine, which can be watched and stopped from any shell.

Each has a record in the sweep's folder, and holds the lock beside it while it lives. If it ends before its work is
done, the record stays, so that `status` and `wait` can report it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from mi_sweeps import libraries
from mi_sweeps.signals import reraised_if_lost, reraising_if_lost
from mi_sweeps.store.endings import Cancelled
from mi_sweeps.store.files import read_json, write_json
from mi_sweeps.store.status import Failure, now
from mi_sweeps.sweeps import manifest

if TYPE_CHECKING:
    from mi_sweeps.config import LauncherConfig

CANCEL_SECONDS = 30.0
"""How long `cancel` waits for a process to save its work and stop."""

_started: list[subprocess.Popen] = []
"""Kept, because a deleted Popen warns if its process still runs."""


@dataclass(frozen=True)
class Worker:
    """A process that works on a sweep."""

    host: str
    pid: int | None
    """None while it is starting."""
    launcher: str
    log: str | None = None
    """The file it prints to; None if it prints to a terminal."""

    @property
    def last_line(self) -> str:
        """The last line that it printed: its error, if it failed."""
        lines = Path(self.log).read_text(errors="replace").split("\n") if self.log and Path(self.log).exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "it left no error: it was killed")


def _folder(output: Path, name: str) -> Path:
    return manifest.path(output, name).parent / "workers"


def _submissions(output: Path, name: str) -> Path:
    return manifest.path(output, name).parent / "submissions"


@contextmanager
def registered(output: Path, name: str, launcher: str) -> Iterator[None]:
    """Registers this process as a worker of a sweep, which SIGTERM stops."""
    folder = _folder(output, name)
    record = folder / f"{socket.gethostname()}-{os.getpid()}.json"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(record.with_suffix(".lock")), _stopped_by_sigterm():
            write_json(record, asdict(Worker(socket.gethostname(), os.getpid(), launcher)))
            yield
    finally:
        with suppress(OSError):  # If it stays on a broken disk, its free lock shows that the worker is gone.
            _remove(record)


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    def stop(signum: int, frame: Any) -> None:
        raise reraised_if_lost(Cancelled())

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with reraising_if_lost():
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _remove(record: Path) -> None:
    record.unlink(missing_ok=True)
    record.with_suffix(".lock").unlink(missing_ok=True)


def alive(output: Path, name: str) -> list[Worker]:
    """Returns the workers that are running."""
    return [worker for worker, _, lives in _all(output, name) if lives]


def dead(output: Path, name: str) -> list[Worker]:
    """Returns the workers that ended before their work was done, since the sweep's last `run`."""
    return [worker for worker, _, lives in _all(output, name) if not lives]


def forget_dead(output: Path, name: str) -> None:
    """Deletes the records of workers that are gone."""
    for _, record, lives in _all(output, name):
        if not lives:
            _remove(record)


def _all(output: Path, name: str) -> Iterator[tuple[Worker, Path, bool]]:
    """Yields each worker with its record, and whether it is running."""
    for record in sorted(_folder(output, name).glob("*.json")):
        try:
            with FileLock(record.with_suffix(".lock"), timeout=0):
                lives = False
        except Timeout:
            lives = True
        values = read_json(record)
        if values is None:  # It has ended since it was listed.
            _remove(record)
        else:
            yield Worker(**values), record, lives


def cancel(output: Path, name: str) -> tuple[list[Worker], list[Worker]]:
    """Stops the workers of a sweep on this machine, and waits until they have ended.

    Their points are marked as cancelled and can be resumed.

    Returns:
        The stopped workers, and those that are still running (on other machines, or too busy to stop).
    """
    # Workers that are still starting will find no submission.
    for file in _submissions(output, name).glob("*.json"):
        file.unlink(missing_ok=True)
    here = [worker for worker in alive(output, name) if worker.host == socket.gethostname() and worker.pid]
    for worker in here:
        with suppress(ProcessLookupError):  # It has just ended.
            os.kill(worker.pid or 0, signal.SIGTERM)
    deadline = time.monotonic() + CANCEL_SECONDS
    left = alive(output, name)
    while any(worker in left for worker in here) and time.monotonic() < deadline:
        time.sleep(0.1)
        left = alive(output, name)
    return [worker for worker in here if worker not in left], [worker for worker in left if worker.pid]


def submit(
    output: Path, name: str, patch_ids: list[str], launcher: LauncherConfig, *, retry: Sequence[Failure]
) -> list[str]:
    """Starts workers for some points of a sweep and returns at once.

    Each gets its own session, so that Ctrl-C in this terminal, or closing it, does not stop them.

    Returns:
        The process ids.
    """
    gpus = _gpus(launcher.device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # One for a named GPU, one for each GPU, or one for every two cores.
    most = 1 if launcher.device.startswith("cuda:") else len(gpus) or max(1, cores // 2)
    count = min(launcher.workers or most, len(patch_ids))
    threads = launcher.threads or max(1, cores // count)
    id = f"{time.strftime('%Y%m%dT%H%M%S')}-{socket.gethostname()}-{os.getpid()}"
    submission = _submissions(output, name) / f"{id}.json"
    write_json(submission, {"patch_ids": patch_ids, "retry": retry, "threads": threads, "began": now()})
    pids = []
    for index in range(count):
        environment = {"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]} if gpus else {}
        pids.append(_start(output.absolute(), name, submission.absolute(), f"{id}-{index}", environment))
    return pids


def _start(output: Path, name: str, submission: Path, id: str, environment: dict[str, str]) -> str:
    """Starts one worker; returns its process id."""
    record = _folder(output, name) / f"{id}.json"
    log = manifest.path(output, name).parent / "logs" / f"{id}.txt"
    for folder in (record.parent, log.parent):
        folder.mkdir(exist_ok=True)
    # The worker inherits the lock: it holds it from its first moment, and the system frees it when it ends.
    lock = os.open(record.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with suppress(OSError):  # On a file system without locks, the file alone serves as one (docs/scale.md).
            fcntl.flock(lock, fcntl.LOCK_EX)
        write_json(record, asdict(Worker(socket.gethostname(), None, "local", str(log))))
        with log.open("wb") as printed:
            process = subprocess.Popen(
                libraries.python("from mi_sweeps.jobs.workers import work_on; work_on(*sys.argv[1:])")
                + [str(output), name, str(submission), str(record), str(lock)],
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                pass_fds=[lock],
                start_new_session=True,
            )
    finally:
        os.close(lock)
    _started.append(process)
    return str(process.pid)


def _gpus(device: str) -> list[str]:
    """Returns values of CUDA_VISIBLE_DEVICES for the workers to take in turn; empty to leave it unchanged."""
    if device not in ("auto", "cuda"):
        return []
    import torch

    count = torch.cuda.device_count()
    # The user's list may be longer: CUDA ignores everything from the first unknown entry on.
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [entry.strip() for entry in given.split(",")][:count] if given else [str(index) for index in range(count)]


def work_on(output: str, name: str, submission: str, record: str, lock: str) -> None:
    """Runs in a worker process: shares the points of a submission with the other workers until all are done.

    Args:
        lock: the descriptor of the open file that holds its lock.

    Raises:
        SystemExit: 143 if it was stopped.
    """
    os.set_inheritable(int(lock), False)
    code = 0
    try:
        with _stopped_by_sigterm():
            # Before it reads its submission, because `cancel` deletes submissions before it looks for workers.
            write_json(Path(record), {**read_json(Path(record)), "pid": os.getpid()})
            _work(Path(output), name, Path(submission))
    except Cancelled:
        code = 143
    _remove(Path(record))
    sys.exit(code)


def _work(output: Path, name: str, file: Path) -> None:
    libraries.quiet()
    submission = read_json(file)
    if submission is None:
        return  # Cancelled before it began.
    from mi_sweeps.jobs.execute import execute

    libraries.ready(submission["threads"])
    wanted = set(submission["patch_ids"])
    points = [entry.point(output) for entry in manifest.load(output, name) if entry.patch_id in wanted]
    # `began` keeps workers from retrying each other's failures.
    execute(points, retry=submission["retry"], began=submission["began"], wait=True)
