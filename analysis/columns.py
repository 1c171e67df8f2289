"""Names and pandas types of the columns of `runs`, `patches`, `metrics` and the tables of patch jobs.

Numbers that a run may lack are nullable (Int64) or NaN (float64).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import pandas as pd

ATTRIBUTION_KINDS = ("lens", "layer", "head")
"""Kinds of rows of a patch job's table. The others are `patch`, `path`, `measure` and `prompt`."""

RUNS = {
    **{"run_id": "string", "sweep": "string", "setting": "string", "model": "string", "task": "string"},
    **{"lr": "float64", "weight_decay": "float64", "schedule": "string", "seed": "Int64"},
    **{"steps": "Int64", "batch_size": "Int64", "status": "string", "outcome": "string", "missing_steps": "string"},
    **{"attempts": "Int64", "seconds": "float64"},
    **{"host": "string", "error": "string", "patch_jobs": "string"},
}
PATCHES = {
    **{"run_id": "string", "patch_id": "string", "task": "string", "corruption": "string", "patching": "string"},
    **{"prompts": "Int64"},
    **{"status": "string", "attempts": "Int64", "seconds": "float64", "error": "string"},
}
METRICS = {
    **{"run_id": "string", "step": "int64", "split": "string", "metric": "string"},
    **{"value": "float64", "n": "int64"},
}
EXAMINED = {"run_id": "string", "patch_id": "string", "corruption": "string", "step": "int64"}
ATTRIBUTION = EXAMINED | {
    **{"kind": "string", "component": "string", "layer": "Int64", "head": "Int64"},
    **{"logit_diff": "float64", "n": "int64"},
}
PATCHING = EXAMINED | {
    **{"site": "string", "layer": "Int64", "head": "Int64", "position": "string"},
    **{"patched": "float64", "approximate": "float64", "clean": "float64", "corrupted": "float64", "n": "int64"},
}
SOURCE = {"source_layer": "Int64", "source_head": "Int64"}
PATHS = EXAMINED | {
    **{"site": "string", **SOURCE, "layer": "Int64", "head": "Int64"},
    **{"patched": "float64", "clean": "float64", "corrupted": "float64", "n": "int64"},
}
MEASURES = EXAMINED | {
    **{"measure": "string", "component": "string", "layer": "Int64", "head": "Int64"},
    **{"value": "float64", "n": "int64"},
}
OF_PROMPT = {"prompt": "int64", "patched": "float64", "clean": "float64", "corrupted": "float64"}
BY_PROMPT = EXAMINED | {"site": "string", "layer": "Int64", "head": "Int64", "position": "string"} | OF_PROMPT
PATHS_BY_PROMPT = EXAMINED | {"site": "string", **SOURCE, "layer": "Int64", "head": "Int64"} | OF_PROMPT
ATTRIBUTION_BY_PROMPT = EXAMINED | {
    **{"kind": "string", "component": "string", "layer": "Int64", "head": "Int64"},
    **{"prompt": "int64", "logit_diff": "float64"},
}
TABLES = ("runs", "patches", "metrics", "attribution", "patching", "paths", "measures")
COLUMNS = {
    **{"runs": RUNS, "patches": PATCHES, "metrics": METRICS, "attribution": ATTRIBUTION, "patching": PATCHING},
    **{"paths": PATHS, "measures": MEASURES, "by_prompt": BY_PROMPT, "paths_by_prompt": PATHS_BY_PROMPT},
    **{"attribution_by_prompt": ATTRIBUTION_BY_PROMPT},
}
"""The columns of every table."""
OF_PATCHES = {"attribution": ATTRIBUTION_KINDS, "patching": ("patch",), "paths": ("path",), "measures": ("measure",)}
"""For each table of patch jobs, the kinds of its rows."""
OF_PROMPTS = {"by_prompt": ("patch",), "paths_by_prompt": ("path",), "attribution_by_prompt": ATTRIBUTION_KINDS}
"""The same for tables with one row per prompt."""


def typed(rows: pd.DataFrame | Iterable[dict[str, Any]], columns: dict[str, str]) -> pd.DataFrame:
    """Return a frame with exactly these columns and types; absent columns are filled with missing values."""
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows)
    if not len(frame):  # As most tables of most sweeps are.
        return _empty(tuple(columns.items())).copy()
    frame = frame.reindex(columns=list(columns)).reset_index(drop=True)
    made = {}
    for name, kind in columns.items():
        column = frame[name]
        if kind != "string" and not pd.api.types.is_numeric_dtype(column.dtype):  # overrides are text
            column = pd.to_numeric(column, errors="coerce")
        made[name] = column if str(column.dtype) == kind else column.astype(kind)
    # `astype` on the whole frame is slower than everything else done to a small table.
    return pd.DataFrame(made, index=frame.index, columns=frame.columns)


@cache
def _empty(columns: tuple[tuple[str, str], ...]) -> pd.DataFrame:
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in columns})
