"""`mi-sweeps sync`: uploads what wandb wrote on machines without a network.

A fine-tune, a patch job and a part of one each have offline folders of their own, one for each attempt; all that belong
to a run id are one wandb run. wandb joins them if those that are new are given to it in one call. One that was uploaded
must not be given again: it would be appended again.

What was uploaded cannot be read from wandb alone: its exit code is 0 and its mark is made even where the server refused
everything, and a picture that was refused is only in its log (wandb 0.31). So an attempt has a mark of ours from before
its upload until wandb's log is found to have no error of it; wandb's mark counts where ours is gone.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from mi_sweeps.errors import UserError
from mi_sweeps.store.folders import PatchFolder, RunFolder, describe, run_folder
from mi_sweeps.sweeps import manifest

if TYPE_CHECKING:
    from rich.console import Console

COMMAND = (sys.executable, "-m", "wandb", "sync")

RETRIES = 5
"""How often wandb tries a request again: for a minute. Its own number lasts for a week."""

SETTLE_SECONDS = 2.0
"""How old a file must be: wandb's process writes the end of it a moment after the job has ended."""

GIVE_UP = 3
"""After so many runs in a row that failed it is the server, and the rest is left for later."""


@dataclass(frozen=True)
class Attempt:
    """What wandb wrote of one attempt."""

    file: Path

    @property
    def folder(self) -> Path:
        return self.file.parent

    @property
    def began(self) -> Path:
        """Our mark: its upload was begun, and was not seen to succeed."""
        return self.file.with_name(f"{self.file.name}.uploading")

    @property
    def ended(self) -> Path:
        """wandb's mark: its upload has ended, well or not."""
        return self.file.with_name(f"{self.file.name}.synced")

    @property
    def first_step(self) -> Path:
        """Where wandb remembers the attempt's place in the run."""
        return self.file.with_name(f"{self.file.name}.syncstate")

    @property
    def is_uploaded(self) -> bool:
        return self.ended.exists() and not self.began.exists()

    @property
    def is_empty(self) -> bool:
        """Whether its job was killed before wandb had written to which run it belongs."""
        return _records(self.file)[0] < 2


@dataclass(frozen=True)
class Run:
    """A wandb run, as far as it is on disk."""

    run_id: str
    tracking: dict[str, Any]
    """The configuration's; the mode is `disabled` where nobody asked for tracking."""
    uploaded: tuple[Attempt, ...]
    """All three: the oldest first."""
    missing: tuple[Attempt, ...]
    empty: tuple[Attempt, ...]
    running: bool


@dataclass(frozen=True)
class Outcome:
    """What came of an upload."""

    error: str | None = None
    """One line; None if all attempts are uploaded."""
    url: str | None = None
    """Where the run is to be seen."""


def sync(console: Console, output: Path, sweeps: Sequence[str], *, dry_run: bool) -> int:
    """Uploads what is missing, with a line for each run; the exit code is 1 if some upload failed.

    Raises:
        UserError: another process uploads from this folder of results, or nobody is logged in.
    """
    with nullcontext() if dry_run else _alone(output):
        runs = [run for run in look(output, sweeps) if run.uploaded or run.missing or run.empty]
        counts = _go_through(console, runs, dry_run)
    if not runs:
        console.print(f"{', '.join(sweeps)}: wandb wrote nothing offline; run it with tracking=wandb", soft_wrap=True)
        return 0
    console.print(f"{len(runs)} {'run' if len(runs) == 1 else 'runs'}: {_listed(counts)}", soft_wrap=True)
    empty = [attempt for run in runs for attempt in run.empty if not run.running]
    if empty:
        console.print(f"skipped: {_attempts(empty)}, killed before anything was written", soft_wrap=True)
    return 1 if counts["failed"] else 0


