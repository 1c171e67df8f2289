"""Reads the per-prompt effects of nodes and edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from .. import measured
from ..folder import Patch
from ..inference.families import PatchJob
from ..parquet import of_kinds, read_table

NODE = ("component", "layer", "head")
EDGE = ("source", "source_layer", "source_head", "input", "layer", "head")


@dataclass(frozen=True)
class Effects:
    """The effects of single nodes or edges in some runs at one checkpoint."""

    items: tuple[tuple[object, ...], ...]
    """The values of NODE or EDGE."""
    gain: Float[np.ndarray, "run item prompt"]
    """Logits; NaN where a run lacks a prompt."""
    gap: Float[np.ndarray, "run item prompt"]
    """What the effects are shares of, in logits."""


def of_nodes(patches: Sequence[Patch], step: int, damaged: list[str] | None = None) -> Effects | None:
    """The effects of ablating single nodes, as shares of the effect of ablating all; None if a run has none."""
    found = []
    for patch in patches:
        rows = _rows(patch, step, "circuits", damaged)
        if rows is None:
            return None
        whole = rows[rows["kind"] == "whole"].set_index("set")["by_prompt"]
        nodes = rows[(rows["kind"] == "node") & (rows["set"] == "without")]
        if not {"all", "none"} <= set(whole.index) or nodes.empty:
            return None
        values = whole["all"] - np.stack(nodes["by_prompt"].tolist())
        found.append((_keys(nodes, NODE), values, whole["all"] - whole["none"]))
    return _together(patches, found)


def of_edges(patches: Sequence[Patch], step: int, damaged: list[str] | None = None) -> Effects | None:
    """What each exactly patched edge recovers; None if a run has none."""
    found = []
    for patch in patches:
        rows = _rows(patch, step, "edges", damaged)
        table = read_table(patch.table(step), "kind", ("kind", "prompt", "clean", "corrupted"), damaged)
        if rows is None or table is None or "prompt" not in table.column_names:
            return None
        # Other rows are about sets of edges, or edges that were only estimated.
        rows = rows[rows["source"].notna() & rows["patched"].notna()]
        if rows.empty:
            return None
        prompts = of_kinds(table, ("prompt",)).to_pandas().sort_values("prompt")
        clean, corrupted = (prompts[name].to_numpy(dtype=float) for name in ("clean", "corrupted"))
        values = np.stack(rows["by_prompt"].tolist())
        if values.shape[1] != len(clean):
            return None
        found.append((_keys(rows, EDGE), values - corrupted, clean - corrupted))
    return _together(patches, found)


def _rows(patch: Patch, step: int, name: str, damaged: list[str] | None) -> pd.DataFrame | None:
    """Selects the rows that have per-prompt values."""
    frames = list(measured.each([(patch, step)], name, ("by_prompt",), damaged))
    if not frames or "by_prompt" not in frames[0]:
        return None
    rows = frames[0][[isinstance(one, np.ndarray) for one in frames[0]["by_prompt"]]]
    return rows if len(rows) else None


def _keys(rows: pd.DataFrame, names: Sequence[str]) -> list[tuple[object, ...]]:
    return [tuple(None if pd.isna(one) else one for one in row) for row in rows[list(names)].itertuples(index=False)]


def _together(
    patches: Sequence[Patch], found: Sequence[tuple[list[tuple[object, ...]], np.ndarray, np.ndarray]]
) -> Effects | None:
    """Aligns the runs' items and prompts."""
    if not found:
        return None
    others = [set(keys) for keys, _, _ in found[1:]]
    items = [key for key in found[0][0] if all(key in keys for keys in others)]
    prompts = [PatchJob(patch, "", {}, {}).prompts for patch in patches]
    if not items or any(values.shape[1] != len(own) for (_, values, _), own in zip(found, prompts, strict=True)):
        return None
    number = {key: at for at, key in enumerate(dict.fromkeys(key for own in prompts for key in own))}
    gain, gap = np.full((2, len(found), len(items), len(number)), np.nan)
    for run, ((keys, values, room), own) in enumerate(zip(found, prompts, strict=True)):
        columns = [number[key] for key in own]
        row = {key: at for at, key in enumerate(keys)}
        gain[run][:, columns] = values[[row[key] for key in items]]
        gap[run][:, columns] = room
    return Effects(tuple(items), gain, gap)
