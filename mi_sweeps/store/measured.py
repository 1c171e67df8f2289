"""The tables that a patch job makes at each checkpoint, besides that of patching."""

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
