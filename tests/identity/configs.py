"""Configurations that differ in some keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mi_sweeps.config import Config, parse


def changed(config: Config, values: dict[str, Any]) -> Config:
    """A configuration with other values, by key."""
    dump = config.dump()
    for key, value in values.items():
        *parents, last = key.split(".")
        section = dump
        for parent in parents:
            section = section[parent]
        section[last] = value
    return parse(dump)


def rows_task(path: Path, heldout_path: Path | None = None) -> dict[str, Any]:
    task = {"name": "prompts", "_target_": "mi_sweeps.tasks.user.task", "heldout": 0.2, "two_name": 0, "seed": 0}
    paths = {"path": str(path), "heldout_path": heldout_path and str(heldout_path)}
    return {"task": {**task, **paths, "split": "file" if heldout_path else "names"}}