def _go_through(console: Console, runs: Sequence[Run], dry_run: bool) -> Counter[str]:
    """How many runs came to what."""
    counts: Counter[str] = Counter()
    in_a_row = 0

    def say(run: Run, what: str) -> None:
        console.print(f"{run.run_id}: {what}", markup=False, soft_wrap=True)

    for run in runs:
        if run.running:
            counts["still running"] += 1
            say(run, "is still running; left for later")
        elif not run.missing:
            counts["uploaded before" if run.uploaded else "empty"] += 1
        elif dry_run:
            counts["to upload"] += 1
            say(run, f"would upload {' '.join(str(attempt.folder) for attempt in run.missing)}")
        elif in_a_row == GIVE_UP:
            counts["not tried"] += 1
        else:
            outcome = upload(run)
            in_a_row = in_a_row + 1 if outcome.error else 0
            counts["failed" if outcome.error else "uploaded"] += 1
            say(run, f"failed: {outcome.error}" if outcome.error else f"uploaded to {outcome.url}")
            if in_a_row == GIVE_UP:
                console.print(f"{GIVE_UP} runs in a row failed; the others are not tried")
    return counts


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items())


def _attempts(attempts: Sequence[Attempt]) -> str:
    return f"{len(attempts)} {'attempt' if len(attempts) == 1 else 'attempts'}"


def look(output: Path, sweeps: Iterable[str]) -> Iterator[Run]:
    """The wandb runs of sweeps, each once."""
    tracking: dict[str, dict[str, Any]] = {}
    for name in sweeps:
        for entry in manifest.load(output, name):
            known = tracking.get(entry.run_id)
            if known is None or known["mode"] == "disabled":
                tracking[entry.run_id] = entry.config["tracking"]
    for run_id, values in tracking.items():
        yield _run(run_folder(output.absolute(), run_id), values)


def _run(folder: RunFolder, tracking: dict[str, Any]) -> Run:
    attempts = [
        Attempt(file)
        for place in (".", "patches/*", "patches/*/parts/*")
        for file in folder.path.glob(f"{place}/wandb/offline-run-*/*.wandb")
    ]
    attempts.sort(key=lambda attempt: attempt.folder.name)  # Their names begin with the time.
    missing = [attempt for attempt in attempts if not attempt.is_uploaded]
    running = bool(missing) and _is_running(folder)
    if not running:
        _settle(missing)
    empty = {attempt for attempt in missing if attempt.is_empty}
    return Run(
        folder.run_id,
        tracking,
        uploaded=tuple(attempt for attempt in attempts if attempt not in missing),
        missing=tuple(attempt for attempt in missing if attempt not in empty),
        empty=tuple(attempt for attempt in missing if attempt in empty),
        running=running,
    )


def _settle(attempts: Iterable[Attempt]) -> None:
    written = max((attempt.file.stat().st_mtime for attempt in attempts), default=0.0)
    # A clock of another machine may be ahead.
    time.sleep(min(SETTLE_SECONDS, max(0.0, written + SETTLE_SECONDS - time.time())))


def _is_running(run: RunFolder) -> bool:
    patches = [PatchFolder(path) for path in run.path.glob("patches/*")]
    parts = [part for patch in patches for part in patch.all_parts()]
    return any(folder.status().state == "running" for folder in (run, *patches, *parts))


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    """Nobody else uploads from this folder of results meanwhile."""
    file = output / "sweeps" / "sync.lock"
    try:
        with FileLock(file, timeout=0, mode=0o666):
            yield
    except Timeout:
        raise UserError(f"{file}: another `mi-sweeps sync` is at work; wait until it has ended") from None


