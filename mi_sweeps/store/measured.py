"""Which tables a patch job makes of each checkpoint beside the one of patching."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MEASURED = {
    "looks": ("looks", "scores", "patterns"),
    "cross": ("cross",),
    "circuits": ("circuits",),
    "edges": ("edges",),
}
"""By the key of `patching` that asks for them."""


def tables(patching: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the tables that a configuration's `patching` asks for, in the order in which they are made."""
    return tuple(name for key, names in MEASURED.items() if patching.get(key) for name in names)
