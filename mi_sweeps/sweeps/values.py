"""Configurations as plain values: dictionaries, lists, numbers and text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def put(values: Any, path: Sequence[str], value: Any) -> Any:
    """A copy of dictionaries (or lists, by number) with another value at a path; what is beside the path is shared."""
    if not path:
        return value
    first, *rest = path
    if isinstance(values, list):
        items = list(values)
        items[int(first)] = put(items[int(first)], rest, value)
        return items
    return {**values, first: put(values.get(first, {}), rest, value)}
