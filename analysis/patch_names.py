"""Names for the settings of patch jobs: jobs of a setting of runs that share one differ in nothing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..store.hashes import ID_LENGTH, digest
from . import configs
from .folder import Patch

COVERED = ("task", "also", "split")
"""Keys of `patching` that the name of the corruption covers."""


def names(patches: Sequence[Patch], settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the names by patch job's id: of the choice of `patching`, and of the values that differ.

    Args:
        patches: those that have begun.
        settings: the setting of each run, by id.
    """
    every = [_patching(patch) for patch in patches]
    own = [{key: value for key, value in one.items() if key not in COVERED} for one in every]
    others = _other_tasks(patches)
    found = {}
    for patch, setting, name in zip(patches, own, configs.names([{"patching": one} for one in own]), strict=True):
        always = f"patching {setting.get('name')}"
        full = name if name.startswith("patching ") else ", ".join(filter(None, (always, name)))
        full = ", ".join(filter(None, (full, others.get(patch.patch_id))))
        found[patch.patch_id] = full.removeprefix("patching ")
    return _apart(patches, settings, found)


def _apart(patches: Sequence[Patch], settings: Mapping[str, Any], found: dict[str, str]) -> dict[str, str]:
    """Add its id to each patch job of a setting where a run has two of one name, such as one of an earlier version: it
    is unknown which jobs of other runs go with which."""
    alike: dict[tuple[Any, ...], list[Patch]] = {}
    for patch in patches:
        alike.setdefault((settings.get(patch.run_id), found[patch.patch_id], patch.corruption), []).append(patch)
    for same in alike.values():
        if max(Counter(patch.run_id for patch in same).values()) > 1:
            for patch in same:
                found[patch.patch_id] += f", contents not recorded, patch job {patch.patch_id}"
    return found


def _other_tasks(patches: Sequence[Patch]) -> dict[str, str]:
    """For patch jobs on another task, by id: what distinguishes that task from others of its name, in its settings or
    in its files and code."""
    asked: dict[str, list[Patch]] = {}
    for patch in patches:
        if task := _patching(patch).get("task"):
            asked.setdefault(str(task.get("name")), []).append(patch)
    labels: dict[str, str] = {}
    for same in asked.values():
        contents = _contents(same)
        tasks = [{"task": _patching(patch)["task"], "contents": contents.get(patch.patch_id, {})} for patch in same]
        labels |= dict(zip((patch.patch_id for patch in same), configs.names(tasks), strict=True))
    return labels


def _contents(patches: Sequence[Patch]) -> dict[str, dict[str, str]]:
    """What patch.json records of the other task's files and code, by id, where it differs between jobs of one
    configuration; where an earlier version recorded nothing, their prompts."""
    alike: dict[str, list[Patch]] = {}
    for patch in patches:
        kept = {key: value for key, value in _patching(patch).items() if f"patching.{key}" not in configs.APART}
        alike.setdefault(json.dumps([kept, patch.corruption], sort_keys=True), []).append(patch)
    found: dict[str, dict[str, str]] = {}
    for same in alike.values():
        recorded = {patch.patch_id: patch.about.get("contents") for patch in same}
        if None in recorded.values():
            prompts = {patch.patch_id: digest(patch.about.get("prompts"))[:ID_LENGTH] for patch in same}
            recorded = {patch_id: {"prompts_content": content} for patch_id, content in prompts.items()}
        if len({json.dumps(one, sort_keys=True) for one in recorded.values()}) > 1:
            found |= {patch_id: dict(one or {}) for patch_id, one in recorded.items()}
    return found


def _patching(patch: Patch) -> dict[str, Any]:
    return (patch.about.get("config") or {}).get("patching") or {}
