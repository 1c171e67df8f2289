"""What `run` would do: pure, read from the folders, never written."""

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
"""Threads that look at the folders of a slow disk, where a look is mostly waiting, and thousands add up."""

SLOW_SECONDS = 0.001
"""A disk is slow if a run and its patch jobs take longer; on a quick one threads only get in each other's way."""


@dataclass(frozen=True)
class Plan:
    """Cells with the states that their folders had when the plan was made."""

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
        """Every fine-tune and patch job: its id, a point that has it, and its state."""
        for run_id, points in self.points_by_run.items():
            yield run_id, points[0], "finetune", self.runs[run_id]
            for point in points:
                yield point.patch_id, point, "patch", self.patches[point.patch_id]

    @property
    def run_name(self) -> str:
        """What a user calls its runs: fine-tunes, series, or runs where there are both."""
        names = {point.run_name for point in self.points}
        return names.pop() if len(names) == 1 else "run"

    @property
    def statuses(self) -> tuple[Status, ...]:
        """Of all fine-tunes and all patch jobs."""
        return (*self.runs.values(), *self.patches.values())

    def counts(self) -> tuple[Counter[str], Counter[str]]:
        """How many runs, and how many patch jobs, are in each state."""
        return Counter(map(shown, self.runs.values())), Counter(map(shown, self.patches.values()))

    def missing(self, retry: Collection[Failure] = ()) -> tuple[list[str], dict[str, list[str]]]:
        """What `run` would work on: the run ids of fine-tunes, and for each run id the patch ids of its patch jobs. The
        patch jobs of a fine-tune that stays failed wait for it.

        Args:
            retry: the kinds of failures that are taken up.
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
        """How many fine-tunes and patch jobs `run` would work on."""
        runs, patches = self.missing(retry)
        return len(runs) + sum(map(len, patches.values()))

    @property
    def is_done(self) -> bool:
        """Whether nothing is left, not even a failed point."""
        return all(status.state == "done" for status in self.statuses)


def shown(status: Status) -> str:
    """A state as it is counted."""
    if status.state in PENDING:
        return "to do"
    return status.state if status.diverged is None else "diverged"


def folders_of(point: GridPoint) -> tuple[RunFolder, PatchFolder]:
    """Where a point's results are."""
    run = folders.run_folder(point.output, point.run_id)
    return run, run.patch(point.patch_id)


def logged(folder: Folder) -> list[Folder]:
    """Those that have a log: the folder, or those of a patch job's parts; what failed comes first."""
    parts = folder.all_parts() if isinstance(folder, PatchFolder) else []
    there = [one for one in (folder, *parts) if one.log_file.is_file()]
    return sorted(there, key=lambda one: one.status_on_disk().state != "failed")


def make(points: Sequence[GridPoint]) -> Plan:
    """Looks at the folders of the points."""
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
    """The states of some runs, and of those patch jobs of theirs that the points are."""
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
    """Done means that every table is there: a deleted one is made again."""
    status = folder.status()
    if status.state == "done":
        if folder.has(run.reached(point.patch_steps), point.tables):
            return status
        status = replace(status, state="todo")
    if status.state != "running":
        # Where parts of it are done separately: the one at work, or the worst of those that were begun since.
        since = status.finished or status.started or ""
        parts = [part for one in folder.all_parts() if ((part := one.status()).started or "") >= since]
        for state in ("running", "failed", "interrupted", "cancelled"):
            if found := [part for part in parts if part.state == state]:
                return found[0]
    return status


def part_status(point: GridPoint, part: int, parts: int) -> Status:
    """The same of one part of a patch job."""
    run, folder = folders_of(point)
    status = folder.part(part, parts).status()
    if status.state == "done" and not folder.has(run.status().reached(point.patch_steps[part::parts]), point.tables):
        return replace(status, state="todo")
    return status


def is_to_be_ended(point: GridPoint) -> bool:
    """Whether every table of a patch job is there, and nobody has ended it: who made the last one was killed then."""
    run, folder = folders_of(point)
    return folder.status().state in PENDING and folder.has(run.status().reached(point.patch_steps), point.tables)


def _run_status(
    folder: RunFolder, status: Status, points: Sequence[GridPoint], patches: Mapping[str, Status]
) -> Status:
    """Done means that the metrics are there, and every checkpoint that is still to be patched: weights may be
    deleted when nobody needs them any more."""
    if status.state != "done":
        return status
    needed = status.reached(needed_steps(points, patches))
    return status if folder.has(needed) else replace(status, state="todo")


def needed_steps(points: Sequence[GridPoint], patches: Mapping[str, Status]) -> set[int]:
    """The checkpoints of a run that are still to be patched; of a series none, for its weights are elsewhere."""
    if points[0].is_series:
        return set()
    pending = [point for point in points if patches[point.patch_id].state != "done"]
    return {step for point in pending for step in point.patch_steps}
