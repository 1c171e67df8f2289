"""Plans and states for a terminal: totals first, then failures and running work, and single grid points last."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from mi_sweeps.counting import plural
from mi_sweeps.errors import UserError
from mi_sweeps.sparkline import sparkline
from mi_sweeps.store.files import names, read_columns, read_json
from mi_sweeps.store.folders import RunFolder
from mi_sweeps.store.status import State, Status
from mi_sweeps.sweeps import plan as planning
from mi_sweeps.sweeps.plan import Plan
from mi_sweeps.sweeps.points import GridPoint
from mi_sweeps.training.outcome import RATES, outcome

COLOURS = {
    "done": "green",
    "running": "cyan",
    "queued": "blue",
    "failed": "red",
    "interrupted": "yellow",
    "cancelled": "yellow",
}
SHOWN_POINTS = 40
"""Rows that fit on a screen; a larger sweep shows only the points that need attention."""
NEED_ATTENTION: tuple[State, ...] = ("running", "failed", "interrupted", "cancelled")
"""States that get a row, the most important first."""
SHOWN_ERRORS = 8
"""Most different errors to show."""
RATE = "win rate"
RATE_BLOCKS = 8
"""Checkpoints in a sparkline."""
SPACES = 2
"""Spaces between columns."""
SHOWN_VALUES = 12
"""Most values of a key to list in full."""


def counted(counts: Counter[str]) -> str:
    """Formats the number in each state: "3 done, 1 failed"."""
    known = ("done", "diverged", "running", "queued", "failed", "to do")
    return ", ".join(f"{counts[state]} {state}" for state in known if counts[state]) or "none"


def summary(plan: Plan) -> str:
    """Summarises fine-tunes, series and patch jobs by state, in one line."""
    runs: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
    for run_id, points in plan.points_by_run.items():
        runs[points[0].is_series][planning.shown(plan.runs[run_id])] += 1
    trained, series = runs.values()
    _, patches = plan.counts()
    parts = []
    if trained or not series:
        parts.append(f"{sum(trained.values())} {plural('fine-tune', sum(trained.values()))} ({counted(trained)})")
    if series:
        steps = {len(points[0].checkpoint_steps) for points in plan.points_by_run.values() if points[0].is_series}
        several = f"{min(steps)} to {max(steps)}" if len(steps) > 1 else f"{max(steps)}"
        missing = _missing_steps(sum(len(status.missing_steps) for status in plan.runs.values()))
        of = f"{several} {plural('checkpoint', max(steps))}{missing}"
        parts.append(f"{sum(series.values())} series of {of} ({counted(series)})")
    parts.append(f"{len(plan.patches)} {plural('patch job', len(plan.patches))} ({counted(patches)})")
    return ", ".join(parts)


def _missing_steps(count: int) -> str:
    """Formats how many steps have no checkpoint; empty if all have one."""
    return f", {count} missing {plural('step', count)}" if count else ""


def axes(points: Sequence[GridPoint]) -> Iterator[str]:
    """Yields a line for each swept key, with its values."""
    values: dict[str, dict[str, None]] = {}
    for point in points:
        for key, value in point.choices.items():
            values.setdefault(key, {})[value] = None
    for key, found in values.items():
        listed = list(found)
        if len(listed) > SHOWN_VALUES:
            listed = [*listed[:3], "…", f"{listed[-1]} ({len(listed)} values)"]
        yield f"{key}: {', '.join(listed)}"


def schedules(points: Sequence[GridPoint]) -> Iterator[str]:
    """Yields a line for each learning-rate schedule, with a sparkline, and a warning if it grows without bound.

    Raises:
        UserError: there is no such schedule, or its arguments are wrong.
    """
    from mi_sweeps.config import NamedFunction
    from mi_sweeps.training.schedules import resolve, unbounded

    drawn = set()
    for point in points:
        values, steps = point.values["schedule"], point.values["train"]["steps"]
        if point.is_series:
            continue
        if (key := f"{values} {steps}") in drawn:
            continue
        drawn.add(key)
        multiplier = resolve(NamedFunction.model_validate(values), steps)
        try:
            every = [multiplier(step) for step in range(steps)]
        except Exception as error:  # A user's own function may raise anything.
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(
                f"schedule={values['name']}: {reason}; it must be defined for steps 0 to {steps - 1}"
            ) from error
        ends = f"{every[0]:.3g} to {every[-1]:.3g}" if every[0] != every[-1] else f"{every[0]:.3g}"
        line = f"schedule {values['name']}: {sparkline(every, low=0)} {ends} times optim.lr over {steps} steps"
        if unbounded(every):
            line += "; warning: it grows without bound"
        yield line


def zoomed(run_id: str, proof: Mapping[str, Any]) -> str:
    """Formats the proof in a zoomed run's run.json (`mi_sweeps.training.zoom.proof`) as one line."""
    same = proof["same"]
    last = max(same, key=int)
    return (
        f"run {run_id} equals run {proof['of']}: the stored weights are the same at all {len(same)} shared "
        f"checkpoints, the last at step {last} (hash {same[last]})"
    )


