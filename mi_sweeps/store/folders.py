"""Folders of runs and patch jobs: what lies where, in which state, and who works there now.

OUTPUT/runs/RUN_ID/                 one fine-tune
  run.json  audit.json  status.json  log.txt
  metrics.parquet                   every checkpoint's metrics
  checkpoints/000008.safetensors    the weights at step 8; none of a series
  series.json                       of a series: where its checkpoints are, and which steps are gaps
  resume.safetensors                optimiser and random states; only while the run is unfinished
  patches/PATCH_ID/                 one patch job
    patch.json  status.json  log.txt
    tables/000008.parquet           attribution and patching at step 8
    parts/0-of-4/                   status and log of a part, where several share the checkpoints
OUTPUT/sweeps/NAME/sweep.json       the points that were asked for under that name
OUTPUT/data/FINGERPRINT/            generated prompts
"""

from __future__ import annotations

import logging
import os
import socket
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from mi_sweeps.errors import UserError
from mi_sweeps.store.endings import Busy, Cancelled, Diverged, Interrupted, Superseded, describe, failure_of
from mi_sweeps.store.files import clear_partial, names, read_json, write_json
from mi_sweeps.store.logs import logging_to
from mi_sweeps.store.status import Failure, State, Status, is_sound, now

CLAIM_SECONDS = 1.0
"""A reader of states holds the lock for microseconds; who still holds it after this long is at work."""

log = logging.getLogger(__name__)


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
        """What status.json says; a process that was killed leaves `running` behind.

        A damaged one is a failure that says so: all other work goes on, and `run --retry` does this anew.
        """
        path = f"{self.path}/status.json"  # text: a plan asks for thousands, and a Path takes longer than the reading
        try:
            values = read_json(path)
            status = Status(**({} if values is None else {**values, "gaps": tuple(values.get("gaps", ()))}))
            if is_sound(status):
                return status
            error = f"{path}: not a status of this version; delete it and run the sweep again"
        except TypeError:
            error = f"{path}: not a status of this version; delete it and run the sweep again"
        except UserError as damage:
            error = str(damage)
        return Status("failed", error=error, failure="error")

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
    def attempt(self, spent: float = 0.0) -> Iterator[Callable[[], None]]:
        """Keeps status.json true, and writes what is logged into log.txt; the folder must be claimed.

        An exception marks the work as failed and passes on; `Cancelled` and Ctrl-C mark it as cancelled,
        `Interrupted` as interrupted, and `Diverged`, which does not pass on, as done.

        Gives what is to be called before a result is written: it raises `Superseded` if a later attempt has begun.
        A lock on a shared file system can be lost with the connection to it, while the process lives on.

        Args:
            spent: seconds of work that was done elsewhere and counts here.
        """
        for place in (self.path, *self.parts):
            clear_partial(place)
        before = self.status_on_disk()
        begun = time.monotonic()
        attempts, seconds = before.attempts + 1, before.seconds + spent
        running = Status("running", attempts, now(), None, seconds, socket.gethostname(), os.getpid())
        self._write(running)
        self.error_file.unlink(missing_ok=True)

        def check() -> None:
            if not self._is(running):
                raise Superseded(f"{self.path}: a later attempt works here now")

        with logging_to(self.log_file):
            try:
                yield check
                check()
            except Diverged as result:
                self._finish(running, begun, "done", None, diverged=result.step)
                return
            except (Cancelled, KeyboardInterrupt):
                self._finish(running, begun, "cancelled", None)
                raise
            except Interrupted:
                self._finish(running, begun, "interrupted", None)
                raise
            except Superseded as error:
                log.error("%s", error)
                raise
            except BaseException as error:
                log.error("failed: %s", describe(error))
                if self._finish(running, begun, "failed", describe(error), failure_of(error)):
                    # Last: on a full disk the status matters more than the traceback.
                    with suppress(OSError):
                        self.error_file.write_text(traceback.format_exc(), encoding="utf-8")
                raise
            self._finish(running, begun, "done", None)

    def _finish(
        self,
        running: Status,
        begun: float,
        state: State,
        error: str | None,
        failure: Failure | None = None,
        diverged: int | None = None,
    ) -> bool:
        """Whether this is still the newest attempt: a later one's status is not overwritten."""
        if not self._is(running):
            return False
        seconds = round(running.seconds + time.monotonic() - begun, 3)
        gaps = self.status_on_disk().gaps
        ended = replace(running, state=state, finished=now(), seconds=seconds, error=error, gaps=gaps)
        self._write(replace(ended, failure=failure, diverged=diverged))
        return True

    def _is(self, running: Status) -> bool:
        """Whether that attempt is still the newest."""
        last = self.status_on_disk()
        return (last.attempts, last.host, last.pid) == (running.attempts, running.host, running.pid)

    def fail(self, error: str, failure: Failure) -> None:
        """Marks work as failed that was interrupted and shall not go on by itself; the folder must be claimed."""
        self._write(replace(self.status_on_disk(), state="failed", finished=now(), error=error, failure=failure))

    def note_gaps(self, steps: Iterable[int]) -> None:
        """Keeps which steps of a series have no checkpoint; to be called during an attempt."""
        self._write(replace(self.status_on_disk(), gaps=tuple(sorted(steps))))

    def _write(self, status: Status) -> None:
        write_json(self.path / "status.json", asdict(status))


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
    def wandb(self) -> Path:
        """Where wandb shows the run: {"url": …}, of one that was sent there."""
        return self.path / "wandb.json"

    @property
    def audit(self) -> Path:
        return self.path / "audit.json"

    @property
    def series(self) -> Path:
        """Of a series: where its checkpoints are, and which steps are gaps."""
        return self.path / "series.json"

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

    def table(self, step: int, name: str | None = None) -> Path:
        """Attribution and patching at a step; with a name another table (`mi_sweeps.store.measured`)."""
        return self.path / "tables" / self._table(step, name)

    @staticmethod
    def _table(step: int, name: str | None = None) -> str:
        return f"{step:06d}.{name}.parquet" if name else f"{step:06d}.parquet"

    def steps(self) -> list[int]:
        """The checkpoints of which there are tables, in order."""
        stems = (name.removesuffix(".parquet") for name in names(self.path / "tables") if name.endswith(".parquet"))
        return sorted(int(stem) for stem in stems if stem.isdigit())

    def has(self, steps: Iterable[int], tables: Collection[str] = ()) -> bool:
        """Whether the tables at these steps are there, and those of these names."""
        every = (None, *tables)
        return _has_all(f"{self.path}/tables", (self._table(step, name) for step in steps for name in every))

    def part(self, part: int, parts: int) -> Folder:
        """The folder of whoever does one part of several of this job's checkpoints; the tables are the job's."""
        return Folder(self.path / "parts" / f"{part}-of-{parts}")

    def all_parts(self) -> list[Folder]:
        """The folders of all parts that were begun."""
        return [Folder(self.path / "parts" / name) for name in sorted(names(self.path / "parts"))]


def _has_all(folder: str, files: Iterable[str]) -> bool:
    """Whether all files are in a folder. One look at it: on a shared disk each question for a file is a message."""
    wanted = set(files)
    return not wanted or wanted <= names(folder)


def run_folder(output: Path, run_id: str) -> RunFolder:
    """The folder of a run below the folder of all results."""
    return RunFolder(output / "runs" / run_id)
