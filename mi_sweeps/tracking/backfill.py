"""`mi-sweeps track`: mirrors sweeps that were run without wandb, from their run folders.

Each fine-tune and patch job gets an attempt, written by the same mirror as during a run, with the checkpoints that no
earlier attempt has. So no point is logged twice.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mi_sweeps.config import Config, TrackingConfig, wandb_name
from mi_sweeps.errors import UserError
from mi_sweeps.hints import hint
from mi_sweeps.store.files import PARTIAL, clear_partial
from mi_sweeps.store.folders import Folder, PatchFolder, RunFolder
from mi_sweeps.sweeps import manifest, plan
from mi_sweeps.tracking import unmirrored, values, wandb_folders
from mi_sweeps.tracking.mirror import Mode, mirror
from mi_sweeps.tracking.sync import alone, is_running, listed

if TYPE_CHECKING:
    from rich.console import Console

    from mi_sweeps.sweeps.points import GridPoint

WRITTEN_SECONDS = 5.0
"""How long to wait for wandb's process to write an attempt."""


@dataclass(frozen=True)
class TrackedJob:
    """A fine-tune or a patch job, with its grid point."""

    point: GridPoint
    run: RunFolder
    patch: PatchFolder | None = None
    """None for the fine-tune or series."""

    @property
    def folder(self) -> Folder:
        return self.patch or self.run

    @property
    def is_done(self) -> bool:
        there = bool(self.patch.steps()) if self.patch else self.run.metrics.exists()
        return there and self.folder.status().state == "done"

    def missing(self, again: bool) -> list[int]:
        """Returns the checkpoints that no attempt has, or all of them."""
        steps = values.steps(self.run, self.patch)
        return steps if again else wandb_folders.missing(self.folder.path, steps)

    def forget(self) -> None:
        """Deletes its attempts on disk."""
        for place in (self.folder, *(self.patch.all_parts() if self.patch else ())):
            shutil.rmtree(place.path / "wandb", ignore_errors=True)

    def clear_notes(self, *mended_by: str) -> None:
        """Removes the notes about missing parts that these commands have added."""
        for place in (self.folder, *(self.patch.all_parts() if self.patch else ())):
            unmirrored.forget(place.path, *mended_by)


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
    """Mirrors what is missing and prints a line for each run; the exit code is 1 if wandb failed.

    Args:
        project, entity: for sweeps that were run without wandb; others have their own.
        again: mirror everything again. This replaces attempts on disk, but not what was uploaded.

    Raises:
        UserError: another process is mirroring or uploading, a sweep has another project or entity, wandb is switched
            off, or wandb does not accept a name.
    """
    unmirrored.refuse_if_off()
    for key, name in (("project", project), ("entity", entity)):
        wandb_name(f"--{key}", name)
    counts: Counter[str] = Counter()
    with alone(output):
        for run, jobs in _jobs(output, sweeps).items():
            what = _track_run(run, jobs, mode, project, entity, again)
            counts[what.partition(":")[0]] += 1
            console.print(f"{run.run_id}: {what}", markup=False, soft_wrap=True)
    console.print(listed(counts), soft_wrap=True)
    if counts["mirrored offline"]:
        upload = hint("sync", " ".join(sweeps), output)
        console.print(f"`{upload}` uploads them", markup=False, soft_wrap=True)
    return 1 if counts["failed"] else 0


def _jobs(output: Path, sweeps: Sequence[str]) -> dict[RunFolder, list[TrackedJob]]:
    """Returns the jobs of each run, the fine-tune first."""
    found: dict[RunFolder, dict[Path, TrackedJob]] = {}
    for name in sweeps:
        for entry in manifest.load(output, name):
            point = entry.point(output.absolute())
            run, patch = plan.folders_of(point)
            jobs = found.setdefault(run, {run.path: TrackedJob(point, run)})
            jobs.setdefault(patch.path, TrackedJob(point, run, patch))
    return {run: list(jobs.values()) for run, jobs in found.items()}