def zooms(plan: Plan) -> Iterator[str]:
    """Yields a line for each run that is a zoom into another."""
    for points in plan.points_by_run.values():
        folder, _ = planning.folders_of(points[0])
        if is_zoom(points[0]) and (proof := (read_json(folder.about) or {}).get("zoom")):
            yield zoomed(folder.run_id, proof)


def is_zoom(point: GridPoint) -> bool:
    """Whether its run is a zoom into another."""
    return bool(point.values["checkpoint"].get("zoom_of"))


def errors(plan: Plan) -> Iterator[str]:
    """Yields a line for each error, with how often it occurred, and one with a log to read. Errors that differ only in
    numbers and ids are counted together."""
    groups: dict[tuple[str, str], dict[str, GridPoint]] = {}
    states = {**plan.runs, **plan.patches}
    for point in plan.points:
        for stage, id in ((point.run_name, point.run_id), ("patch job", point.patch_id)):
            status = states[id]
            if status.state == "failed":
                alike = re.sub(r"[0-9a-f]{12}|\d+(\.\d+)?", "#", status.error or "")
                groups.setdefault((stage, alike), {})[id] = point
    most = sorted(groups.items(), key=lambda group: -len(group[1]))
    for (stage, _), failed in most[:SHOWN_ERRORS]:
        id, point = next(iter(failed.items()))
        which = f"{stage} {id}" if len(failed) == 1 else f"{len(failed)} {plural(stage, len(failed))}, for example {id}"
        yield f"failed {which}: {states[id].error}"
        # A job that died before Python began has no log; its error names the job's output.
        yield from (
            f"  {one.log_file}" for one in planning.logged(planning.folders_of(point)[stage == "patch job"])[:1]
        )
    if more := most[SHOWN_ERRORS:]:
        yield f"failed with {len(more)} other errors: {sum(len(failed) for _, failed in more)}"


def noteworthy(plan: Plan) -> list[GridPoint]:
    """Returns all points, or if there are too many, only those that are running or went wrong."""
    if len(plan.points) <= SHOWN_POINTS:
        return list(plan.points)

    def rank(point: GridPoint) -> int:
        states = (plan.runs[point.run_id].state, plan.patches[point.patch_id].state)
        return min(NEED_ATTENTION.index(state) if state in NEED_ATTENTION else len(NEED_ATTENTION) for state in states)

    return sorted((point for point in plan.points if rank(point) < len(NEED_ATTENTION)), key=rank)[:SHOWN_POINTS]


