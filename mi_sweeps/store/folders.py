"""Folders of runs and patch jobs: what lies where, in which state, and who works there now.

OUTPUT/runs/RUN_ID/                 one fine-tune
  run.json  audit.json  status.json  log.txt
  metrics.parquet                   every checkpoint's metrics
  checkpoints/000008.safetensors    the weights at step 8
  resume.safetensors                optimiser and random states; only while the run is unfinished
  patches/PATCH_ID/                 one patch job
    patch.json  status.json  log.txt
    tables/000008.parquet           attribution and patching at step 8
OUTPUT/sweeps/NAME/sweep.json       the cells that were asked for under that name
OUTPUT/data/FINGERPRINT/            generated prompts
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from mi_sweeps.errors import UserError
from mi_sweeps.store.files import clear_partial, names, read_json, write_json

State = Literal["todo", "running", "done", "failed", "cancelled", "interrupted"]
"""`interrupted`: its process is gone and left no result. Like `todo` and `cancelled`, `run` takes it up."""

PENDING: tuple[State, ...] = ("todo", "cancelled", "interrupted")
"""States that `run` works on; `failed` only with `--retry`."""

CLAIM_SECONDS = 1.0
"""A reader of states holds the lock for microseconds; who still holds it after this long is at work."""

log = logging.getLogger(__name__)


class Cancelled(BaseException):
    """The work was told to stop. No `Exception`, so that nothing on the way takes it for a failure."""


class Busy(Exception):
    """Another process works on this folder."""


@dataclass(frozen=True)
class Status:
    """What status.json says of a run or patch job."""

    state: State = "todo"
    attempts: int = 0
    started: str | None = None
    finished: str | None = None
    seconds: float = 0.0
    """Time at work, over all attempts."""
    host: str | None = None
    pid: int | None = None
    error: str | None = None
    """One line; the traceback is in error.txt."""


@dataclass(frozen=True)
class Folder:
    """A folder with a status, in which one process works at a time."""

    path: Path

    @property
    def log_file(self) -> Path:
        return self.path / "log.txt"

    @property
    def parts(self) -> tuple[Path, ...]:
        """Folders below that an attempt writes to."""
        return (self.path / "checkpoints", self.path / "tables")

    @property
    def error_file(self) -> Path:
        """The traceback of the last failure."""
        return self.path / "error.txt"

    def _lock(self, timeout: float) -> FileLock:
        return FileLock(self.path / ".lock", timeout=timeout)

    def status_on_disk(self) -> Status:
        """What status.json says; a process that was killed leaves `running` behind."""
        path = f"{self.path}/status.json"  # text: a plan asks for thousands, and a Path takes longer than the reading
        try:
            return Status(**(read_json(path) or {}))
        except TypeError:
            raise UserError(f"{path}: not a status of this version; delete it and run the sweep again") from None

    def status(self) -> Status:
        """The state as a reader should see it: `running` only while a process holds the lock."""
        status = self.status_on_disk()
        if status.state != "running":
            return status
        try:
            with self._lock(timeout=0):
                # The worker may have finished between the two looks.
                status = self.status_on_disk()
                return replace(status, state="interrupted") if status.state == "running" else status
        except Timeout:
            return status
        except OSError:
            # A reader who may not write cannot ask for the lock; what is written must do.
            return status

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Keeps every other process out of the folder.

        Raises:
            Busy: another process works here.
            UserError: the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = self._lock(CLAIM_SECONDS)
            lock.acquire()
        except Timeout:
            raise Busy(str(self.path)) from None
        except OSError as error:
            raise UserError(
                f"{self.path}: {error.strerror}; make it writable, or choose another folder with output=DIR"
            ) from None
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Keeps status.json true, and writes what is logged into log.txt; the folder must be claimed.

        An exception marks the work as failed and passes on; `Cancelled` and Ctrl-C mark it as cancelled.
        """
        for place in (self.path, *self.parts):
            clear_partial(place)
        before = self.status_on_disk()
        begun = time.monotonic()
        running = Status("running", before.attempts + 1, now(), None, before.seconds, socket.gethostname(), os.getpid())
        self._write(running)
        self.error_file.unlink(missing_ok=True)
        with self._logging():
            try:
                yield
            except (Cancelled, KeyboardInterrupt):
                self._finish(running, begun, "cancelled", None)
                raise
            except BaseException as error:
                log.error("failed: %s", describe(error))
                self._finish(running, begun, "failed", describe(error))
                # Last: on a full disk the status matters more than the traceback.
                with suppress(OSError):
                    self.error_file.write_text(traceback.format_exc(), encoding="utf-8")
                raise
            self._finish(running, begun, "done", None)

    def _finish(self, running: Status, begun: float, state: State, error: str | None) -> None:
        seconds = running.seconds + time.monotonic() - begun
        self._write(replace(running, state=state, finished=now(), seconds=round(seconds, 3), error=error))

    def _write(self, status: Status) -> None:
        write_json(self.path / "status.json", asdict(status))

    @contextmanager
    def _logging(self) -> Iterator[None]:
        handler = logging.FileHandler(self.log_file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger = logging.getLogger("mi_sweeps")
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.setLevel(level)
            logger.removeHandler(handler)
            handler.close()


@dataclass(frozen=True)
class RunFolder(Folder):
    """One fine-tune's folder."""

    @property
    def run_id(self) -> str:
        return self.path.name

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.parquet"

    @property
    def resume(self) -> Path:
        """The one rolling state from which an unfinished run goes on."""
        return self.path / "resume.safetensors"

    @property
    def audit(self) -> Path:
        return self.path / "audit.json"

    def checkpoint(self, step: int) -> Path:
        """The weights at a step."""
        return self.path / "checkpoints" / self._weights(step)

    @staticmethod
    def _weights(step: int) -> str:
        return f"{step:06d}.safetensors"

    def has(self, steps: Iterable[int]) -> bool:
        """Whether the metrics are there, and the weights at these steps."""
        return self.metrics.exists() and _has_all(f"{self.path}/checkpoints", map(self._weights, steps))

    def patch(self, patch_id: str) -> PatchFolder:
        """A patch job of this run."""
        return PatchFolder(self.path / "patches" / patch_id)


@dataclass(frozen=True)
class PatchFolder(Folder):
    """One patch job's folder."""

    @property
    def patch_id(self) -> str:
        return self.path.name

    def table(self, step: int) -> Path:
        """Attribution and patching at a step."""
        return self.path / "tables" / self._table(step)

    @staticmethod
    def _table(step: int) -> str:
        return f"{step:06d}.parquet"

    def has(self, steps: Iterable[int]) -> bool:
        """Whether the tables at these steps are there."""
        return _has_all(f"{self.path}/tables", map(self._table, steps))


def _has_all(folder: str, files: Iterable[str]) -> bool:
    """Whether all files are in a folder. One look at it: on a shared disk each question for a file is a message."""
    wanted = set(files)
    return not wanted or wanted <= names(folder)


def run_folder(output: Path, run_id: str) -> RunFolder:
    """The folder of a run below the folder of all results."""
    return RunFolder(output / "runs" / run_id)


def describe(error: BaseException) -> str:
    """An error as one line: what a user should read before the traceback."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"disk full while writing {error.filename or 'a result'}; make room and run again with --retry"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, UserError):
        return str(error)
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:500]


def now() -> str:
    """The time in UTC, in a form that sorts as text."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")
