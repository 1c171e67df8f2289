"""Folders of runs and patch jobs: their files, their status, and the lock of the process that works there.

OUTPUT/runs/RUN_ID/                 one fine-tune
  run.json  audit.json  status.json  log.txt
  metrics.parquet                   every checkpoint's metrics
  checkpoints/000008.safetensors    the weights at step 8 (not for a series)
  series.json                       for a series: where its checkpoints are, and its missing steps
  resume.safetensors                optimiser and random states; only while the run is unfinished
  patches/PATCH_ID/                 one patch job
    patch.json  status.json  log.txt
    tables/000008.parquet           attribution and patching at step 8
    parts/0-of-4/                   status and log of a part, if several tasks share the checkpoints
OUTPUT/sweeps/NAME/sweep.json       the grid points of a sweep
OUTPUT/data/FINGERPRINT/            generated prompts
OUTPUT/data/FINGERPRINT.json        hashes of prompts and pairs (`mi_sweeps.tasks.prompt_hashes`)
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
from mi_sweeps.store.endings import (
    Busy,
    Cancelled,
    Diverged,
    Interrupted,
    Superseded,
    describe,
    failure_of,
    hidden_stop,
)
from mi_sweeps.store.files import clear_partial, names, read_json, write_json
from mi_sweeps.store.logs import logging_to
from mi_sweeps.store.status import Failure, State, Status, is_sound, now

CLAIM_SECONDS = 1.0
"""A reader of states holds the lock for microseconds; a process that holds it for longer than this is working."""

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
        """Subfolders that an attempt writes to."""
        return (self.path / "checkpoints", self.path / "tables")

    @property
    def error_file(self) -> Path:
        """The traceback of the last failure."""
        return self.path / "error.txt"

    def _lock(self, timeout: float) -> FileLock:
        return FileLock(self.path / ".lock", timeout=timeout)

    def status_on_disk(self) -> Status:
        """Reads status.json; a killed process leaves the state `running`.

        A damaged file counts as a failure, so that other work goes on and `run --retry` does this work again.
        """
        path = f"{self.path}/status.json"  # Not a Path, which would take longer than reading: a plan reads thousands.
        try:
            values = read_json(path)
            values = {} if values is None else {**values}
            steps = values.pop("gaps", ())  # as versions before 1.0 called them
            status = Status(**{**values, "missing_steps": tuple(values.get("missing_steps", steps))})
            if is_sound(status):
                return status
            error = f"{path}: not a status of this version; delete it and run the sweep again"
        except TypeError:
            error = f"{path}: not a status of this version; delete it and run the sweep again"
        except UserError as damage:
            error = str(damage)
        return Status("failed", error=error, failure="error")

    def status(self) -> Status:
        """Returns the status as a reader should see it: `running` only while a process holds the lock."""
        status = self.status_on_disk()
        if status.state != "running":
            return status
        try:
            with self._lock(timeout=0):
                # The worker may have finished in the meantime.
                status = self.status_on_disk()
                return replace(status, state="interrupted") if status.state == "running" else status
        except Timeout:
            return status
        except OSError:
            # A reader without write access cannot try the lock, and has to believe the file.
            return status

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Keeps other processes from working in the folder.

        Raises:
            Busy: another process is working here.
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
        """Keeps status.json up to date and logs to log.txt; the folder must be claimed.

        An exception marks the work as failed and propagates; `Cancelled` and Ctrl-C mark it as cancelled, `Interrupted`
        as interrupted. `Diverged` marks it as done and does not propagate.

        Yields a function to call before each result is written. It raises `Superseded` if a later attempt has begun: a
        lock on a shared file system can be lost with the connection, while the process lives on.

        Args:
            spent: seconds of work done elsewhere, to be added.
        """
        for place in (self.path, *self.parts):
            clear_partial(place)
        before = self.status_on_disk()
        begun = time.monotonic()
        attempts, seconds = before.attempts + 1, before.seconds + spent
        running = Status("running", attempts, now(), None, seconds, socket.gethostname(), os.getpid())

        def check() -> None:
            if not self._is(running):
                raise Superseded(f"{self.path}: a later attempt is working here")

        with logging_to(self.log_file):
            try:
                # Within: a signal that comes as soon as the status says `running` must change it.
                self._write(running)
                self.error_file.unlink(missing_ok=True)
                try:
                    yield check
                    check()
                except Exception as error:
                    # A library's clean-up failed while a signal stopped this: not a failure of the work.
                    if stop := hidden_stop(error):
                        raise stop from None
                    raise
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
                    # Written last: on a full disk the status matters more than the traceback.
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
        """Writes the final status and returns True, unless a later attempt has begun."""
        if not self._is(running):
            return False
        seconds = round(running.seconds + time.monotonic() - begun, 3)
        missing = self.status_on_disk().missing_steps
        ended = replace(running, state=state, finished=now(), seconds=seconds, error=error, missing_steps=missing)
        self._write(replace(ended, failure=failure, diverged=diverged))
        return True

    def _is(self, running: Status) -> bool:
        """Whether that attempt is the newest."""
        last = self.status_on_disk()
        return (last.attempts, last.host, last.pid) == (running.attempts, running.host, running.pid)

    def fail(self, error: str, failure: Failure) -> None:
        """Marks interrupted work as failed, so that it is not resumed without `--retry`; the folder must be claimed."""
        self._write(replace(self.status_on_disk(), state="failed", finished=now(), error=error, failure=failure))

    def note_missing_steps(self, steps: Iterable[int]) -> None:
        """Records the missing steps of a series; call it during an attempt."""
        self._write(replace(self.status_on_disk(), missing_steps=tuple(sorted(steps))))

    def _write(self, status: Status) -> None:
        write_json(self.path / "status.json", asdict(status))


@dataclass(frozen=True)
class RunFolder(Folder):
    """The folder of a fine-tune or series."""

    @property
    def run_id(self) -> str:
        return self.path.name

    @property
    def about(self) -> Path:
        """Its configuration, versions and all else that is known of the run."""
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.parquet"

    @property
    def checkpoints(self) -> Path:
        """The folder of the weights."""
        return self.path / "checkpoints"

    @property
    def resume(self) -> Path:
        """The state from which an unfinished run resumes; each checkpoint replaces it."""
        return self.path / "resume.safetensors"

    @property
    def wandb(self) -> Path:
        """The address of the run in wandb, {"url": …}, once it was uploaded."""
        return self.path / "wandb.json"

    @property
    def audit(self) -> Path:
        return self.path / "audit.json"

    @property
    def series(self) -> Path:
        """For a series: where its checkpoints are, and its missing steps."""
        return self.path / "series.json"

    def checkpoint(self, step: int) -> Path:
        """Returns the file with the weights at a step."""
        return self.checkpoints / self._weights(step)

    @staticmethod
    def _weights(step: int) -> str:
        return f"{step:06d}.safetensors"

    def has(self, steps: Iterable[int]) -> bool:
        """Whether the metrics exist, and the weights at these steps."""
        return self.metrics.exists() and _has_all(f"{self.path}/checkpoints", map(self._weights, steps))

    def patch(self, patch_id: str) -> PatchFolder:
        """Returns the folder of a patch job of this run."""
        return PatchFolder(self.path / "patches" / patch_id)


@dataclass(frozen=True)
class PatchFolder(Folder):
    """The folder of a patch job."""

    @property
    def patch_id(self) -> str:
        return self.path.name

    @property
    def about(self) -> Path:
        """Its configuration and prompts."""
        return self.path / "patch.json"

    @property
    def tables(self) -> Path:
        """The folder of its tables."""
        return self.path / "tables"

    def table(self, step: int, name: str | None = None) -> Path:
        """Returns the table of attribution and patching at a step, or the named one (`mi_sweeps.store.measured`)."""
        return self.tables / self._table(step, name)

    @staticmethod
    def _table(step: int, name: str | None = None) -> str:
        return f"{step:06d}.{name}.parquet" if name else f"{step:06d}.parquet"

    def steps(self) -> list[int]:
        """Returns the checkpoints that have tables, in order."""
        stems = (name.removesuffix(".parquet") for name in names(self.tables) if name.endswith(".parquet"))
        return sorted(int(stem) for stem in stems if stem.isdigit())

    def has(self, steps: Iterable[int], tables: Collection[str] = ()) -> bool:
        """Whether the tables at these steps exist, including those with these names."""
        every = (None, *tables)
        return _has_all(f"{self.path}/tables", (self._table(step, name) for step in steps for name in every))

    def part(self, part: int, parts: int) -> Folder:
        """Returns the folder for the status and log of one part of this job; the tables stay in the job's folder."""
        return Folder(self.path / "parts" / f"{part}-of-{parts}")

    def all_parts(self) -> list[Folder]:
        """Returns the folders of all parts that were begun."""
        return [Folder(self.path / "parts" / name) for name in sorted(names(self.path / "parts"))]


def _has_all(folder: str, files: Iterable[str]) -> bool:
    """Whether a folder has all these files. It is listed once, because on a shared disk each query is a message."""
    wanted = set(files)
    return not wanted or wanted <= names(folder)


def run_folder(output: Path, run_id: str) -> RunFolder:
    """Returns the folder of a run in an output folder."""
    return RunFolder(output / "runs" / run_id)