def point_table(plan: Plan, points: Sequence[GridPoint], width: int) -> Iterator[Table | Text | str]:
    """Lays out a row for each point: its choices, the states of its run and patch job, and the run's win rate.

    Win rates that do not fit into `width` go below the table. If the rest does not fit either, a point takes two lines.
    """
    names, *rows = _rows(plan, points)
    rates = win_rates(points)
    needed = sum(max(map(len, column)) + SPACES for column in zip(names, *rows, strict=True))
    fits = bool(rates) and needed + max(map(len, (RATE, *rates.values()))) <= width
    if needed - SPACES <= width:
        yield _table(plan, points, [*names, RATE] if fits else names, rows, rates)
    else:
        for row, point in zip(rows, points, strict=True):
            yield from _narrow(names, row, *_colours(plan, point))
    if rates and not fits:
        entries = [f"{run_id} {rate}" for run_id, rate in rates.items()]
        longest = max(map(len, entries)) + SPACES
        across = max(1, (width - len(RATE)) // longest)
        for at in range(0, len(entries), across):
            line = "".join(one.ljust(longest) for one in entries[at : at + across])
            yield f"{(RATE if at == 0 else '').ljust(len(RATE) + SPACES)}{line}".rstrip()


def win_rates(points: Sequence[GridPoint]) -> dict[str, str]:
    """Formats the held-out win rate of each run with metrics: a sparkline over the checkpoints, and the last value."""
    shown = {}
    for run_id, folder in {point.run_id: planning.folders_of(point)[0] for point in points}.items():
        try:
            found = held_out_win_rates(folder.metrics)
        except UserError:  # A damaged file must not hide the other runs.
            continue
        missing = folder.status_on_disk().missing_steps if found else ()
        there = {step: rate for step, rate in found.items() if "win_rate" in rate and step not in missing}
        if there:
            rates = [there.get(step, {}).get("win_rate", math.nan) for step in sorted({*there, *missing})]
            first, last = there[min(there)], there[max(there)]
            line = f"{sparkline(rates, 0, 1, width=RATE_BLOCKS)} {last['win_rate']:4.0%} {outcome(first, last)}"
            shown[run_id] = line.rstrip()
    return shown


def held_out_win_rates(metrics: Path) -> dict[int, dict[str, float]]:
    """Reads the win rate on held-out prompts and its interval, by checkpoint; empty if there are no metrics yet.

    Raises:
        UserError: the file is damaged.
    """
    if not metrics.exists():
        return {}
    rows = read_columns(metrics, ("step", "split", "metric", "value"))
    by_step: dict[int, dict[str, float]] = {}
    for step, split, metric, value in sorted(rows):
        if split == "heldout" and metric in RATES:
            by_step.setdefault(step, {})[metric] = value
    return by_step


def _narrow(names: Sequence[str], row: Sequence[str], of_run: str, of_patch: str) -> Iterator[Text]:
    """Formats a point as two lines: its choices, then its run and patch job with their states."""
    *choices, run_id, run, patch = row
    yield Text(" ".join(f"{name}={value}" for name, value in zip(names, choices, strict=False)))
    yield Text.assemble(f"  {run_id}  {names[-2]} ", (run, of_run), f"  {names[-1]} ", (patch, of_patch))


def _colours(plan: Plan, point: GridPoint) -> tuple[str, str]:
    """Returns the colours of a point's run and patch job."""
    run, patch = (
        COLOURS.get(status.state, "dim") for status in (plan.runs[point.run_id], plan.patches[point.patch_id])
    )
    return run, patch


def _table(
    plan: Plan,
    points: Sequence[GridPoint],
    names: Sequence[str],
    rows: Sequence[Sequence[str]],
    rates: Mapping[str, str],
) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        table.add_column(name, no_wrap=True)
    for row, point in zip(rows, points, strict=True):
        *choices, run, patch = map(Text, row)
        colours = _colours(plan, point)
        rate = [rates.get(point.run_id, "")] if RATE in names else []
        run.stylize(colours[0])
        patch.stylize(colours[1])
        table.add_row(*choices, run, patch, *rate)
    return table


def point_lines(plan: Plan) -> Iterator[str]:
    """Yields a line of text for every point: rich would take a minute to lay out a table of thousands of rows."""
    rows = _rows(plan, plan.points)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip()


def _rows(plan: Plan, points: Sequence[GridPoint]) -> list[list[str]]:
    """Returns the names of the columns, then a row for each point."""
    # A sweep may have been run in several parts with different choices.
    keys = list(dict.fromkeys([*chain.from_iterable(point.choices for point in plan.points), "corruption"]))
    kinds = {point.run_name for point in points}
    rows = [[*keys, "run", kinds.pop() if len(kinds) == 1 else "run's state", "patch job"]]
    for point in points:
        run_folder, patch_folder = planning.folders_of(point)
        rows.append(
            [
                *(_value(point, key) for key in keys),
                point.run_id,
                _state(plan.runs[point.run_id], _checkpoints(plan, point, run_folder), point.checkpoint_steps),
                _state(plan.patches[point.patch_id], patch_folder.steps, point.patch_steps),
            ]
        )
    return rows


def _value(point: GridPoint, key: str) -> str:
    """Formats a key's value: a plain value, the name of a group's choice, or, for a file that sets other keys
    (`+experiment=NAME`), the grid's own choice."""
    if key == "corruption":
        return point.prompts_label
    if key == "patching.task" and not point.values["patching"].get("task"):
        key = "task"
    values: Any = point.values
    for part in key.lstrip("+").split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    if values is None and key.lstrip("+").split(".")[0] not in point.values:
        return point.choices.get(key, "")
    if isinstance(values, list | tuple) and values and all(isinstance(one, str) for one in values):
        return " + ".join(values)  # As in the labels of settings.
    return str(values["name"] if isinstance(values, Mapping) and "name" in values else values)


def _checkpoints(plan: Plan, point: GridPoint, folder: RunFolder) -> Callable[[], Collection[object]]:
    """Returns a function that lists a run's checkpoints so far: stored weights, or those of a series that were
    measured."""
    if not point.is_series:
        return lambda: [name for name in names(folder.checkpoints) if name[:1].isdigit()]
    return lambda: plan.runs[point.run_id].reached(_measured(folder.metrics))


def _measured(metrics: Path) -> set[int]:
    """Returns the checkpoints measured so far; none if the file cannot be read."""
    try:
        rows = read_columns(metrics, ("step", "split")) if metrics.exists() else ()
        return {step for step, split in rows if split == "heldout"}
    except UserError:
        return set()


def _state(status: Status, there: Callable[[], Collection[object]], steps: Sequence[int]) -> str:
    """Describes a state.

    Args:
        there: lists the checkpoints that are done; called only if their number is shown.
    """
    text: str = "to do" if status.state == "todo" else status.state
    if status.diverged is not None:
        text = f"diverged at step {status.diverged}"
    if status.state == "done":
        text += f" {status.seconds:.0f} s"
    if status.state in ("running", "interrupted", "cancelled"):
        text += f" {len(there())}/{len(status.reached(steps))}"
    text += _missing_steps(len(status.missing_steps))
    if status.attempts > 1:
        text += f" (attempt {status.attempts})"
    return text
