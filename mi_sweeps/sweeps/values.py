"""Functions on configurations as plain values: dictionaries, lists, numbers and text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def put(values: Any, path: Sequence[str], value: Any) -> Any:
    """Copies nested dictionaries (or lists, by index) with another value at a path; everything else is shared."""
    if not path:
        return value
    first, *rest = path
    if isinstance(values, list):
        items = list(values)
        items[int(first)] = put(items[int(first)], rest, value)
        return items
    return {**values, first: put(values.get(first, {}), rest, value)}


def differences(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what to `put` into `base` to get `values`, by dotted key. A part with other keys is included whole."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        known = base.get(key)
        # Compared as text: to ==, 1, 1.0 and true are equal.
        if key in base and repr(value) == repr(known):
            continue
        if isinstance(value, dict) and isinstance(known, dict) and value.keys() == known.keys() and not _dotted(value):
            found |= {f"{key}.{below}": change for below, change in differences(known, value).items()}
        else:
            found[key] = value
    return found


def same_request(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether a newer configuration agrees with an older one in all of the older one's keys."""
    return all(
        key in new
        and (
            same_request(value, new[key])
            if isinstance(value, dict) and isinstance(new[key], dict)
            else repr(value) == repr(new[key])
        )
        for key, value in old.items()
    )


def _dotted(values: Mapping[str, Any]) -> bool:
    return any("." in key for key in values)
