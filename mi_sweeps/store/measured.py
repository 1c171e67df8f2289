"""Names of what a patch job measures: its prompts, and its tables at each checkpoint besides that of patching."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MEASURED = {
    "looks": ("looks", "scores", "patterns"),
    "cross": ("cross",),
    "circuits": ("circuits",),
    "edges": ("edges",),
}
"""Names of tables by the key of `patching` that requests them."""


def tables(patching: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of the tables that a configuration's `patching` requests, in the order they are made."""
    return tuple(name for key, names in MEASURED.items() if patching.get(key) for name in names)


def prompts_label(corruption: str, task: str | None, split: str) -> str:
    """Names a patch job's prompts in tables and pictures, so that no two kinds are mixed.

    The label is the corruption, preceded by the task if that is not the run's own and by `train` if these are training
    prompts: "first", "ioi2-first", "train-trio".
    """
    return "-".join(filter(None, (task, split if split != "heldout" else "", corruption)))
