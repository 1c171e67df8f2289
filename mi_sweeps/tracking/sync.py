"""`mi-sweeps sync`: uploads offline attempts, and online attempts that were killed or whose server did not answer.

Fine-tunes, patch jobs and their parts have a folder for each attempt; all attempts of a run id form one wandb run.
`wandb sync` joins them if all new ones are passed in one call. An uploaded attempt must not be passed again, because it
would be appended again.

`wandb sync` does the upload, but does not tell what arrived: even if the server refuses everything, its exit code is 0
and it marks the attempt as synced; a refused picture is only in its log (wandb 0.31). Therefore we mark an attempt
before its upload, and remove the mark if wandb's log has no error about it. wandb's mark counts only without ours.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from mi_sweeps import libraries
from mi_sweeps.counting import counted
from mi_sweeps.errors import UserError
from mi_sweeps.hints import hint
from mi_sweeps.store.endings import describe
from mi_sweeps.store.files import write_json
from mi_sweeps.store.folders import PatchFolder, RunFolder, run_folder
from mi_sweeps.sweeps import manifest
from mi_sweeps.tracking import unmirrored
from mi_sweeps.tracking.wandb_folders import Attempt, jobs_of, logged_errors, of_run, online_lock, records

if TYPE_CHECKING:
    from rich.console import Console

BOUNDED = "from mi_sweeps.tracking.service import command_line; command_line()"

COMMAND = (*libraries.python(BOUNDED), "sync", "--include-online")

NO_LOGIN = re.compile(r"Error: .*(API.key|log.?in|IDENTITY_TOKEN)", re.IGNORECASE)
"""wandb's error without a login: every other run would fail too."""

RETRIES = 5
"""wandb's retries of a request, about a minute. Its default goes on for a week."""

SETTLE_SECONDS = 2.0
"""Smallest age of a file: wandb's process writes the end of it a moment after the job has ended."""

UPLOAD_SECONDS = 1800.0
"""Time limit for one run. wandb usually gives up sooner, but it has been seen to wait forever."""

GIVE_UP = 3
"""After this many failed runs in a row, the server is taken to be down and the rest is left for later."""


@dataclass(frozen=True)
class WandbRun:
    """A wandb run's attempts on disk."""

    folder: RunFolder
    tracking: dict[str, Any]
    """The configuration's section; the mode is `disabled` if tracking was not requested."""
    uploaded: tuple[Attempt, ...]
    """These three are sorted, oldest first."""
    missing: tuple[Attempt, ...]
    empty: tuple[Attempt, ...]
    running: bool

    @property
    def run_id(self) -> str:
        return self.folder.run_id


@dataclass(frozen=True)
class Outcome:
    """The result of an upload."""

    error: str | None = None
    """One line; None if all attempts are uploaded."""
    url: str | None = None
    """The address of the run in wandb."""


def sync(console: Console, output: Path, sweeps: Sequence[str], *, dry_run: bool) -> int:
    """Uploads what is missing and prints a line for each run; the exit code is 1 if an upload failed.

    Raises:
        UserError: another process is uploading from this output folder, nobody is logged in, or wandb is switched off.
    """
    if not dry_run:
        unmirrored.refuse_if_off()
    with nullcontext() if dry_run else alone(output):
        runs = [run for run in look(output, sweeps) if run.uploaded or run.missing or run.empty]
        counts = _go_through(console, runs, dry_run)
    if not runs:
        advice = f"run it with tracking=wandb, or use `{hint('track', ' '.join(sweeps), output)}`"
        console.print(f"{', '.join(sweeps)}: wandb wrote nothing; {advice}", markup=False, soft_wrap=True)
        return 0
    console.print(listed(counts), soft_wrap=True)
    empty = [attempt for run in runs for attempt in run.empty if not run.running]
    if empty:
        console.print(f"skipped: {_attempts(empty)}, killed before anything was written", soft_wrap=True)
    return 1 if counts["failed"] else 0


def _go_through(console: Console, runs: Sequence[WandbRun], dry_run: bool) -> Counter[str]:
    """Uploads runs one after another; returns the number of runs by result."""
    counts: Counter[str] = Counter()
    in_a_row = 0

    def say(run: WandbRun, what: str) -> None:
        console.print(f"{run.run_id}: {what}", markup=False, soft_wrap=True)

    for run in runs:
        if run.running:
            counts["still running"] += 1
            say(run, "still running; left for later")
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
                console.print(f"{GIVE_UP} runs in a row failed; the others were not tried")
    return counts


def listed(counts: Counter[str]) -> str:
    """Formats the number of runs by result in one line."""
    runs = sum(counts.values())
    return f"{counted(runs, 'run')}: {', '.join(f'{count} {what}' for what, count in counts.items())}"


def _attempts(attempts: Sequence[Attempt]) -> str:
    return counted(len(attempts), "attempt")


def look(output: Path, sweeps: Iterable[str]) -> Iterator[WandbRun]:
    """Yields the wandb runs of sweeps, each once."""
    tracking: dict[str, dict[str, Any]] = {}
    for name in sweeps:
        for entry in manifest.load(output, name):
            known = tracking.get(entry.run_id)
            if known is None or known["mode"] == "disabled":
                tracking[entry.run_id] = entry.config["tracking"]
    for run_id, values in tracking.items():
        yield _run(run_folder(output.absolute(), run_id), values)


