"""What single prompts have in the tables of one patch job, as arrays."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from .folder import Patch
from .frames import ATTRIBUTION_KINDS, EXAMINED, PATCHING, left, of_kinds, typed
from .summaries import with_approximate


@dataclass(frozen=True)
class Site:
    """What one patch job found at one site, as arrays. NaN where a checkpoint or a prompt has no such place."""

    steps: tuple[int, ...]
    places: tuple[tuple[int, int | None, str | None], ...]
    """Layer, head, position."""
    clean: Float[np.ndarray, "step prompt"]
    """Logit differences (logits), as all that follow."""
    corrupted: Float[np.ndarray, "step prompt"]
    patched: Float[np.ndarray, "step place prompt"] | None
    """None where a table does not tell prompts apart."""
    gain: Float[np.ndarray, "step place"]
    """Mean over prompts of patched - corrupted."""
    gap: Float[np.ndarray, "step place"]
    """Likewise of clean - corrupted."""
    n: Float[np.ndarray, "step place"]


def sites_by_prompt(
    patch: Patch, damaged: list[str] | None = None, steps: Container[int] | None = None
) -> dict[str, Site]:
    """All that a patch job has patched, by site, prompt by prompt; sites of which there are only estimates are named so
    (`summaries.with_approximate`), and have no values of prompts.

    `damaged`: as for `load`. `steps`: which checkpoints; None: all.
    """
    columns = {name: kind for name, kind in PATCHING.items() if name not in EXAMINED}
    names = {"kind", "by_prompt", "prompt", *columns}
    wanted = [step for step in patch.steps() if steps is None or step in steps]
    read = {step: left(patch.table(step), "kind", names, damaged) for step in wanted}
    tables = {step: table for step, table in read.items() if table is not None and len(of_kinds(table, ("patch",)))}
    if not tables:
        return {}
    step = np.repeat(list(tables), [len(table) for table in tables.values()])
    together = pa.concat_tables(tables.values(), promote_options="permissive").append_column("step", pa.array(step))
    rows, prompts = of_kinds(together, ("patch",)), of_kinds(together, ("prompt",))
    columns["step"] = "int64"
    frame = typed(rows.select([name for name in columns if name in rows.column_names]).to_pandas(), columns)
    values = None
    if {"by_prompt", "prompt"} <= set(rows.column_names) and len(prompts):
        own = {name: prompts[name].to_numpy() for name in ("step", "prompt", "clean", "corrupted")}
        values = _matrix(rows["by_prompt"].combine_chunks()), own
    exact = frame["patched"].notna().to_numpy()
    frame = with_approximate(frame.assign(row=np.arange(len(frame))))
    found = {}
    for site, of_site in frame.groupby("site", sort=False):
        told = values if values is not None and exact[of_site["row"]].all() else None
        found[str(site)] = _site(of_site, told)
    return found


@dataclass(frozen=True)
class Written:
    """Logit differences (logits) of one kind of attribution in one patch job; NaN where a checkpoint lacks one."""

    steps: tuple[int, ...]
    parts: tuple[tuple[str, int | None, int | None], ...]
    """Component, layer, head."""
    values: Float[np.ndarray, "step part prompt"]


def written_by_prompt(
    patch: Patch, damaged: list[str] | None = None, steps: Container[int] | None = None
) -> dict[str, Written]:
    """The attribution of a patch job by kind, prompt by prompt; without kinds whose tables do not tell these apart.

    `damaged`, `steps`: as for `sites_by_prompt`.
    """
    names = ("kind", "component", "layer", "head", "by_prompt")
    wanted = [step for step in patch.steps() if steps is None or step in steps]
    read = {step: left(patch.table(step), "kind", names, damaged) for step in wanted}
    found: dict[str, Written] = {}
    for kind in ATTRIBUTION_KINDS:
        tables = {step: of_kinds(table, (kind,)) for step, table in read.items() if table is not None}
        tables = {step: table for step, table in tables.items() if len(table) and "by_prompt" in table.column_names}
        if not tables or any(table["by_prompt"].null_count for table in tables.values()):
            continue
        keys = {step: _keys(table.select(names[1:4]).to_pandas()) for step, table in tables.items()}
        parts = tuple(dict.fromkeys(key for of_step in keys.values() for key in of_step))
        number = {key: at for at, key in enumerate(parts)}
        lists = {step: _matrix(table["by_prompt"].combine_chunks()) for step, table in tables.items()}
        size = max(int(np.diff(starts).max()) for _, starts in lists.values())
        values = np.full((len(tables), len(parts), size), np.nan)
        for at, (step, (flat, starts)) in enumerate(lists.items()):
            if (np.diff(starts) == size).all():
                values[at, [number[key] for key in keys[step]]] = flat.reshape(-1, size)
        found[kind] = Written(tuple(tables), parts, values)
    return found


def _keys(rows: pd.DataFrame) -> list[tuple[Any, ...]]:
    """The rows as tuples, with whole numbers, and None where one is missing."""
    told = rows.astype(object).where(rows.notna(), None)
    columns = [[int(v) if isinstance(v, float) else v for v in told[name]] for name in told]
    return list(zip(*columns, strict=True))


def _matrix(lists: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
    """The values of all lists one behind the other, NaN where one is missing, and where each list begins."""
    lengths = lists.value_lengths().fill_null(0).to_numpy()
    return pc.list_flatten(lists).to_numpy(zero_copy_only=False), np.cumsum([0, *lengths])


def _site(rows: pd.DataFrame, told: tuple[tuple[np.ndarray, np.ndarray], dict[str, np.ndarray]] | None) -> Site:
    """One site of rows of PATCHING; `told`: the values of prompts, with each prompt's clean and corrupted."""
    keys = ["layer", "head", "position"]
    place = rows.groupby(keys, sort=False, dropna=False).ngroup().to_numpy()
    places = tuple(_keys(rows[keys].iloc[np.unique(place, return_index=True)[1]]))
    steps, step = np.unique(rows["step"], return_inverse=True)
    means = np.full((3, len(steps), len(places)), np.nan)
    means[:, step, place] = rows["patched"] - rows["corrupted"], rows["clean"] - rows["corrupted"], rows["n"]
    clean = corrupted = np.full((len(steps), 0), np.nan)
    patched = None
    if told is not None:
        (values, starts), prompts = told
        begin = starts[rows["row"]]
        size = int((starts[rows["row"].to_numpy() + 1] - begin).max(initial=0))
        if size and (starts[rows["row"].to_numpy() + 1] - begin == size).all():
            patched = np.full((len(steps), len(places), size), np.nan)
            patched[step, place] = values[begin[:, None] + np.arange(size)]
            clean, corrupted = np.full((2, len(steps), size), np.nan)
            there = np.isin(prompts["step"], steps) & (prompts["prompt"] < size)
            where = np.searchsorted(steps, prompts["step"][there]), prompts["prompt"][there].astype(int)
            clean[where], corrupted[where] = prompts["clean"][there], prompts["corrupted"][there]
    return Site(tuple(steps.tolist()), places, clean, corrupted, patched, *means)
