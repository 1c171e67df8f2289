"""The grid points of a zoom: a finished run, trained again up to one of its checkpoints, with more checkpoints kept."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mi_sweeps import identity, locations
from mi_sweeps.config import Config, parse
from mi_sweeps.errors import UserError
from mi_sweeps.hints import hint
from mi_sweeps.steps import MOST
from mi_sweeps.store.files import read_json
from mi_sweeps.store.folders import RunFolder
from mi_sweeps.sweeps import manifest
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.sweeps.points import GridPoint

RANGE = ("from", "to", "every")
GROUPS = ("corruption", "launcher", "tracking")
"""Sections in which a zoom may differ from its run."""


def points(run: RunFolder, output: Path, words: Sequence[str]) -> list[GridPoint]:
    """Returns the points that zoom into a run: one for each of its patch jobs, or for each given corruption. If the run
    was trained in a stack, its bits depend on the others in it, so they are included.

    Args:
        run: its folder in `output`.
        words: from=STEP, to=STEP, every=STEPS (1), sweep.name, and overrides of corruption, launcher and tracking.

    Raises:
        UserError: a word is wrong, or the run cannot be trained again as it was.
    """
    steps, overrides = _steps(words)
    patched = _patched(run, output)
    if patched[0].is_series:
        raise UserError(
            f"zoom: run {run.run_id} is a series, and cannot be trained again; "
            "add more of its checkpoints with checkpoint.steps"
        )
    if (of := patched[0].config.checkpoint.zoom_of) and (run.path.parent / of).exists():
        # Zooming into a zoom gives nothing new, and the same zoom made in two ways would be two runs.
        raise UserError(f"zoom: run {run.run_id} is itself a zoom into run {of}; zoom into {of}")
    end = _end(run, patched[0].config, steps)
    stack = _stack(run, end)
    given = expand([*overrides, f"output={locations.quoted(output)}"])
    named = {word.lstrip("+").partition("=")[0].partition(".")[0] for word in overrides}
    corruptions = [point.values["corruption"] for point in given] if "corruption" in named else [None]
    sections = {
        "launcher": _launcher((given[0] if "launcher" in named else patched[0]).values, patched[0].values, len(stack)),
        "sweep": {"name": given[0].values["sweep"]["name"] if "sweep" in named else f"zoom-{run.run_id}", "grid": {}},
    }
    if "tracking" in named:
        sections["tracking"] = given[0].values["tracking"]
    contents = identity.HashedContents()
    found: dict[str, GridPoint] = {}
    for folder in stack:
        patched = _patched(folder, output)
        _check(folder, patched[0].config, end, contents)
        for old, corruption in itertools.product(patched, corruptions):
            values = _zoomed(old.values, folder.run_id, steps, end) | sections
            if old.values["patching"].get("task"):
                corruption = None  # The given one is for the run's own prompts.
            if corruption:
                values["corruption"] = corruption
            new = parse(values)
            run_id = identity.run_id(new, contents)
            choices = {**old.choices, "checkpoint.until": str(end)}
            choices |= {"corruption": corruption["name"]} if corruption else {}
            point = GridPoint(new.dump(), choices, run_id, identity.patch_id(new, run_id, contents))
            found.setdefault(point.patch_id, point)
    return list(found.values())


def _launcher(values: Mapping[str, Any], before: Mapping[str, Any], stack: int) -> dict[str, Any]:
    """Sets what the run's bits depend on: the number of threads, and the whole stack in one process."""
    launcher = dict(values["launcher"])
    if launcher["threads"] is None:
        launcher["threads"] = before["launcher"]["threads"]
    launcher["stack"] = stack
    if launcher["name"] == "slurm":
        launcher["pack"] = max(launcher["pack"], stack)
    elif launcher["name"] == "local" and stack > 1:
        launcher["workers"] = 1
    return launcher


def _stack(run: RunFolder, end: int) -> list[RunFolder]:
    """Returns the runs of this run's stack in order; only itself if it was trained alone.

    Raises:
        UserError: the stack changed during training.
    """
    about = read_json(run.about) or {}
    stacks = [stack for stack in about.get("stacks", []) if stack["from"] < end]
    if not stacks:
        return [run]
    if len(stacks) > 1 or stacks[0]["from"] > 0:
        raise UserError(
            f"zoom: run {run.run_id} was trained in a stack that changed at step {stacks[-1]['from']}, and its bits "
            "depend on the others in it; zoom into a run that was trained alone, or always in the same stack"
        )
    return [RunFolder(run.path.parent / id) for id in stacks[0]["runs"]]


