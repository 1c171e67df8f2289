"""Example prompts: the tokens at a heatmap's positions, which are otherwise labelled by role only."""

from __future__ import annotations

import pandas as pd

from .folder import Json, Patch
from .frames import Frames
from .parquet import read_table

Tokens = dict[str, tuple[str, str]]
"""Clean and corrupted token by role."""


def of_frames(frames: Frames, damaged: list[str] | None = None) -> dict[str, Tokens]:
    """The first prompt's tokens by patch job, if known. Jobs with the same prompts share them.

    Args:
        damaged: as for `frames.load`.
    """
    rows = frames.patching
    there = set(pd.unique(rows.loc[rows["position"].notna(), "patch_id"]))
    known: dict[str, Tokens] = {}
    found = {}
    for patch in frames.output.patches if frames.output else ():
        if patch.patch_id in there:
            key = repr(patch.about.get("prompts", [])[:1])
            if key not in known:
                known[key] = of_patch(patch, damaged)
            if known[key]:
                found[patch.patch_id] = known[key]
    return found


def of_patch(patch: Patch, damaged: list[str] | None = None) -> Tokens:
    """The tokens of a patch job's first prompt by role; empty if its files lack them.

    The prompt has those roles for which the tables have a value of it.
    """
    about: Json = next(iter(patch.about.get("prompts", ())), {})
    clean, corrupted = about.get("tokens"), about.get("corrupted_tokens")
    if not isinstance(clean, list) or not isinstance(corrupted, list) or len(clean) != len(corrupted):
        return {}
    columns = ("kind", "site", "layer", "position", "n", "by_prompt")
    table = read_table(patch.table(patch.steps()[0]), "kind", columns, damaged)
    if table is None or "position" not in table.column_names:
        return {}
    rows = table.select([name for name in columns if name in table.column_names]).to_pandas()
    rows = rows[(rows["kind"] == "patch") & rows["position"].notna()]
    rows = (
        rows[(rows["site"] == rows["site"].iloc[0]) & (rows["layer"] == rows["layer"].iloc[0])] if len(rows) else rows
    )
    if "by_prompt" in rows and rows["by_prompt"].notna().all():
        rows = rows[[pd.notna(list(values)[0]) for values in rows["by_prompt"]]]
    elif rows["n"].nunique() > 1:
        return {}
    if len(rows) != len(clean):
        return {}
    pairs = zip(map(str, clean), map(str, corrupted), strict=True)
    return dict(zip(map(str, rows["position"]), pairs, strict=True))


def payload(frames: Frames, damaged: list[str] | None = None) -> Json:
    """For the page: the distinct `tokens`, and for each patch job the index of its own."""
    by_patch = of_frames(frames, damaged)
    tokens = list({id(one): one for one in by_patch.values()}.values())
    numbers = {id(one): number for number, one in enumerate(tokens)}
    return {"tokens": tokens, "of": {patch_id: numbers[id(one)] for patch_id, one in by_patch.items()}}
