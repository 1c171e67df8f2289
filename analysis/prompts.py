"""Values by prompt from the tables of one patch job, as arrays."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float

from .columns import ATTRIBUTION_KINDS
from .folder import Patch
from .parquet import read_table
from .summaries import APPROXIMATE


@dataclass(frozen=True)
class Site:
    """Values of one patch job at one site. NaN where a checkpoint or prompt has no such place."""

    steps: tuple[int, ...]
    places: tuple[tuple[int, int | None, str | None], ...]
    """Layer, head, position."""
    clean: Float[np.ndarray, "step prompt"]
    """Logit differences (logits), as are all that follow."""
    corrupted: Float[np.ndarray, "step prompt"]
    patched: Float[np.ndarray, "step place prompt"] | None
    """None if tables lack values by prompt."""
    gain: Float[np.ndarray, "step place"]
    """Mean over prompts of patched - corrupted."""
    gap: Float[np.ndarray, "step place"]
    """Mean over prompts of clean - corrupted."""
    n: Float[np.ndarray, "step place"]


def at_steps(site: Site, steps: Sequence[int]) -> Site:
    """Restrict a site to some of its steps."""
    kept = np.isin(site.steps, steps)
    patched = None if site.patched is None else site.patched[kept]
    return Site(
        tuple(np.array(site.steps)[kept].tolist()), site.places, site.clean[kept], site.corrupted[kept], patched,
        site.gain[kept], site.gap[kept], site.n[kept],
    )  # fmt: skip


COLUMNS = (
    *("kind", "site", "component", "layer", "head", "position", "prompt"),
    *("patched", "approximate", "clean", "corrupted", "n", "by_prompt"),
)

Tables = tuple[pa.Table, np.ndarray]
"""The concatenated tables of a patch job, and each row's step."""


def read(patch: Patch, damaged: list[str] | None = None, steps: Container[int] | None = None) -> Tables | None:
    """Read the tables of a patch job with values by prompt; None if there are none.

    Args:
        damaged: as for `frames.load`.
        steps: checkpoints to read; None: all.
    """
    wanted = [step for step in patch.steps() if steps is None or step in steps]
    found = {step: read_table(patch.table(step), "kind", COLUMNS, damaged) for step in wanted}
    tables = {step: table for step, table in found.items() if table is not None}
    if not tables:
        return None
    step = np.repeat(list(tables), [len(table) for table in tables.values()])
    return pa.concat_tables(tables.values(), promote_options="permissive"), step


def sites_by_prompt(tables: Tables | None) -> dict[str, Site]:
    """Patched values by site and prompt. Sites with estimates only are named as by `summaries.with_approximate`, and
    have no values by prompt."""
    if tables is None:
        return {}
    table, step = tables
    kinds = np.array(table["kind"].to_pylist(), dtype=object)
    where = np.flatnonzero(kinds == "patch")
    rows = table.take(pa.array(where))
    each = table.take(pa.array(np.flatnonzero(kinds == "prompt")))
    prompts = {name: each[name].to_numpy() for name in ("prompt", "clean", "corrupted") if name in each.column_names}
    prompts["step"] = step[kinds == "prompt"]
    numbers = {name: _numbers(rows, name) for name in ("patched", "approximate", "clean", "corrupted", "n")}
    is_estimate = np.isnan(numbers["patched"])
    names = np.array(
        [
            f"{site}{APPROXIMATE if estimate else ''}"
            for site, estimate in zip(rows["site"].to_pylist(), is_estimate, strict=True)
        ],
        dtype=object,
    )
    numbers["patched"] = np.where(is_estimate, numbers["approximate"], numbers["patched"])
    places = list(zip(*(rows[name].to_pylist() for name in ("layer", "head", "position")), strict=True))
    values = None
    if {"by_prompt", "prompt"} <= set(rows.column_names) and len(each):
        values = _matrix(rows["by_prompt"].combine_chunks())
    found = {}
    for site in dict.fromkeys(names):
        chosen = np.flatnonzero((names == site) & ~np.isnan(numbers["patched"]))
        if len(chosen):
            by_prompt = values if not is_estimate[chosen].any() else None
            of_site = {name: column[chosen] for name, column in numbers.items()}
            found[str(site)] = _site(
                [places[at] for at in chosen], step[where[chosen]], of_site, chosen, by_prompt, prompts
            )
    return found


