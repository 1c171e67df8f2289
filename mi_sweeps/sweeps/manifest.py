"""What was asked for under a sweep's name: the cells, on disk, for whoever computes or looks at them later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from mi_sweeps.errors import UserError
from mi_sweeps.store.files import read_json, write_json
from mi_sweeps.sweeps.cells import Cell


@dataclass(frozen=True)
class Entry:
    """A cell as a sweep's file remembers it."""

    run_id: str
    patch_id: str
    corruption: str
    overrides: dict[str, str]
    config: dict[str, Any]

    def cell(self, output: Path) -> Cell:
        """The cell again; results are where the sweep is, wherever that was moved to."""
        return Cell({**self.config, "output": str(output)}, self.overrides, self.run_id, self.patch_id)


def path(output: Path, name: str) -> Path:
    """The file of a sweep."""
    return output / "sweeps" / name / "sweep.json"


def add(output: Path, name: str, cells: Sequence[Cell], command: str) -> None:
    """Adds cells to a sweep; those that it has keep their place.

    Raises:
        UserError: the folder of results cannot be written.
    """
    file = path(output, name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")):
            old = read_json(file) or {"cells": []}
            entries = {entry["patch_id"]: entry for entry in old["cells"]}
            for cell in cells:
                known = entries.get(cell.patch_id)
                entries[cell.patch_id] = {
                    "run_id": cell.run_id,
                    "patch_id": cell.patch_id,
                    "corruption": cell.config.corruption.name,
                    "overrides": dict(cell.choices),
                    "config": _with_steps(cell.config.dump(), known["config"]) if known else cell.config.dump(),
                }
            write_json(file, {"name": name, "command": command, "cells": list(entries.values())})
    except OSError as error:
        raise UserError(f"{output}: {error.strerror}; give a folder that can be written with output=DIR") from None


def _with_steps(config: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """The configuration with the checkpoints of an earlier request for the same patch job added."""
    new, old = config["patching"]["steps"], known["patching"]["steps"]
    steps = None if new is None or old is None else sorted({*new, *old})
    return {**config, "patching": {**config["patching"], "steps": steps}}


def load(output: Path, name: str) -> list[Entry]:
    """The cells of a sweep.

    Raises:
        UserError: there is no such sweep.
    """
    values = read_json(path(output, name))
    if values is None:
        known = ", ".join(names(output)) or "none"
        raise UserError(f"sweep {name!r}: not in {output}; there are: {known} (output=DIR looks elsewhere)")
    return [Entry(**entry) for entry in values["cells"]]


def names(output: Path) -> list[str]:
    """Every sweep that was ever run into a folder of results."""
    return sorted(file.parent.name for file in (output / "sweeps").glob("*/sweep.json"))
