"""sweep.json: the grid points that were requested under a sweep's name.

It holds one point's whole configuration, and a line for each point with its differences from that, by dotted key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from mi_sweeps.errors import UserError
from mi_sweeps.store import hashes
from mi_sweeps.store.checksums import seal_object
from mi_sweeps.store.files import OLD, clear_partial, read_json, write_bytes
from mi_sweeps.store.folders import RunFolder
from mi_sweeps.sweeps.points import GridPoint
from mi_sweeps.sweeps.values import differences, put, same_request

READ = ("train", "checkpoint", "patching", "tracking")
"""Sections of a configuration that are also read without validating it."""

ASIDE = ("output", "launcher", "tracking", "sweep", "name", "steps", "engine", "memory")
"""Keys of a configuration, and of `patching`, that change no results (`steps` only adds checkpoints to a patch job)."""

WRITTEN = (".", "workers", "submissions", "slurm")
"""Folders of a sweep that several processes may write to."""


@dataclass(frozen=True)
class Entry:
    """A grid point as sweep.json stores it."""

    run_id: str
    patch_id: str
    corruption: str
    overrides: dict[str, str]
    base: Mapping[str, Any]
    """A whole configuration, shared by all entries."""
    changes: Mapping[str, Any]
    """Values that differ from `base`, by dotted key."""

    @property
    def config(self) -> dict[str, Any]:
        """The whole configuration as plain values."""
        values = dict(self.base)
        for key, value in self.changes.items():
            values = put(values, key.split("."), value)
        return values

    def point(self, output: Path) -> GridPoint:
        """Rebuilds the point, with `output` as its folder of results: the folder may have been moved."""
        return GridPoint({**self.config, "output": str(output)}, self.overrides, self.run_id, self.patch_id)


def path(output: Path, name: str) -> Path:
    """Returns the path of a sweep's file."""
    return output / "sweeps" / name / "sweep.json"


