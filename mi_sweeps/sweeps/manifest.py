"""What was asked for under a sweep's name: the points, on disk, for whoever computes or looks at them later.

sweep.json has the whole configuration of one point, and of each point what is different: a line each, by dotted key.
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
from mi_sweeps.sweeps.values import asked_alike, differences, put

READ = ("train", "checkpoint", "patching", "tracking")
"""Sections of a configuration that are read by who does not validate it."""

ASIDE = ("output", "launcher", "tracking", "sweep", "name", "steps", "engine", "memory")
"""Keys of a configuration, and of `patching`, that change no number; more checkpoints are added to a patch job's."""

WRITTEN = (".", "workers", "submissions", "slurm")
"""Folders of a sweep in which files are written by whoever comes along."""


@dataclass(frozen=True)
class Entry:
    """A point as a sweep's file remembers it."""

    run_id: str
    patch_id: str
    corruption: str
    overrides: dict[str, str]
    base: Mapping[str, Any]
    """A whole configuration, shared by all entries."""
    changes: Mapping[str, Any]
    """What is different in this one, by dotted key."""

    @property
    def config(self) -> dict[str, Any]:
        """The whole configuration as plain values."""
        values = dict(self.base)
        for key, value in self.changes.items():
            values = put(values, key.split("."), value)
        return values

    def point(self, output: Path) -> GridPoint:
        """The point again; results are where the sweep is, wherever that was moved to."""
        return GridPoint({**self.config, "output": str(output)}, self.overrides, self.run_id, self.patch_id)


def path(output: Path, name: str) -> Path:
    """The file of a sweep."""
    return output / "sweeps" / name / "sweep.json"


def add(output: Path, name: str, points: Sequence[GridPoint], command: str) -> None:
    """Adds points to a sweep; those that it has keep their place.

    Raises:
        UserError: the folder of results cannot be written.
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
                    point.asked,
                    dict(point.choices),
                    base,
                    differences(base, values),
                )
            write_bytes(file, seal_object(_text(name, command, base, list(entries.values()))))
        hashes.keep(output)
        # By the clock of the file system, which all have in common: this machine's may be wrong.
        old = file.stat().st_mtime - OLD
        for place in (output, output / "data", *(file.parent / name for name in WRITTEN)):
            clear_partial(place, old)
    except OSError as error:
        raise UserError(f"{output}: {error.strerror}; give a folder that can be written with output=DIR") from None


def _replaced(entries: Mapping[str, Entry], points: Sequence[GridPoint]) -> list[str]:
    """The patch jobs that new ones of the same configuration take the place of.

    What a configuration stands for may have changed: the model's files, the prompts, the user's own code. The sweep has
    what is there now; what was computed before stays on disk, and is in no picture of the sweep.
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
        if any(asked_alike(_results(config), values) for values in new.get(_kind(config), ()))
    ]


def _kind(config: Mapping[str, Any]) -> str:
    """Sections in which most points of a sweep differ, to look at few pairs of them."""
    patching = config.get("patching", {})
    prompts = patching.get("task"), patching.get("split", "heldout")  # Older ones have neither.
    return repr([*(config.get(section) for section in ("task", "optim", "schedule", "seed", "corruption")), *prompts])


def _results(config: Mapping[str, Any]) -> dict[str, Any]:
    """What results hang on."""
    kept = {key: value for key, value in config.items() if key not in ASIDE}
    return {**kept, "patching": {key: value for key, value in kept["patching"].items() if key not in ASIDE}}


def _with_steps(config: Mapping[str, Any], known: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration with the checkpoints of an earlier request for the same patch job added."""
    new, old = config["patching"]["steps"], known["patching"]["steps"]
    steps = None if new is None or old is None else sorted({*new, *old})
    return {**config, "patching": {**config["patching"], "steps": steps}}


def _text(name: str, command: str, base: Mapping[str, Any], entries: Sequence[Entry]) -> str:
    """JSON with one line a point, so that thousands can be read, searched and compared."""
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
    """The points of a sweep.

    Raises:
        UserError: there is no such sweep.
    """
    entries = _read(path(output, name))
    if entries is None:
        known = ", ".join(names(output)) or "none"
        raise UserError(f"sweep {name!r}: not in {output}; there are: {known} (output=DIR looks elsewhere)")
    return entries


def points_of(output: Path, run: RunFolder) -> list[GridPoint]:
    """The patch jobs of a run: those that its sweeps planned, then those that were made by hand. A sweep that cannot be
    read has none."""
    found: dict[str, GridPoint] = {}
    for name in names(output):
        with suppress(UserError):
            known = (entry for entry in load(output, name) if entry.run_id == run.run_id)
            found = {**{entry.patch_id: entry.point(output) for entry in known}, **found}
    for folder in sorted(path for path in (run.path / "patches").glob("*") if path.name not in found):
        if values := (read_json(folder / "patch.json") or {}).get("config"):
            found[folder.name] = GridPoint({**values, "output": str(output)}, {}, run.run_id, folder.name)
    return list(found.values())


def _read(file: Path) -> list[Entry] | None:
    values = read_json(file)
    if values is None:
        return None
    try:
        # Files of older versions have no base, and all of its configuration in each point; they call points "cells".
        base = values.get("config", {})
        points = values.get("points") or values["cells"]
        if not (points and all(map(sound, points))):
            raise TypeError
        entries = [
            Entry(point["run_id"], point["patch_id"], point["corruption"], point["overrides"], base, point["config"])
            for point in points
        ]
        for number, entry in enumerate(entries):
            point = entry.point(file)  # Each change is one of something that is there.
            # What is read of a configuration without validating it, where it is not that of the first point.
            if not number or any(key.startswith(READ) for key in entry.changes):
                steps = [type(step) for step in point.patch_steps]
                if not (isinstance(point.values["tracking"], dict) and set(steps) <= {int}):
                    raise TypeError
        return entries
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(f"{file}: not a sweep of this version; delete it and run the sweep again") from None


def sound(point: Any) -> bool:
    """Whether a point of a sweep's file has names where there must be some, none of which leads out of its folder."""
    if not isinstance(point, dict):
        return False
    ids = [point[key] for key in ("run_id", "patch_id") if key in point]
    overrides = point.get("overrides", {})
    texts = [point.get("corruption", ""), *overrides, *overrides.values()] if isinstance(overrides, dict) else [None]
    named = all(isinstance(id, str) and id not in ("", ".", "..") and not {"/", "\0"} & set(id) for id in ids)
    return named and all(isinstance(text, str) for text in texts)


def names(output: Path) -> list[str]:
    """Every sweep that was ever run into a folder of results."""
    return sorted(file.parent.name for file in (output / "sweeps").glob("*/sweep.json"))
