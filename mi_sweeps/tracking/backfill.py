"""`mi-sweeps track`: makes the wandb runs of sweeps that were run without wandb, from the run folders.

Each fine-tune and each patch job gets the attempt that it would have written while it ran, through the same mirror. A
job that has an attempt is left out, so that no point is there twice.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mi_sweeps.config import Config, TrackingConfig
from mi_sweeps.errors import UserError
from mi_sweeps.store.files import PARTIAL, clear_partial, read_table
from mi_sweeps.store.folders import Folder, PatchFolder, RunFolder
from mi_sweeps.sweeps import manifest, plan
from mi_sweeps.tracking import attempts, values
from mi_sweeps.tracking.mirror import mirror
from mi_sweeps.tracking.sync import alone, is_running

if TYPE_CHECKING:
    from rich.console import Console

    from mi_sweeps.sweeps.cells import Cell

Mode = Literal["offline", "online"]

LATEST = "latest-run"
"""wandb's link to the newest attempt; `wandb clean` leaves it behind."""


@dataclass(frozen=True)
class Job:
    """A fine-tune or a patch job, and the configuration that it was asked for with."""

    cell: Cell
    run: RunFolder
    patch: PatchFolder | None = None
    """None for the fine-tune."""

    @property
    def folder(self) -> Folder:
        return self.patch or self.run

    @property
    def is_done(self) -> bool:
        there = bool(self.patch.steps()) if self.patch else self.run.metrics.exists()
        return there and self.folder.status().state == "done"

    @property
    def is_mirrored(self) -> bool:
        """Whether wandb wrote something of it; also where that was uploaded and `wandb clean` has removed it, which
        leaves a link behind."""
        places = [self.folder, *(self.patch.all_parts() if self.patch else ())]
        found = [attempt for place in places for attempt in attempts.of_job(place.path)]
        if not found:
            return any((place.path / "wandb" / LATEST).is_symlink() for place in places)
        return any(attempt.is_uploaded or not attempt.is_empty for attempt in found)

    def forget(self) -> None:
        """Removes what wandb wrote of it here."""
        for place in (self.folder, *(self.patch.all_parts() if self.patch else ())):
            shutil.rmtree(place.path / "wandb", ignore_errors=True)


def track(
    console: Console,
    output: Path,
    sweeps: Sequence[str],
    *,
    mode: Mode = "offline",
    project: str | None = None,
    entity: str | None = None,
    again: bool = False,
) -> int:
    """Makes what is missing, with a line for each run; the exit code is 1 if wandb failed.

    Args:
        project, entity: of sweeps that were run without wandb; others have their own.
        again: also what is there already; it takes the place of that on disk, not of what was uploaded.

    Raises:
        UserError: another process does so, or a sweep is mirrored elsewhere.
    """
    counts: Counter[str] = Counter()
    with alone(output):
        for run, jobs in _jobs(output, sweeps).items():
            what = _track_run(run, jobs, mode, project, entity, again)
            counts[what.partition(":")[0]] += 1
            console.print(f"{run.run_id}: {what}", markup=False, soft_wrap=True)
    console.print(f"{counts.total()} runs: {', '.join(f'{n} {what}' for what, n in counts.items())}", soft_wrap=True)
    if counts["mirrored offline"]:
        console.print(f"`mi-sweeps sync {' '.join(sweeps)}` uploads what is offline", soft_wrap=True)
    return 1 if counts["failed"] else 0


def _jobs(output: Path, sweeps: Sequence[str]) -> dict[RunFolder, list[Job]]:
    """The jobs of each run, the fine-tune first."""
    found: dict[RunFolder, dict[Path, Job]] = {}
    for name in sweeps:
        for entry in manifest.load(output, name):
            cell = entry.cell(output.absolute())
            run, patch = plan.folders_of(cell)
            jobs = found.setdefault(run, {run.path: Job(cell, run)})
            jobs.setdefault(patch.path, Job(cell, run, patch))
    return {run: list(jobs.values()) for run, jobs in found.items()}


def _track_run(
    run: RunFolder, jobs: Sequence[Job], mode: Mode, project: str | None, entity: str | None, again: bool
) -> str:
    """What came of it: some words, and after a colon more of them."""
    if is_running(run):
        return "still running"
    done = [job for job in jobs if job.is_done]
    wanted = [job for job in done if again or not job.is_mirrored]
    if not wanted:
        return "mirrored before" if done else "not done"
    made = [_make(job, _config(job.cell, mode, project, entity), again) for job in wanted]
    if None in made:
        return f"failed: {made.count(None)} of {len(made)} jobs; wandb's complaint is above"
    patches = sum(job.patch is not None for job in wanted)
    parts = ["fine-tune"] * (len(wanted) > patches) + [f"patch jobs {patches}"] * bool(patches)
    left = f", not done {len(jobs) - len(done)}" if len(done) < len(jobs) else ""
    return f"mirrored {'online' if set(made) == {'online'} else 'offline'}: {', '.join(parts)}{left}"


def _config(cell: Cell, mode: Mode, project: str | None, entity: str | None) -> Config:
    asked = cell.config.tracking
    for key, given, own in (("project", project, asked.project), ("entity", entity, asked.entity)):
        if given and asked.mode != "disabled" and given != own:
            raise UserError(
                f"--{key} {given}: {cell.config.sweep.name} is mirrored with tracking.{key}={own}; "
                f"`mi-sweeps run … tracking.{key}={given}` changes that for what is yet to be uploaded"
            )
    tracking = TrackingConfig(name="wandb", mode=mode, project=project or asked.project, entity=entity or asked.entity)
    return cell.config.model_copy(update={"tracking": tracking})


def _make(job: Job, config: Config, again: bool) -> Mode | None:
    """Whether the attempt is offline or online; None if wandb failed."""
    clear_partial(job.folder.path)
    if again:
        job.forget()
    with _unseen(job.folder) as place:
        with mirror(config, job.run, job.patch, place=place) as mirrored:
            for step, rows in _points(job):
                (mirrored.log_tables if job.patch else mirrored.log_metrics)(step, rows)
        made = [attempt for attempt in attempts.of_job(place.path) if not attempt.is_empty]
    if not made:
        return None
    return "online" if all(attempt.is_online for attempt in made) else "offline"


@contextmanager
def _unseen(folder: Folder) -> Iterator[Folder]:
    """Where wandb's files go until they are whole: then they are the job's. Of a process that was killed nothing
    stays, and the job does not look as if it was mirrored."""
    place = Path(tempfile.mkdtemp(prefix=".wandb.", suffix=PARTIAL, dir=folder.path))
    try:
        yield Folder(place)
        (folder.path / "wandb").mkdir(exist_ok=True)
        for attempt in attempts.of_job(place):
            os.replace(attempt.folder, folder.path / "wandb" / attempt.folder.name)
            latest = folder.path / "wandb" / LATEST  # As wandb does it.
            latest.unlink(missing_ok=True)
            latest.symlink_to(attempt.folder.name)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _points(job: Job) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """The steps of a job's checkpoints, each with its rows."""
    if job.patch:
        for step in job.patch.steps():
            yield step, values.read(job.patch, step)
        return
    by_step: dict[int, list[dict[str, Any]]] = {}
    for row in read_table(job.run.metrics).to_pylist():
        by_step.setdefault(row["step"], []).append(row)
    yield from sorted(by_step.items())
