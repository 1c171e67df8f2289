"""Configurations as plain values: dictionaries, lists, numbers and text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def differences(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """What to `put` into `base` to have `values`, by dotted key; a part that has other keys is there as a whole."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        known = base.get(key)
        # Not ==, for which 1 and 1.0 and true are one value.
        if key in base and repr(value) == repr(known):
            continue
        if isinstance(value, dict) and isinstance(known, dict) and value.keys() == known.keys() and not _dotted(value):
            found |= {f"{key}.{below}": change for below, change in differences(known, value).items()}
        else:
            found[key] = value
    return found


def asked_alike(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether all that an older configuration has is the same in a newer one, which may have keys that came later."""
    return all(
        key in new
        and (
            asked_alike(value, new[key])
            if isinstance(value, dict) and isinstance(new[key], dict)
            else repr(value) == repr(new[key])
        )
        for key, value in old.items()
    )


def _dotted(values: Mapping[str, Any]) -> bool:
    return any("." in key for key in values)
