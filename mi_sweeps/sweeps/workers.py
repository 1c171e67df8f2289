"""Processes that compute points on this machine, seen and stopped from any shell.

Each has a record in the sweep's folder and holds the lock beside it while it lives. Of one that ends before its work
is done the record stays, so that whoever looks or waits can say so.
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
from mi_sweeps.signals import insisted_on
from mi_sweeps.store.endings import Cancelled
from mi_sweeps.store.files import read_json, write_json
from mi_sweeps.store.status import Failure, now
from mi_sweeps.sweeps import manifest

if TYPE_CHECKING:
    from mi_sweeps.config import LauncherConfig

CANCEL_SECONDS = 30.0
"""How long `cancel` waits for a process to put its point away before it says so."""

_started: list[subprocess.Popen] = []
"""Kept, for a Popen that is thrown away warns that its process still runs."""


@dataclass(frozen=True)
class Worker:
    """A process at work on a sweep."""

    host: str
    pid: int | None
    """None: it was started, and has not yet said its first word."""
    launcher: str
    log: str | None = None
    """What it prints, if that is not this terminal's."""

    @property
    def last_line(self) -> str:
        """The last line of what it printed: of one that failed, its error."""
        lines = Path(self.log).read_text(errors="replace").split("\n") if self.log and Path(self.log).exists() else []
        return next((line.strip() for line in reversed(lines) if line.strip()), "it left no error: it was killed")


def _folder(output: Path, name: str) -> Path:
    return manifest.path(output, name).parent / "workers"


def _submissions(output: Path, name: str) -> Path:
    return manifest.path(output, name).parent / "submissions"


@contextmanager
def registered(output: Path, name: str, launcher: str) -> Iterator[None]:
    """Makes this process known as a worker of a sweep, and SIGTERM its order to stop."""
    folder = _folder(output, name)
    record = folder / f"{socket.gethostname()}-{os.getpid()}.json"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(record.with_suffix(".lock")), _stopped_by_sigterm():
            write_json(record, asdict(Worker(socket.gethostname(), os.getpid(), launcher)))
            yield
    finally:
        with suppress(OSError):  # What stays on a broken disk is known by its lock to be nobody's.
            _remove(record)


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    def stop(signum: int, frame: Any) -> None:
        raise Cancelled

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with insisted_on():
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _remove(record: Path) -> None:
    record.unlink(missing_ok=True)
    record.with_suffix(".lock").unlink(missing_ok=True)


def alive(output: Path, name: str) -> list[Worker]:
    """The processes that work on a sweep now."""
    return [worker for worker, _, lives in _all(output, name) if lives]


def dead(output: Path, name: str) -> list[Worker]:
    """Those that ended before their work was done, since the last `run` of the sweep."""
    return [worker for worker, _, lives in _all(output, name) if not lives]


def forget_dead(output: Path, name: str) -> None:
    """Tidies away the records of processes that are gone."""
    for _, record, lives in _all(output, name):
        if not lives:
            _remove(record)


def _all(output: Path, name: str) -> Iterator[tuple[Worker, Path, bool]]:
    """Each process with its record, and whether it lives."""
    for record in sorted(_folder(output, name).glob("*.json")):
        try:
            with FileLock(record.with_suffix(".lock"), timeout=0):
                lives = False
        except Timeout:
            lives = True
        values = read_json(record)
        if values is None:  # It has come to its end since it was listed.
            _remove(record)
        else:
            yield Worker(**values), record, lives


def cancel(output: Path, name: str) -> tuple[list[Worker], list[Worker]]:
    """Tells the workers of a sweep on this machine to stop, and waits until they have.

    Their points are marked as cancelled and keep their resume state.

    Returns:
        The stopped ones, and those that are still there (on other machines, or too busy to stop).
    """
    # Those that are still starting find nothing to do.
    for file in _submissions(output, name).glob("*.json"):
        file.unlink(missing_ok=True)
    here = [worker for worker in alive(output, name) if worker.host == socket.gethostname() and worker.pid]
    for worker in here:
        with suppress(ProcessLookupError):  # It has just come to its end.
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

    They are in a session of their own: neither Ctrl-C in this terminal nor its end reaches them.

    Returns:
        The process ids.
    """
    gpus = _gpus(launcher.device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # One for the GPU that is named, of each GPU, or for every two cores.
    most = 1 if launcher.device.startswith("cuda:") else len(gpus) or max(1, cores // 2)
    count = min(launcher.workers or most, len(patch_ids))
    threads = launcher.threads or max(1, cores // count)
    id = f"{time.strftime('%Y%m%dT%H%M%S')}-{socket.gethostname()}-{os.getpid()}"
    orders = _submissions(output, name) / f"{id}.json"
    write_json(orders, {"patch_ids": patch_ids, "retry": retry, "threads": threads, "began": now()})
    pids = []
    for index in range(count):
        environment = {"CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]} if gpus else {}
        pids.append(_start(output.absolute(), name, orders.absolute(), f"{id}-{index}", environment))
    return pids


def _start(output: Path, name: str, orders: Path, id: str, environment: dict[str, str]) -> str:
    """One worker; gives its process id."""
    record = _folder(output, name) / f"{id}.json"
    log = manifest.path(output, name).parent / "logs" / f"{id}.txt"
    for folder in (record.parent, log.parent):
        folder.mkdir(exist_ok=True)
    # The lock is handed over: the worker holds it from its first moment, and the system frees it when it ends.
    lock = os.open(record.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with suppress(OSError):  # Where there are no locks, the file alone is one (docs/scale.md).
            fcntl.flock(lock, fcntl.LOCK_EX)
        write_json(record, asdict(Worker(socket.gethostname(), None, "local", str(log))))
        with log.open("wb") as printed:
            process = subprocess.Popen(
                libraries.python("from mi_sweeps.sweeps.workers import work_on; work_on(*sys.argv[1:])")
                + [str(output), name, str(orders), str(record), str(lock)],
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
    """What each worker's CUDA_VISIBLE_DEVICES is, in turns; none, if it shall be what it is here."""
    if device not in ("auto", "cuda"):
        return []
    import torch

    count = torch.cuda.device_count()
    # The user's list may have more: what stands after an entry that CUDA does not know is not seen.
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [entry.strip() for entry in given.split(",")][:count] if given else [str(index) for index in range(count)]


def work_on(output: str, name: str, orders: str, record: str, lock: str) -> None:
    """What a worker process runs: shares the points of a submission with its siblings until all are done.

    Args:
        lock: the open file that holds its lock.

    Raises:
        SystemExit: 143, told to stop.
    """
    os.set_inheritable(int(lock), False)
    code = 0
    with _stopped_by_sigterm():
        try:
            # Before it looks for its orders, which `cancel` takes away before it looks for workers.
            write_json(Path(record), {**read_json(Path(record)), "pid": os.getpid()})
            _work(Path(output), name, Path(orders))
        except Cancelled:
            code = 143
        _remove(Path(record))
    sys.exit(code)


def _work(output: Path, name: str, file: Path) -> None:
    libraries.quiet()
    orders = read_json(file)
    if orders is None:
        return  # Cancelled before it began.
    from mi_sweeps.sweeps.execute import execute

    libraries.ready(orders["threads"])
    wanted = set(orders["patch_ids"])
    points = [entry.point(output) for entry in manifest.load(output, name) if entry.patch_id in wanted]
    # What a sibling has tried since is not tried again.
    execute(points, retry=orders["retry"], began=orders["began"], wait=True)
