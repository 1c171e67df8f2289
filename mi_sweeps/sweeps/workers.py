"""Processes that compute cells on this machine: started through submitit's local executor, seen and stopped from any
shell. Each leaves a record in the sweep's folder while it lives."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from mi_sweeps.store.files import read_json, write_json
from mi_sweeps.store.folders import Cancelled, Failure
from mi_sweeps.sweeps import manifest

if TYPE_CHECKING:
    from mi_sweeps.config import LauncherConfig

START_SECONDS = 60.0
"""How long a worker may take to import what it needs before it is known."""

CANCEL_SECONDS = 30.0
"""How long `cancel` waits for a process to put its cell away before it says so."""


@dataclass(frozen=True)
class Worker:
    """A live process at work on a sweep."""

    host: str
    pid: int
    launcher: str


def _folder(output: Path, name: str) -> Path:
    return manifest.path(output, name).parent / "workers"


@contextmanager
def registered(output: Path, name: str, launcher: str) -> Iterator[None]:
    """Makes this process known as a worker of a sweep, and SIGTERM its order to stop."""

    def stop(signum: int, frame: Any) -> None:
        raise Cancelled

    folder = _folder(output, name)
    record = folder / f"{socket.gethostname()}-{os.getpid()}.json"
    folder.mkdir(parents=True, exist_ok=True)
    before = signal.signal(signal.SIGTERM, stop)
    try:
        with FileLock(record.with_suffix(".lock")):
            write_json(record, asdict(Worker(socket.gethostname(), os.getpid(), launcher)))
            yield
    finally:
        signal.signal(signal.SIGTERM, before)
        record.unlink(missing_ok=True)
        record.with_suffix(".lock").unlink(missing_ok=True)


def alive(output: Path, name: str) -> list[Worker]:
    """The processes that work on a sweep now. Records of those that were killed are tidied away."""
    workers = []
    for record in sorted(_folder(output, name).glob("*.json")):
        lock = FileLock(record.with_suffix(".lock"), timeout=0)
        try:
            with lock:
                record.unlink(missing_ok=True)
        except Timeout:
            values = read_json(record)
            if values is not None:
                workers.append(Worker(**values))
            continue
        record.with_suffix(".lock").unlink(missing_ok=True)
    return workers


def starting(output: Path, name: str) -> bool:
    """Whether workers were started so lately that they may not be known yet."""
    return any(time.time() - file.stat().st_mtime < START_SECONDS for file in _submissions(output, name).glob("*.json"))


def _submissions(output: Path, name: str) -> Path:
    return manifest.path(output, name).parent / "submissions"


def cancel(output: Path, name: str) -> tuple[list[Worker], list[Worker]]:
    """Tells the workers of a sweep on this machine to stop, and waits until they have.

    Their cells are marked as cancelled and keep their resume state.

    Returns:
        The stopped ones, and those that are still there (on other machines, or too busy to stop).
    """
    # Those that are still starting find nothing to do.
    for file in _submissions(output, name).glob("*.json"):
        file.unlink(missing_ok=True)
    here = [worker for worker in alive(output, name) if worker.host == socket.gethostname()]
    for worker in here:
        os.kill(worker.pid, signal.SIGTERM)
    deadline = time.monotonic() + CANCEL_SECONDS
    left = alive(output, name)
    while any(worker in left for worker in here) and time.monotonic() < deadline:
        time.sleep(0.1)
        left = alive(output, name)
    return [worker for worker in here if worker not in left], left


def submit(
    output: Path, name: str, patch_ids: list[str], launcher: LauncherConfig, *, retry: Sequence[Failure]
) -> list[str]:
    """Starts workers for some cells of a sweep and returns at once.

    Returns:
        The process ids.
    """
    import submitit

    gpus = _gpus() if launcher.device in ("auto", "cuda") else []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = min(launcher.workers or len(gpus) or max(1, cores // 2), len(patch_ids))
    threads = launcher.threads or max(1, cores // count)
    logs = manifest.path(output, name).parent / "logs"
    work = _submissions(output, name) / f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.json"
    # What to do is read from here, not from the pickle that submitit hands over.
    write_json(work, {"patch_ids": patch_ids, "retry": retry, "threads": threads})
    jobs = []
    for index in range(count):
        executor = submitit.LocalExecutor(logs)
        executor.update_parameters(
            timeout_min=60 * 24 * 365,
            **({"gpus_per_node": 1, "visible_gpus": [gpus[index % len(gpus)]]} if gpus else {}),
        )
        jobs.append(executor.submit(work_on, str(output.absolute()), name, str(work.absolute())))
    return [job.job_id for job in jobs]


def _gpus() -> list[int]:
    import torch

    return list(range(torch.cuda.device_count()))


def work_on(output: str, name: str, work: str) -> int:
    """What a worker process runs: shares the cells of a submission with its siblings until all are done.

    Returns:
        How many tasks failed.
    """
    from mi_sweeps import libraries

    libraries.quiet()
    from mi_sweeps.sweeps.execute import execute

    orders = read_json(Path(work))
    if orders is None:
        return 0  # Cancelled before it began.
    libraries.ready(orders["threads"])
    wanted = set(orders["patch_ids"])
    cells = [entry.cell(Path(output)) for entry in manifest.load(Path(output), name) if entry.patch_id in wanted]
    try:
        with registered(Path(output), name, "local"):
            outcome = execute(cells, retry=orders["retry"], wait=True)
    except Cancelled:
        sys.exit(143)
    return len(outcome.failed)