def _steps(words: Sequence[str]) -> tuple[list[int], list[str]]:
    """Parses the wanted steps; returns them and the other words."""
    given = dict(word.partition("=")[::2] for word in words)
    others = [word for word in words if word.partition("=")[0] not in RANGE]
    for word in others:
        key = word.lstrip("+").partition("=")[0]
        if key.partition(".")[0] not in GROUPS and key != "sweep.name":
            raise UserError(
                f"{word}: zoom takes a run, from=STEP, to=STEP, every=STEPS, output=DIR, sweep.name=NAME and keys of "
                f"{', '.join(GROUPS)}; everything else stays as in the run"
            )
    for key in RANGE[:2]:
        if key not in given:
            raise UserError(f"zoom: no {key}=STEP; for example `mi-sweeps zoom RUN from=64 to=96 every=1`")
    first, last, every = (_number(key, given.get(key, "1")) for key in RANGE)
    asked = f"zoom: from={first} to={last} every={every}"
    if every < 1 or first > last:
        raise UserError(f"{asked}: no steps in this range; give from ≤ to and every ≥ 1")
    if (last - first) // every >= MOST:
        raise UserError(f"{asked}: more than {MOST} checkpoints; give a larger every")
    return [*range(first, last, every), last], others


def _number(key: str, text: str) -> int:
    if not text.isdecimal():
        raise UserError(f"{key}={text}: not 0 or a positive number of steps")
    return int(text)


def _patched(run: RunFolder, output: Path) -> list[GridPoint]:
    """Returns the patch jobs of a run.

    Raises:
        UserError: there is none.
    """
    if found := manifest.points_of(output, run):
        return found
    raise UserError(f"zoom: {run.path}: the run is in no sweep and has no patch job, so its configuration is unknown")


def _check(run: RunFolder, config: Config, end: int, contents: identity.HashedContents) -> None:
    """Checks that a run has the last checkpoint of the zoom, and that training would repeat it.

    Raises:
        UserError: it has not, or would not.
    """
    if not run.checkpoint(end).exists():
        raise UserError(
            f"zoom: {run.checkpoint(end)}: missing, and its run is in the same stack as the one to zoom into"
        )
    if identity.run_id(config, contents) != run.run_id:
        raise UserError(f"{run.path}: its model, prompts or your code have changed, so it cannot be trained again")


def _end(run: RunFolder, config: Config, steps: Sequence[int]) -> int:
    """Returns the first checkpoint at or after the last wanted step: there the zoom ends and is compared."""
    status, asked = run.status(), f"zoom: run {run.run_id}, from={steps[0]} to={steps[-1]}"
    if status.state != "done":
        raise UserError(f"{asked}: the run is not done ({status.state}); see `{hint('status', '', config.output)}`")
    if steps[-1] > config.last_step:
        raise UserError(f"{asked}: it ends at step {config.last_step}; give to={config.last_step} or less")
    reached = status.reached(config.checkpoint_steps)
    later = [step for step in reached if step >= steps[-1]]
    if not later:
        kept = f"to={reached[-1]} or less" if reached else "another run"
        raise UserError(
            f"{asked}: it diverged at step {status.diverged} and has no checkpoint at or after {steps[-1]}; give {kept}"
        )
    there = [step for step in later if run.checkpoint(step).exists()]
    if not there:
        raise UserError(
            f"{asked}: its weights at step {later[0]} and later were deleted, and only weights can prove that the zoom "
            "equals the run; give an earlier to"
        )
    if set(steps) <= set(config.checkpoint_steps):
        raise UserError(f"{asked}: it already has all these checkpoints; give a smaller every, or another range")
    return there[0]


def _zoomed(values: Mapping[str, Any], run_id: str, steps: Sequence[int], end: int) -> dict[str, Any]:
    """Adds checkpoints to a point's configuration; its patch job examines only the new range."""
    checkpoint = values["checkpoint"]
    more = sorted({*(checkpoint["steps"] or ()), *steps} - {0})
    return {
        **values,
        "checkpoint": {**checkpoint, "steps": [step for step in more if step <= end], "until": end, "zoom_of": run_id},
        "patching": {**values["patching"], "steps": list(steps)},
    }