def _track_run(
    run: RunFolder, jobs: Sequence[TrackedJob], mode: Mode, project: str | None, entity: str | None, again: bool
) -> str:
    """Mirrors the jobs of a run; returns the result in a few words, with details after a colon."""
    if is_running(run):
        return "still running"
    done = [job for job in jobs if job.is_done]
    try:
        wanted = [(job, steps) for job in done if (steps := job.missing(again))]
    except UserError as error:
        return f"failed: {error}"
    if not wanted:
        return "mirrored before" if done else "not done"
    configs = [_config(job.point, mode, project, entity) for job, _ in wanted]
    if again:
        for job, _ in wanted:
            job.forget()
    try:
        made = [_make(job, steps, config) for (job, steps), config in zip(wanted, configs, strict=True)]
    except UserError as error:  # A table is damaged; other runs go on.
        return f"failed: {error}"
    for (job, _), mode_made in zip(wanted, made, strict=True):
        if mode_made:
            job.clear_notes(unmirrored.TRACK, *([unmirrored.AGAIN] if again else []))
    if None in made:
        return f"failed: {made.count(None)} of {len(made)} jobs; wandb's error is above"
    words = [f"{'patch job' if job.patch else job.point.run_name} {len(steps)}" for job, steps in wanted]
    left = f"; {len(jobs) - len(done)} not done" if len(done) < len(jobs) else ""
    return f"mirrored {'online' if set(made) == {'online'} else 'offline'}: checkpoints of {', '.join(words)}{left}"


def _config(point: GridPoint, mode: Mode, project: str | None, entity: str | None) -> Config:
    asked = point.config.tracking
    for key, given, own in (("project", project, asked.project), ("entity", entity, asked.entity)):
        if given and asked.mode != "disabled" and given != own:
            raise UserError(
                f"--{key} {given}: {point.config.sweep.name} is mirrored with tracking.{key}={own}; "
                f"`mi-sweeps run … tracking.{key}={given}` changes that for future uploads"
            )
    tracking = TrackingConfig(name="wandb", mode=mode, project=project or asked.project, entity=entity or asked.entity)
    return point.config.model_copy(update={"tracking": tracking})


def _make(job: TrackedJob, steps: Sequence[int], config: Config) -> Mode | None:
    """Mirrors a job; returns whether its attempt is offline or online, or None if wandb failed."""
    clear_partial(job.folder.path)
    with _unseen(job.folder) as place:
        with mirror(config, job.run, job.patch, place=place) as mirrored:
            for step, rows in values.at(job.run, job.patch, steps):
                mirrored.log(step, rows)
        made = _written(place, set(steps))
    if not made:
        return None
    return "online" if all(attempt.is_online for attempt in made) else "offline"


def _written(place: Folder, steps: set[int]) -> list[wandb_folders.Attempt]:
    """Waits until the attempts have these checkpoints, and returns them; empty if they never do. wandb's process writes
    the end of an attempt a moment after it was finished."""
    until = time.monotonic() + WRITTEN_SECONDS
    while (made := wandb_folders.of_job(place.path)) and time.monotonic() < until:
        if steps <= {step for attempt in made for step in attempt.steps()}:
            return made
        time.sleep(0.02)
    return []


@contextmanager
def _unseen(folder: Folder) -> Iterator[Folder]:
    """Yields a temporary folder for wandb's files, and moves them to the job once they are complete. After a kill the
    job does not look as if it had been mirrored."""
    place = Path(tempfile.mkdtemp(prefix=".wandb.", suffix=PARTIAL, dir=folder.path))
    try:
        yield Folder(place)
        (folder.path / "wandb").mkdir(exist_ok=True)
        for attempt in wandb_folders.of_job(place):
            target = folder.path / "wandb" / attempt.folder.name
            while target.exists():  # An attempt of the same second.
                target = target.with_name(f"{target.name}-2")
            os.replace(attempt.folder, target)
            latest = target.with_name(wandb_folders.LATEST)  # As wandb does.
            latest.unlink(missing_ok=True)
            latest.symlink_to(target.name)
    finally:
        shutil.rmtree(place, ignore_errors=True)