def _run(folder: RunFolder, tracking: dict[str, Any]) -> WandbRun:
    attempts = of_run(folder)
    missing = [attempt for attempt in attempts if not attempt.is_uploaded]
    running = bool(missing) and is_running(folder)
    if not running:
        _settle(missing)
    empty = {attempt for attempt in missing if attempt.is_empty}
    return WandbRun(
        folder,
        tracking,
        uploaded=tuple(attempt for attempt in attempts if attempt not in missing),
        missing=tuple(attempt for attempt in missing if attempt not in empty),
        empty=tuple(attempt for attempt in missing if attempt in empty),
        running=running,
    )


def _settle(attempts: Iterable[Attempt]) -> None:
    written = max((attempt.file.stat().st_mtime for attempt in attempts), default=0.0)
    # Another machine's clock may be ahead, so the pause is limited.
    time.sleep(min(SETTLE_SECONDS, max(0.0, written + SETTLE_SECONDS - time.time())))


def is_running(run: RunFolder) -> bool:
    """Whether its fine-tune, a patch job or a part of one is running."""
    patches = [PatchFolder(path) for path in run.path.glob("patches/*")]
    parts = [part for patch in patches for part in patch.all_parts()]
    return any(folder.status().state == "running" for folder in (run, *patches, *parts))


@contextmanager
def alone(output: Path) -> Iterator[None]:
    """Keeps other `sync` and `track` commands out of this output folder."""
    file = output / "sweeps" / "sync.lock"
    try:
        with FileLock(file, timeout=0, mode=0o666):
            yield
    except Timeout:
        raise UserError(f"{file}: another `mi-sweeps sync` or `track` is running; try again when it is done") from None


def upload(run: WandbRun) -> Outcome:
    """Uploads all missing attempts of a run with one call of wandb.

    Raises:
        UserError: nobody is logged in.
    """
    try:
        with online_lock(run.folder):
            _prepare(run)
            return _call(run)
    except Timeout:
        return Outcome("a job is uploading to it now; try again later")
    except OSError as error:
        return Outcome(describe(error))


def _call(run: WandbRun) -> Outcome:
    project, entity, mode = (run.tracking[key] for key in ("project", "entity", "mode"))
    # If tracking is off now, each attempt keeps the project that it was written with.
    to = ["--project", project, *(["--entity", entity] if entity else [])] if mode != "disabled" else []
    folders = [str(attempt.folder) for attempt in run.missing]
    # wandb's process may still write a log for a moment after its parent has ended.
    with tempfile.TemporaryDirectory(prefix="mi-sweeps-sync-", ignore_cleanup_errors=True) as scratch:
        code, printed = _wandb([*COMMAND, *to, *folders], scratch)
        errors = [error for log in Path(scratch).glob("wandb/logs/debug-sync.*.log") for error in logged_errors(log)]
    lines = printed.strip().splitlines() or [""]
    last = lines[-1].removeprefix("wandb: ").removeprefix("Error: ")
    if code and NO_LOGIN.match(lines[-1]):
        raise UserError(f"wandb sync: {last}")
    blamed = {path for path, _ in errors}
    good = [attempt for attempt in run.missing if attempt.ended.exists() and str(attempt.file) not in blamed]
    for attempt in good:
        attempt.began.unlink(missing_ok=True)
    url = re.search(r" at (https?://\S+)", printed)
    if len(good) == len(run.missing):
        for job in jobs_of(run.folder):
            unmirrored.forget(job, unmirrored.SYNC)
        if url:
            write_json(run.folder.wandb, {"url": url[1]})
        return Outcome(url=url[1] if url else "wandb")
    why = errors[-1][1] if errors else last
    if code is None:
        why = f"wandb did not end in {UPLOAD_SECONDS:g} s, and was killed"
    elif code:
        why = f"wandb ended with exit code {code}: {why}"
    return Outcome(f"{why} ({_attempts(run.missing)}, {len(good)} uploaded)")


def _wandb(command: Sequence[str], scratch: str) -> tuple[int | None, str]:
    """Runs wandb; returns its exit code (None if it was killed) and its output."""
    # Not a pipe: wandb's own process inherits it, and reading would wait for that process too.
    file = Path(scratch, "printed.txt")
    with file.open("w") as printed, suppress(subprocess.TimeoutExpired):
        called = subprocess.run(
            command,
            cwd=scratch,  # wandb leaves logs in the working folder.
            env=_environment(scratch),
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=UPLOAD_SECONDS,
        )
        return called.returncode, file.read_text(errors="replace")
    return None, file.read_text(errors="replace")


def _prepare(run: WandbRun) -> None:
    """Marks the attempts, and repairs what would keep wandb from joining them."""
    for attempt in run.missing:
        attempt.began.touch()
        attempt.ended.unlink(missing_ok=True)
        # A killed attempt may end in half a record, and wandb would skip all attempts after it.
        _, end = records(attempt.file)
        if end < attempt.file.stat().st_size:
            os.truncate(attempt.file, end)
    # After a failed upload, wandb remembers an attempt's place in the run, which others may have taken since. Only the
    # oldest attempt surely keeps its place, if no younger one was uploaded.
    newest = run.uploaded[-1].time if run.uploaded else ""
    keeps_place = run.missing[0].time > newest
    for attempt in run.missing[1 if keeps_place else 0 :]:
        attempt.first_step.unlink(missing_ok=True)


def _environment(scratch: str) -> dict[str, str]:
    clients = ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")
    limits = {f"WANDB__{client}_RETRY_MAX": str(RETRIES) for client in clients}
    own = {**limits, **os.environ, "WANDB_DIR": scratch}
    # These belong to another wandb process, or to a job.
    for variable in ("WANDB_SERVICE", "WANDB_MODE"):
        own.pop(variable, None)
    return own
