"""What `run` would do, read from the folders. Nothing is written."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from mi_sweeps.store import folders
from mi_sweeps.store.files import names
from mi_sweeps.store.folders import Folder, PatchFolder, RunFolder
from mi_sweeps.store.status import PENDING, Failure, Status

if TYPE_CHECKING:
    from mi_sweeps.sweeps.points import GridPoint, Stage

LOOKERS = 8
"""Threads that look at folders on a slow disk, where looking is mostly waiting."""

SLOW_SECONDS = 0.001
"""A disk is slow if looking at a run and its patch jobs takes longer than this. On a fast one, threads only slow each
other down."""


@dataclass(frozen=True)
class Plan:
    """Grid points, with the states of their folders when the plan was made."""

    points: tuple[GridPoint, ...]
    runs: dict[str, Status]
    """State of each fine-tune by run id."""
    patches: dict[str, Status]
    """State of each patch job by patch id."""

    @cached_property
    def points_by_run(self) -> dict[str, list[GridPoint]]:
        """The patch jobs of each fine-tune."""
        grouped: dict[str, list[GridPoint]] = {}
        for point in self.points:
            grouped.setdefault(point.run_id, []).append(point)
        return grouped

    def each(self) -> Iterator[tuple[str, GridPoint, Stage, Status]]:
        """Yields every fine-tune and patch job: its id, a grid point with it, its stage and its status."""
        for run_id, points in self.points_by_run.items():
            yield run_id, points[0], "finetune", self.runs[run_id]
            for point in points:
                yield point.patch_id, point, "patch", self.patches[point.patch_id]

    @property
    def run_name(self) -> str:
        """What its runs are called: "fine-tune", "series", or "run" if there are both."""
        names = {point.run_name for point in self.points}
        return names.pop() if len(names) == 1 else "run"

    @property
    def statuses(self) -> tuple[Status, ...]:
        """The statuses of all fine-tunes and patch jobs."""
        return (*self.runs.values(), *self.patches.values())

    def counts(self) -> tuple[Counter[str], Counter[str]]:
        """Counts the runs and the patch jobs in each state."""
        return Counter(map(shown, self.runs.values())), Counter(map(shown, self.patches.values()))

    def missing(self, retry: Collection[Failure] = ()) -> tuple[list[str], dict[str, list[str]]]:
        """Returns what `run` would work on: the run ids of fine-tunes, and by run id the patch ids of patch jobs. Patch
        jobs of a failed fine-tune that is not tried again are left out.

        Args:
            retry: the kinds of failures to try again.
        """

        def wanted(status: Status) -> bool:
            return status.state in PENDING or (status.state == "failed" and (status.failure or "error") in retry)

        runs = [run_id for run_id, status in self.runs.items() if wanted(status)]
        patches = {
            run_id: [point.patch_id for point in points if wanted(self.patches[point.patch_id])]
            for run_id, points in self.points_by_run.items()
            if self.runs[run_id].state != "failed" or wanted(self.runs[run_id])
        }
        return runs, {run_id: ids for run_id, ids in patches.items() if ids}

    def to_do(self, retry: Collection[Failure] = ()) -> int:
        """Counts the fine-tunes and patch jobs that `run` would work on."""
        runs, patches = self.missing(retry)
        return len(runs) + sum(map(len, patches.values()))

    @property
    def is_done(self) -> bool:
        """Whether every fine-tune and patch job is done."""
        return all(status.state == "done" for status in self.statuses)


def shown(status: Status) -> str:
    """Returns a state as it is shown in counts."""
    if status.state in PENDING:
        return "to do"
    return status.state if status.diverged is None else "diverged"


def folders_of(point: GridPoint) -> tuple[RunFolder, PatchFolder]:
    """Returns the folders of a point's run and patch job."""
    run = folders.run_folder(point.output, point.run_id)
    return run, run.patch(point.patch_id)