def add(output: Path, name: str, points: Sequence[GridPoint], command: str) -> None:
    """Adds points to a sweep; points that it already has keep their place.

    Raises:
        UserError: the output folder cannot be written.
    """
    file = path(output, name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")):
            entries = {entry.patch_id: entry for entry in _read(file) or ()}
            base = next((entry.base for entry in entries.values() if entry.base), points[0].values)
            for patch_id in _replaced(entries, points):
                del entries[patch_id]
            for point in points:
                known = entries.get(point.patch_id)
                values = _with_steps(point.values, known.config) if known else point.values
                entries[point.patch_id] = Entry(
                    point.run_id,
                    point.patch_id,
                    point.prompts_label,
                    dict(point.choices),
                    base,
                    differences(base, values),
                )
            write_bytes(file, seal_object(_text(name, command, base, list(entries.values()))))
        hashes.keep(output)
        # By the file system's clock, which all machines share.
        old = file.stat().st_mtime - OLD
        for place in (output, output / "data", *(file.parent / name for name in WRITTEN)):
            clear_partial(place, old)
    except OSError as error:
        raise UserError(f"{output}: {error.strerror}; give a folder that can be written with output=DIR") from None


def _replaced(entries: Mapping[str, Entry], points: Sequence[GridPoint]) -> list[str]:
    """Returns the patch jobs that are replaced by new ones with the same configuration.

    The same configuration gets a new id when the model's files, the prompts or the user's own code have changed. The
    sweep then keeps only the new patch job; old results stay on disk, but are no longer part of the sweep.
    """
    asked = {point.patch_id for point in points}
    new: dict[str, list[dict[str, Any]]] = {}
    for point in points:
        if point.patch_id not in entries:
            new.setdefault(_kind(point.values), []).append(_results(point.values))
    if not new:
        return []
    others = ((patch_id, entry.config) for patch_id, entry in entries.items() if patch_id not in asked)
    return [
        patch_id
        for patch_id, config in others
        if any(same_request(_results(config), values) for values in new.get(_kind(config), ()))
    ]


def _kind(config: Mapping[str, Any]) -> str:
    """Returns a key of the sections in which most points differ, so that few pairs have to be compared."""
    patching = config.get("patching", {})
    prompts = patching.get("task"), patching.get("split", "heldout")  # Older ones have neither.
    return repr([*(config.get(section) for section in ("task", "optim", "schedule", "seed", "corruption")), *prompts])


def _results(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part of a configuration that results depend on."""
    kept = {key: value for key, value in config.items() if key not in ASIDE}
    return {**kept, "patching": {key: value for key, value in kept["patching"].items() if key not in ASIDE}}


def _with_steps(config: Mapping[str, Any], known: Mapping[str, Any]) -> Mapping[str, Any]:
    """Adds the checkpoints of an earlier request for the same patch job."""
    new, old = config["patching"]["steps"], known["patching"]["steps"]
    steps = None if new is None or old is None else sorted({*new, *old})
    return {**config, "patching": {**config["patching"], "steps": steps}}


def _text(name: str, command: str, base: Mapping[str, Any], entries: Sequence[Entry]) -> str:
    """Formats sweep.json with one line a point, so that thousands can be read, searched and compared."""
    head = json.dumps({"name": name, "command": command, "config": base}, indent=1, ensure_ascii=False)
    lines = ",\n".join(
        json.dumps(
            {
                "run_id": entry.run_id,
                "patch_id": entry.patch_id,
                "corruption": entry.corruption,
                "overrides": entry.overrides,
                "config": entry.changes if entry.base is base else differences(base, entry.config),
            },
            ensure_ascii=False,
        )
        for entry in entries
    )
    return f'{head.removesuffix("}").rstrip()},\n "points": [\n{lines}\n ]\n}}\n'


def load(output: Path, name: str) -> list[Entry]:
    """Loads the points of a sweep.

    Raises:
        UserError: there is no such sweep.
    """
    entries = _read(path(output, name))
    if entries is None:
        known = ", ".join(names(output)) or "none"
        raise UserError(f"sweep {name!r}: not in {output}; there are: {known} (output=DIR looks elsewhere)")
    return entries


def points_of(output: Path, run: RunFolder) -> list[GridPoint]:
    """Returns the patch jobs of a run: those in sweeps, then those made by hand. Unreadable sweeps are skipped."""
    found: dict[str, GridPoint] = {}
    for name in names(output):
        with suppress(UserError):
            known = (entry for entry in load(output, name) if entry.run_id == run.run_id)
            found = {**{entry.patch_id: entry.point(output) for entry in known}, **found}
    for patch_id in sorted(path.name for path in (run.path / "patches").glob("*") if path.name not in found):
        if values := (read_json(run.patch(patch_id).about) or {}).get("config"):
            found[patch_id] = GridPoint({**values, "output": str(output)}, {}, run.run_id, patch_id)
    return list(found.values())


def _read(file: Path) -> list[Entry] | None:
    values = read_json(file)
    if values is None:
        return None
    try:
        # Older files have no base, but a whole configuration in each point; they call points "cells".
        base = values.get("config", {})
        points = values.get("points") or values["cells"]
        if not (points and all(map(sound, points))):
            raise TypeError
        entries = [
            Entry(point["run_id"], point["patch_id"], point["corruption"], point["overrides"], base, point["config"])
            for point in points
        ]
        for number, entry in enumerate(entries):
            point = entry.point(file)  # Fails if a change has no place in the base.
            # Checks what is read without validation, for the first point and wherever another one differs.
            if not number or any(key.startswith(READ) for key in entry.changes):
                steps = [type(step) for step in point.patch_steps]
                if not (isinstance(point.values["tracking"], dict) and set(steps) <= {int}):
                    raise TypeError
        return entries
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(f"{file}: not a sweep of this version; delete it and run the sweep again") from None


def sound(point: Any) -> bool:
    """Whether a point in a sweep's file has valid ids, none of which leads out of its folder, and only text values."""
    if not isinstance(point, dict):
        return False
    ids = [point[key] for key in ("run_id", "patch_id") if key in point]
    overrides = point.get("overrides", {})
    texts = [point.get("corruption", ""), *overrides, *overrides.values()] if isinstance(overrides, dict) else [None]
    named = all(isinstance(id, str) and id not in ("", ".", "..") and not {"/", "\0"} & set(id) for id in ids)
    return named and all(isinstance(text, str) for text in texts)


def names(output: Path) -> list[str]:
    """Lists the sweeps in an output folder."""
    return sorted(file.parent.name for file in (output / "sweeps").glob("*/sweep.json"))
