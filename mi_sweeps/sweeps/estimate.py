"""Estimates the time left in a sweep from the work done so far.

A step of a fine-tune, or a checkpoint of a patch job, is assumed to take as long as earlier ones of the same kind. If
nothing of a kind has been done yet, its time is reported as unknown, not guessed.
"""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_sweeps.errors import UserError
from mi_sweeps.store.files import read_json
from mi_sweeps.store.status import Failure, Status
from mi_sweeps.sweeps import plan as planning
from mi_sweeps.sweeps.plan import Plan

if TYPE_CHECKING:
    from mi_sweeps.sweeps.points import GridPoint, Stage


@dataclass(frozen=True)
class Work:
    """The work left in a fine-tune or patch job."""

    kind: str
    name: str
    """As shown to the user."""
    units: float
    """Steps or checkpoints left."""


@dataclass(frozen=True)
class TimeLeft:
    """An estimate of the time left."""

    seconds: float | None
    """For work of known kinds; None if no kind is known."""
    unknown: tuple[str, ...] = ()
    """Names of the work whose time is not known yet."""


def kind(point: GridPoint, stage: Stage) -> str:
    """Returns a key that work shares if each step or checkpoint takes equally long."""
    values = point.values
    task = {key: value for key, value in values["task"].items() if key != "seed"}
    if stage == "patch":
        asked = {key: value for key, value in values["patching"].items() if key not in ("name", "steps")}
        return json.dumps([stage, values["model"], task, asked], default=str)
    if point.is_series:
        return json.dumps([stage, values["model"], task], default=str)
    train = {key: value for key, value in values["train"].items() if key not in ("clip", "diverged")}
    return json.dumps([stage, values["model"], task, train, point.checkpoint_steps], default=str)


def units(point: GridPoint, stage: Stage, status: Status | None = None) -> int:
    """Counts the steps or checkpoints of a job; given the `status` of a finished one, only those it reached."""
    if stage == "finetune" and not point.is_series:
        steps = point.values["checkpoint"].get("until") or point.values["train"]["steps"]
        return steps if status is None or status.diverged is None else status.diverged
    steps = point.patch_steps if stage == "patch" else point.checkpoint_steps
    return len(steps if status is None else status.reached(steps))


def rest(plan: Plan, retry: Collection[Failure] = ()) -> dict[str, Work]:
    """Returns the work left in a plan by run id and patch id, including what other processes are doing."""
    runs, patches = plan.missing(retry)
    left = {*runs, *(id for ids in patches.values() for id in ids)}
    found = {}
    for id, point, stage, status in plan.each():
        if id in left or status.state in ("running", "queued"):
            of_run = plan.runs[point.run_id]
            whole = units(point, stage, of_run if stage == "patch" else None)
            found[id] = Work(kind(point, stage), _name(point, stage), whole - _reached(point, stage))
    return found


def rates(plan: Plan) -> dict[str, float]:
    """Returns seconds per step or checkpoint by kind, for work done on this machine. Runs that are trained together
    share their time."""
    done: dict[str, list[tuple[float, float]]] = {}
    begun: dict[str, list[tuple[float, float]]] = {}
    together = Counter((status.host, status.pid) for status in plan.statuses if status.state == "running")
    for _, point, stage, status in plan.each():
        if status.host != socket.gethostname():
            continue
        if status.state == "done" and status.seconds:
            of_run = plan.runs[point.run_id] if stage == "patch" else status
            count = units(point, stage, of_run)
            done.setdefault(kind(point, stage), []).append((status.seconds / _stacked(point, stage), count))
        elif status.state == "running":
            marks = _marks(point, stage)
            if len(marks) > 1:  # Timed from the first mark: loading the model comes before it.
                (first, began), (last, ended) = min(marks), max(marks)
                seconds = (ended - began) / together[status.host, status.pid]
                begun.setdefault(kind(point, stage), []).append((seconds, last - first))
    return {of: rate for of, taken in (begun | done).items() if (rate := _rate(taken)) is not None}


def left(work: Iterable[Work], known: Mapping[str, float], workers: int = 1) -> TimeLeft:
    """Estimates the time for some work shared by a number of workers."""
    work = list(work)
    taken = [one.units * known[one.kind] for one in work if one.kind in known]
    unknown = sorted({one.name for one in work if one.kind not in known})
    # A single job cannot be shared, so the longest one is a lower bound.
    return TimeLeft(max(sum(taken) / max(1, workers), *taken) if taken else None, tuple(unknown))