def _numbers(rows: pa.Table, name: str) -> np.ndarray:
    """A column as floats, NaN where missing."""
    if name not in rows.column_names:
        return np.full(len(rows), np.nan)
    return rows[name].cast(pa.float64()).to_numpy()


@dataclass(frozen=True)
class AttributionValues:
    """One kind of attribution in one patch job, in logits; NaN where missing."""

    steps: tuple[int, ...]
    parts: tuple[tuple[str, int | None, int | None], ...]
    """Component, layer, head."""
    values: Float[np.ndarray, "step part prompt"]


def attribution_values(tables: Tables | None) -> dict[str, AttributionValues]:
    """Attribution by kind and prompt; kinds without values by prompt are left out."""
    if tables is None or "by_prompt" not in tables[0].column_names:
        return {}
    table, step_of_row = tables
    order, step_number = np.unique(step_of_row, return_inverse=True)
    kinds = np.array(table["kind"].to_pylist(), dtype=object)
    found: dict[str, AttributionValues] = {}
    for kind in ATTRIBUTION_KINDS:
        where = np.flatnonzero(kinds == kind)
        rows = table.take(pa.array(where))
        if not len(rows) or rows["by_prompt"].null_count:
            continue
        keys = list(zip(*(rows[name].to_pylist() for name in ("component", "layer", "head")), strict=True))
        number = {key: at for at, key in enumerate(dict.fromkeys(keys))}
        flat, starts = _matrix(rows["by_prompt"].combine_chunks())
        size = int(starts[1])
        if (np.diff(starts) != size).any():
            continue
        values = np.full((len(order), len(number), size), np.nan)
        values[step_number[where], [number[key] for key in keys]] = flat.reshape(-1, size)
        found[kind] = AttributionValues(tuple(order.tolist()), tuple(number), values)
    return found


def wins_by_prompt(tables: Tables | None) -> dict[int, Bool[np.ndarray, " prompt"]]:
    """Which held-out prompts of another task are won, by step; empty if unknown."""
    if tables is None or "by_prompt" not in tables[0].column_names:
        return {}
    table, step = tables
    where = np.flatnonzero(pc.equal(table["kind"], "win").to_numpy())
    lists = table["by_prompt"].take(pa.array(where)).to_pylist()
    return {int(step[at]): np.array(each) > 0 for at, each in zip(where, lists, strict=True)}


def _matrix(lists: pa.ListArray) -> tuple[np.ndarray, np.ndarray]:
    """Concatenate lists, with NaN for missing values, and return where each begins."""
    lengths = lists.value_lengths().fill_null(0).to_numpy()
    return pc.list_flatten(lists).to_numpy(zero_copy_only=False), np.cumsum([0, *lengths])


def _site(
    every: Sequence[tuple[int, int | None, str | None]],
    step_of_row: np.ndarray,
    numbers: Mapping[str, np.ndarray],
    row: np.ndarray,
    lists: tuple[np.ndarray, np.ndarray] | None,
    prompts: Mapping[str, np.ndarray],
) -> Site:
    """Collect one site.

    Args:
        every: the place of each row; `step_of_row` and `numbers` likewise.
        row: index of each row's list in `lists`, the values by prompt.
        prompts: clean and corrupted logit difference of each prompt at each step.
    """
    number = {place: at for at, place in enumerate(dict.fromkeys(every))}
    place = np.array([number[key] for key in every])
    steps, step = np.unique(step_of_row, return_inverse=True)
    means = np.full((3, len(steps), len(number)), np.nan)
    gain, gap = numbers["patched"] - numbers["corrupted"], numbers["clean"] - numbers["corrupted"]
    means[:, step, place] = gain, gap, numbers["n"]
    clean = corrupted = np.full((len(steps), 0), np.nan)
    patched = None
    there = np.isin(prompts["step"], steps)
    if there.any() and "prompt" in prompts:
        size = int(prompts["prompt"][there].max()) + 1
        clean, corrupted = np.full((2, len(steps), size), np.nan)
        where = np.searchsorted(steps, prompts["step"][there]), prompts["prompt"][there].astype(int)
        clean[where], corrupted[where] = prompts["clean"][there], prompts["corrupted"][there]
        if lists is not None and (lists[1][row + 1] - lists[1][row] == size).all():
            patched = np.full((len(steps), len(number), size), np.nan)
            patched[step, place] = lists[0][lists[1][row][:, None] + np.arange(size)]
    return Site(tuple(steps.tolist()), tuple(number), clean, corrupted, patched, *means)