def upload(run: Run) -> Outcome:
    """Gives all that is missing to one call of wandb.

    Raises:
        UserError: wandb did not begin, as where nobody is logged in.
    """
    try:
        _prepare(run)
    except OSError as error:
        return Outcome(describe(error))
    project, entity, mode = (run.tracking[key] for key in ("project", "entity", "mode"))
    # Where nobody asked for tracking lately, each attempt has its own project in it.
    to = ["--project", project, *(["--entity", entity] if entity else [])] if mode != "disabled" else []
    folders = [str(attempt.folder) for attempt in run.missing]
    with tempfile.TemporaryDirectory(prefix="mi-sweeps-sync-") as scratch:
        # wandb leaves logs where it is called.
        called = subprocess.run(
            [*COMMAND, *to, *folders],
            cwd=scratch,
            env=_environment(scratch),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        errors = _errors(Path(scratch))
    lines = called.stdout.strip().splitlines() or [""]
    if called.returncode:
        raise UserError(f"wandb sync: {lines[-1].removeprefix('Error: ')}")
    blamed = {path for path, _ in errors}
    good = [attempt for attempt in run.missing if attempt.ended.exists() and str(attempt.file) not in blamed]
    for attempt in good:
        attempt.began.unlink(missing_ok=True)
    url = re.search(r" at (https?://\S+)", called.stdout)
    if len(good) == len(run.missing):
        return Outcome(url=url[1] if url else "wandb")
    why = errors[-1][1] if errors else lines[-1].removeprefix("wandb: ")
    return Outcome(f"{why} ({_attempts(run.missing)}, {len(good)} uploaded)")


def _prepare(run: Run) -> None:
    """Marks the attempts, and puts right what would keep wandb from joining them."""
    for attempt in run.missing:
        attempt.began.touch()
        attempt.ended.unlink(missing_ok=True)
        # wandb leaves out all attempts that come after one that ends in half a record, as those do that were killed.
        _, end = _records(attempt.file)
        if end < attempt.file.stat().st_size:
            os.truncate(attempt.file, end)
    # After an upload that failed, wandb puts an attempt where it would have put it then; others may be there now.
    # Only the oldest is sure to have its place, if nothing that is younger was uploaded.
    newest = run.uploaded[-1].folder.name if run.uploaded else ""
    keeps_place = run.missing[0].folder.name > newest
    for attempt in run.missing[1 if keeps_place else 0 :]:
        attempt.first_step.unlink(missing_ok=True)


def _environment(scratch: str) -> dict[str, str]:
    clients = ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")
    limits = {f"WANDB__{client}_RETRY_MAX": str(RETRIES) for client in clients}
    own = {**limits, **os.environ, "WANDB_DIR": scratch}
    # Of a wandb process that is not this one's; and of a job's environment.
    for variable in ("WANDB_SERVICE", "WANDB_MODE"):
        own.pop(variable, None)
    return own


def _errors(scratch: Path) -> list[tuple[str, str]]:
    """What wandb logged as an error: the file that it was about, if any, and one line."""
    found = []
    for file in scratch.glob("wandb/logs/debug-sync.*.log"):
        for line in file.read_text(errors="replace").splitlines():
            entry = json.loads(line)
            if entry["level"].startswith("ERROR"):
                found.append((entry.get("sync_path", ""), " ".join(entry["msg"].split())[:300]))
    return found


HEADER, BLOCK = 7, 32768
"""Bytes of the header of a file, and of each chunk in it, and of a block of chunks: LevelDB's log format, which wandb
keeps its records in. A record is one chunk (type 1), or several of which the last is of type 4."""


def _records(file: Path) -> tuple[int, int]:
    """How many whole records a file has, and where the last of them ends. The first two are the version and the run."""
    count, size = 0, file.stat().st_size
    end = at = min(HEADER, size)
    with file.open("rb") as log:
        while True:
            if BLOCK - at % BLOCK < HEADER:  # Too little for another chunk.
                at += BLOCK - at % BLOCK
            log.seek(at)
            header = log.read(HEADER)
            if len(header) < HEADER:
                return count, end
            at += HEADER + int.from_bytes(header[4:6], "little")
            if at > size:
                return count, end
            if header[6] in (1, 4):
                count, end = count + 1, at