def of_plan(plan: Plan) -> TimeLeft:
    """Estimates the time left in a plan, with the workers that are running now."""
    at_work = {(status.host, status.pid) for status in plan.statuses if status.state == "running"}
    return left(rest(plan).values(), rates(plan), len(at_work))


class ProgressClock:
    """Follows the work of this process and estimates its time left."""

    def __init__(self, plan: Plan, retry: Collection[Failure] = ()) -> None:
        self._rest = rest(plan, retry)
        self._before = rates(plan)
        self._done: dict[str, list[tuple[float, float]]] = {}
        self._open: dict[str, _RunningJob] = {}
        self._last = time.monotonic()

    def begin(self, id: str, point: GridPoint, stage: Stage) -> None:
        """Records that a job began."""
        self._tick()
        self._open[id] = _RunningJob(kind(point, stage), units(point, stage))

    def step(self, id: str, step: int) -> None:
        """Records how many of a job's steps or checkpoints are done."""
        self._tick()
        one = self._open[id]
        one.first = one.first or (step, one.seconds)
        one.step = step
        if id in self._rest:
            self._rest[id] = Work(one.kind, self._rest[id].name, max(0, one.units - step))

    def end(self, id: str, well: bool) -> None:
        """Records that a job ended; `well` is False after an error."""
        self._tick()
        one = self._open.pop(id)
        self._rest.pop(id, None)
        if well and one.first and one.step > one.first[0]:
            self._done.setdefault(one.kind, []).append((one.seconds, one.step - max(0, one.first[0] - 1)))

    def left(self, id: str | None = None) -> TimeLeft:
        """Estimates the time left for everything, or for one running job."""
        begun: dict[str, list[tuple[float, float]]] = {}
        for one in self._open.values():
            if one.first:
                begun.setdefault(one.kind, []).append((one.seconds - one.first[1], one.step - one.first[0]))
        now = {of: rate for of, taken in (begun | self._done).items() if (rate := _rate(taken)) is not None}
        known = now | {of: rate for of, rate in self._before.items() if of not in self._done}
        found = left([self._rest[id]] if id in self._rest else () if id else self._rest.values(), known)
        since = time.monotonic() - self._last
        return found if found.seconds is None else TimeLeft(max(0.0, found.seconds - since), found.unknown)

    def _tick(self) -> None:
        """Shares the time since the last event among the running jobs, which are trained together."""
        now = time.monotonic()
        for one in self._open.values():
            one.seconds += (now - self._last) / len(self._open)
        self._last = now


@dataclass
class _RunningJob:
    """A running job."""

    kind: str
    units: int
    seconds: float = 0.0
    first: tuple[int, float] | None = None
    """The first reported step, and the seconds until then."""
    step: int = 0


def _name(point: GridPoint, stage: Stage) -> str:
    return point.run_name if stage == "finetune" else "patch job"


def _rate(taken: Iterable[tuple[float, float]]) -> float | None:
    seconds, count = (sum(part) for part in zip(*taken, strict=True))
    return seconds / count if count else None


def _stacked(point: GridPoint, stage: Stage) -> int:
    """Counts the runs that share the time of a fine-tune."""
    about: dict[str, Any] = {}
    if stage == "finetune":
        run, _ = planning.folders_of(point)
        with suppress(UserError):
            about = read_json(run.about) or {}
    stacks = about.get("stacks") or [{"runs": [point.run_id]}]
    return len(stacks[-1]["runs"])


def _marks(point: GridPoint, stage: Stage) -> list[tuple[int, float]]:
    """Returns when a running job had done how many steps or checkpoints: (count, modification time) of each."""
    run, patch = planning.folders_of(point)
    if stage == "finetune":
        return list(_kept(run.checkpoints).items())
    own = sorted(when for step, when in _kept(patch.tables).items() if step in point.patch_steps)
    return list(enumerate(own, 1))


def _reached(point: GridPoint, stage: Stage) -> int:
    """Counts the steps or checkpoints that are done."""
    return max((count for count, _ in _marks(point, stage)), default=0)


def _kept(folder: Path) -> dict[int, float]:
    """Returns when each checkpoint or table was written, by step."""
    found = {}
    with suppress(OSError):
        for file in folder.iterdir():
            step, _, ending = file.name.partition(".")
            if step.isdigit() and ending in ("safetensors", "parquet"):
                with suppress(OSError):
                    found[int(step)] = file.stat().st_mtime
    return found