def logged(folder: Folder) -> list[Folder]:
    """Returns the folders that have a log, among a folder and its patch job's parts; failed ones first."""
    parts = folder.all_parts() if isinstance(folder, PatchFolder) else []
    there = [one for one in (folder, *parts) if one.log_file.is_file()]
    return sorted(there, key=lambda one: one.status_on_disk().state != "failed")


def make(points: Sequence[GridPoint]) -> Plan:
    """Makes a plan by looking at the folders of the points."""
    untouched = Status()
    runs = {point.run_id: untouched for point in points}
    patches = {point.patch_id: untouched for point in points}
    plan = Plan(tuple(points), runs, patches)
    there = {output: names(f"{output}/runs") for output in {point.values["output"] for point in points}}
    begun = [group for run, group in plan.points_by_run.items() if run in there[group[0].values["output"]]]
    first, rest = begun[:LOOKERS], begun[LOOKERS:]
    began = time.monotonic()
    seen = [_look(first)]
    if time.monotonic() - began < SLOW_SECONDS * len(first):
        seen.append(_look(rest))
    else:
        with ThreadPoolExecutor(LOOKERS) as lookers:
            seen += lookers.map(_look, [rest[share::LOOKERS] for share in range(LOOKERS)])
    for some in seen:
        runs.update(some.runs)
        patches.update(some.patches)
    return plan


def _look(groups: Sequence[Sequence[GridPoint]]) -> Plan:
    """Looks at some runs and the patch jobs that the points belong to."""
    seen = Plan((), {}, {})
    for points in groups:
        folder, _ = folders_of(points[0])
        run = folder.status()
        seen.patches.update(
            (point.patch_id, _patch_status(folder.patch(point.patch_id), point, run)) for point in points
        )
        seen.runs[points[0].run_id] = _run_status(folder, run, points, seen.patches)
    return seen


def _patch_status(folder: PatchFolder, point: GridPoint, run: Status) -> Status:
    """Returns a patch job's status. It is done only if every table exists: a deleted one is computed again."""
    status = folder.status()
    if status.state == "done":
        if folder.has(run.reached(point.patch_steps), point.tables):
            return status
        status = replace(status, state="todo")
    if status.state != "running":
        # For a job in parts: the running part, or else the worst of those begun since.
        since = status.finished or status.started or ""
        parts = [part for one in folder.all_parts() if ((part := one.status()).started or "") >= since]
        for state in ("running", "failed", "interrupted", "cancelled"):
            if found := [part for part in parts if part.state == state]:
                return found[0]
    return status


def part_status(point: GridPoint, part: int, parts: int) -> Status:
    """Returns the status of one part of a patch job."""
    run, folder = folders_of(point)
    status = folder.part(part, parts).status()
    if status.state == "done" and not folder.has(run.status().reached(point.patch_steps[part::parts]), point.tables):
        return replace(status, state="todo")
    return status


def is_to_be_ended(point: GridPoint) -> bool:
    """Whether every table of a patch job exists but it is not marked as done, because its last worker was killed."""
    run, folder = folders_of(point)
    return folder.status().state in PENDING and folder.has(run.status().reached(point.patch_steps), point.tables)


def _run_status(
    folder: RunFolder, status: Status, points: Sequence[GridPoint], patches: Mapping[str, Status]
) -> Status:
    """Returns a run's status. It is done only if the metrics exist, and every checkpoint that is still to be patched:
    other weights may be deleted."""
    if status.state != "done":
        return status
    needed = status.reached(needed_steps(points, patches))
    return status if folder.has(needed) else replace(status, state="todo")


def needed_steps(points: Sequence[GridPoint], patches: Mapping[str, Status]) -> set[int]:
    """Returns the checkpoints of a run that are still to be patched; none for a series, whose weights are elsewhere."""
    if points[0].is_series:
        return set()
    pending = [point for point in points if patches[point.patch_id].state != "done"]
    return {step for point in pending for step in point.patch_steps}
