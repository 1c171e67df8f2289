"""The tables of an output folder as pandas frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ..series.logged import SPLIT as TRAINER
from ..training.outcome import RATES, outcome
from . import configs, folder, patch_names
from .columns import (
    ATTRIBUTION_BY_PROMPT,
    BY_PROMPT,
    COLUMNS,
    EXAMINED,
    METRICS,
    OF_PATCHES,
    OF_PROMPTS,
    PATCHES,
    PATHS_BY_PROMPT,
    RUNS,
    typed,
)
from .parquet import of_kinds, read_table, stack

Examined = tuple[folder.Patch, int]
"""A patch job and the step of one of its checkpoints."""


@dataclass(frozen=True)
class Frames:
    """Tidy tables, one value per row, joined by `run_id` (and `patch_id`). Logit differences are in logits."""

    runs: pd.DataFrame
    """One row per run, including those that failed or never started. Runs of a `setting` differ only in their seed;
    `patch_jobs` counts the finished ones ("1/2"); `seconds` is wall-clock; `outcome` is set for a finished run that
    ended worse than it began; `missing_steps` are the missing steps of a series ("8, 64"). Series lack the columns of
    training."""
    patches: pd.DataFrame
    """One row per patch job. `task` is the task of its prompts. If that is not the run's, or these are training
    prompts, `corruption` says so here and in all other tables ("ioi2-first"), so that no table mixes them. `patching`
    names its settings, `prompts` counts its prompts."""
    metrics: pd.DataFrame
    """Metrics of checkpoints: `value` of `metric` on `split` after `step` steps, over `n` prompts."""
    attribution: pd.DataFrame
    """Logit differences from the residual stream (`lens`), each layer's components (`layer`) and each `head`."""
    patching: pd.DataFrame
    """Logit difference `patched` at one site, with those of the `clean` and `corrupted` prompts; `approximate` is
    an estimate of `patched` from a gradient. Either may be missing."""
    paths: pd.DataFrame
    """Logit difference `patched` along one direct path: from a source head to the queries, keys or values (`site`
    q, k or v) of one later head, or to the logits (`site` logits), which have no layer and head. Under grouped-query
    attention the heads of k and v are key/value heads."""
    measures: pd.DataFrame
    """`value` of `measure` on clean prompts at one component, over `n` tokens."""
    output: folder.OutputFolder | None = field(default=None, repr=False)
    """The folder, for tables that are read on demand, such as values by prompt."""
    every: int = 1
    """One in `every` examined checkpoints was read, and the last."""
    unread: int = 0
    """Tables of patch jobs left unread because there were too many."""
    kept: dict[tuple[str, ...], Any] = field(default_factory=dict, repr=False)
    """Cache of `evidence`: values by prompt for the next picture of the same patch jobs."""


def load(
    output: Path, sweeps: str | Iterable[str] | None = None, most: int | None = None, damaged: list[str] | None = None
) -> Frames:
    """Load the tables of the folder `output`, limited to the named `sweeps` (one name or several) if any are given.

    Args:
        most: tables of patch jobs (one per checkpoint) to read at most; 0 for runs, patch jobs and metrics only.
        damaged: takes the names of unreadable files, which are then left out.

    Raises:
        UserError: the folder or a sweep does not exist, or a file cannot be read and `damaged` is None.
    """
    return tabulate(folder.read(output, sweeps, damaged), most=most, damaged=damaged)


def sound(runs: pd.DataFrame) -> pd.DataFrame:
    """Select the rows of runs that count in a mean: those that did not diverge, or all if all did.

    In a mean, a diverged run would pass for a worse seed until it stops, and for a better one after.
    """
    diverged = runs["status"] == "diverged"
    return runs if diverged.all() else runs[~diverged]


def sound_runs(runs: pd.DataFrame) -> set[str]:
    """Ids of the runs that count in a mean over their setting."""
    return {run_id for _, own in runs.groupby("setting", dropna=False) for run_id in sound(own)["run_id"]}


@folder.collector_paused()
def tabulate(
    output: folder.OutputFolder, paths: bool = True, most: int | None = None, damaged: list[str] | None = None
) -> Frames:
    """Make the tables of an output folder. Without `paths`, which may be large, that table stays empty.

    Args:
        damaged: as for `load`.
    """
    found = examined_in(output)
    examined, every = _some(found, most)
    trained = [run for run in output.runs if not run.is_damaged and (run.path / "metrics.parquet").exists()]
    read = {run.run_id: read_table(run.path / "metrics.parquet", "metric", None, damaged) for run in trained}
    metrics = {run_id: table for run_id, table in read.items() if table is not None}
    measured = typed(stack(list(metrics.values()), [(run_id,) for run_id in metrics], ("run_id",)), METRICS)
    measured = _without_gaps(measured, output)
    runs = _runs(output.runs, outcomes(measured))
    settings = {run["run_id"]: run["setting"] for run in runs}
    return Frames(
        runs=typed(runs, RUNS),
        patches=typed(_patches(list(output.patches), settings), PATCHES),
        metrics=measured,
        **tables_of(examined, damaged, paths),
        output=output,
        every=every,
        unread=len(found) - len(examined),
    )


def _without_gaps(metrics: pd.DataFrame, output: folder.OutputFolder) -> pd.DataFrame:
    """Drop metrics measured at steps that later turned out to be missing."""
    missing = {(run.run_id, step) for run in output.runs for step in run.missing_steps}
    if not missing:
        return metrics
    keys = pd.MultiIndex.from_frame(metrics[["run_id", "step"]])
    # Losses logged by a series' trainer belong to no checkpoint.
    return metrics[~keys.isin(missing) | (metrics["split"] == TRAINER)].reset_index(drop=True)


def examined_in(output: folder.OutputFolder) -> list[Examined]:
    """List every examined checkpoint of every patch job."""
    sound = [run for run in output.runs if not run.is_damaged]
    return [(patch, step) for run in sound for patch in run.patches if not patch.is_damaged for step in patch.steps()]


def tables_of(examined: Sequence[Examined], damaged: list[str] | None, paths: bool = True) -> dict[str, pd.DataFrame]:
    """Read the tables of OF_PATCHES. Without `paths` that table stays empty."""
    kinds = {**OF_PATCHES, "paths": ("path",) if paths else ()}
    # Not all columns: by_prompt is many times larger than all others together.
    names = {"kind"}.union(*(COLUMNS[name] for name in OF_PATCHES))
    parts: dict[str, list[pa.Table]] = {name: [] for name in OF_PATCHES}
    keys = []
    for patch, step in examined:
        table = read_table(patch.table(step), "kind", names, damaged)
        if table is None:
            continue
        keys.append((patch.run_id, patch.patch_id, patch.corruption, step))
        has = set(table.column_names)
        for name, part in parts.items():
            part.append(of_kinds(table, kinds[name]).select([column for column in COLUMNS[name] if column in has]))
    return {name: typed(stack(part, keys, tuple(EXAMINED)), COLUMNS[name]) for name, part in parts.items()}


def _some(examined: list[Examined], most: int | None) -> tuple[list[Examined], int]:
    """Select at most `most` checkpoints: one step in `every` and the last, of all patch jobs if possible."""
    if most is None or len(examined) <= most:
        return examined, 1
    counts = Counter(step for _, step in examined)
    steps = sorted(counts)
    for every in range(2, len(steps) + 2):
        # beyond the number of steps, only the last is kept
        kept = {*(steps[::every] if every <= len(steps) else ()), steps[-1]}
        if sum(counts[step] for step in kept) <= most:
            break
    return [of_step for of_step in examined if of_step[1] in kept][:most], min(every, len(steps))


def by_prompt(frames: Frames, sites: str | Iterable[str] | None = None) -> pd.DataFrame:
    """The patched logit difference of every prompt at the checkpoints in `frames.patching`.

    One row per place and prompt, with the prompt's own clean and corrupted logit differences; `prompt` is its index in
    patch.json. Prompts without a position have no row there. Name `sites` if all of a large sweep would not fit in
    memory. Empty for tables without single prompts.
    """
    chosen = None if sites is None else ("site", folder.several(sites))
    return _together(rows_of_prompts(_held(frames, frames.patching), "by_prompt", None, chosen), BY_PROMPT)


def paths_by_prompt(frames: Frames, sites: str | Iterable[str] | None = None) -> pd.DataFrame:
    """As `by_prompt`, for the direct paths in `frames.paths`."""
    chosen = None if sites is None else ("site", folder.several(sites))
    return _together(rows_of_prompts(_held(frames, frames.paths), "paths_by_prompt", None, chosen), PATHS_BY_PROMPT)


def attribution_by_prompt(frames: Frames, kinds: str | Iterable[str] | None = None) -> pd.DataFrame:
    """As `by_prompt`, for the logit differences of clean prompts in `frames.attribution`.

    Only rows of the named `kinds` (`lens`, `layer`, `head`), if any are given.
    """
    chosen = None if kinds is None else ("kind", folder.several(kinds))
    of_prompts = rows_of_prompts(_held(frames, frames.attribution), "attribution_by_prompt", None, chosen)
    return _together(of_prompts, ATTRIBUTION_BY_PROMPT)


def outcomes(metrics: pd.DataFrame) -> dict[str, str]:
    """The outcome of each run (`mi_sweeps.training.outcome`) from its first and last checkpoint."""
    rates = metrics[(metrics["split"] == "heldout") & metrics["metric"].isin(RATES)]
    rates = rates.drop_duplicates(["run_id", "step", "metric"])
    wide = rates.pivot(index=["run_id", "step"], columns="metric", values="value").sort_index().groupby(level="run_id")
    first, last = wide.head(1).droplevel("step"), wide.tail(1).droplevel("step")
    return {
        str(run_id): outcome(first.loc[run_id].dropna().to_dict(), last.loc[run_id].dropna().to_dict())
        for run_id in first.index
    }


def _runs(runs: Sequence[folder.RunRecord], ends: Mapping[str, str]) -> list[dict[str, Any]]:
    started = [run for run in runs if run.config]
    names = dict(
        zip(
            (run.run_id for run in started),
            configs.names([configs.of_run(run.config, run.contents) for run in started]),
            strict=True,
        )
    )
    rows = []
    for run in runs:
        config = run.config or _nested(run.overrides)
        done = sum(patch.status["state"] == "done" for patch in run.patches)
        rows.append(
            {
                "run_id": run.run_id,
                "sweep": ", ".join(run.sweeps),
                "setting": names[run.run_id] or "all" if run.config else None,
                "model": _at(config, "model", "name"),
                "task": _at(config, "task", "name"),
                "lr": _at(config, "optim", "lr"),
                "weight_decay": _at(config, "optim", "weight_decay"),
                "schedule": _at(config, "schedule", "name"),
                "seed": _at(config, "seed"),
                "steps": _at(config, "train", "steps"),
                "batch_size": _at(config, "train", "batch_size"),
                "patch_jobs": f"{done}/{len(run.patches)}",
                **_progress(run.status),
                "outcome": (run.status["state"] == "done" and ends.get(run.run_id)) or None,
                "missing_steps": ", ".join(map(str, sorted(run.missing_steps))) or None,
                "host": run.status.get("host"),
            }
        )
    return rows


def _patches(patches: Sequence[folder.Patch], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    names = patch_names.names([patch for patch in patches if patch.about], settings)
    return [
        {
            "run_id": patch.run_id,
            "patch_id": patch.patch_id,
            "task": _at(patch.about, "config", "patching", "task", "name")
            or _at(patch.about, "config", "task", "name"),
            "corruption": patch.corruption,
            "patching": names.get(patch.patch_id),
            "prompts": len(patch.about["prompts"]) if patch.about.get("prompts") else None,
            **_progress(patch.status),
        }
        for patch in patches
    ]


def _progress(status: folder.Json) -> dict[str, Any]:
    state = status["state"] if status.get("diverged") is None else "diverged"
    return {"status": state, **{key: status.get(key) for key in ("attempts", "seconds", "error")}}


def _at(config: Any, *path: str) -> Any:
    for key in path:
        config = config.get(key) if isinstance(config, dict) else None
    return config


def _nested(overrides: folder.Json) -> folder.Json:
    """Turn overrides such as {"optim.lr": "1e-4", "model": "mini"} into a nested configuration."""
    config: folder.Json = {}
    for key, value in overrides.items():
        group, _, name = key.partition(".")
        if name:
            config.setdefault(group, {})[name] = value
        elif key == "seed":
            config[key] = value
        else:  # the choice of a group is its name
            config.setdefault(group, {})["name"] = value
    return config


def _held(frames: Frames, table: pd.DataFrame) -> Iterator[Examined]:
    """The examined checkpoints that a table has rows of."""
    held = set(table[["patch_id", "step"]].drop_duplicates().itertuples(index=False, name=None))
    for patch in frames.output.patches if frames.output else ():
        yield from ((patch, step) for step in patch.steps() if (patch.patch_id, step) in held)


def rows_of_prompts(
    examined: Iterable[Examined], name: str, damaged: list[str] | None, chosen: tuple[str, Sequence[str]] | None = None
) -> Iterator[pd.DataFrame]:
    """Yield a table of OF_PROMPTS, one frame per checkpoint.

    Args:
        chosen: a column and the values to keep.
    """
    columns = COLUMNS[name]
    for patch, step in examined:
        table = read_table(patch.table(step), "kind", {"kind", "by_prompt", *columns}, damaged)
        if table is None or not {"by_prompt", "prompt"} <= set(table.column_names):
            continue
        rows = of_kinds(table, OF_PROMPTS[name])
        rows = rows.filter(pc.is_valid(rows["by_prompt"]))
        if chosen is not None:
            rows = rows.filter(pc.is_in(rows[chosen[0]], pa.array(chosen[1], pa.string())))
        if not len(rows):
            continue
        frame = _one_a_prompt(rows, "patched" if "patched" in columns else "logit_diff")
        if "clean" in columns:
            own = of_kinds(table, ("prompt",)).select(["prompt", "clean", "corrupted"]).to_pandas()
            own = own.set_index("prompt").reindex(frame["prompt"]).reset_index(drop=True)
            frame[["clean", "corrupted"]] = own
        keys = (patch.run_id, patch.patch_id, patch.corruption, step)
        yield typed(frame.assign(**dict(zip(EXAMINED, keys, strict=True))), columns)


def _one_a_prompt(rows: pa.Table, name: str) -> pd.DataFrame:
    """Repeat each row for every prompt that has a value, and put the value into the column `name`."""
    lists = rows["by_prompt"].combine_chunks()
    length = lists.value_lengths().to_numpy(zero_copy_only=False)
    row = np.repeat(np.arange(len(rows)), length)
    prompt = np.arange(len(row)) - np.repeat(np.cumsum(length) - length, length)
    values = pc.list_flatten(lists).to_numpy(zero_copy_only=False).astype("float64")
    there = ~np.isnan(values)
    frame = rows.drop_columns(["by_prompt"]).to_pandas().iloc[row[there]].reset_index(drop=True)
    return frame.assign(**{"prompt": prompt[there], name: values[there]})


def _together(frames: Iterable[pd.DataFrame], columns: dict[str, str]) -> pd.DataFrame:
    listed = list(frames)
    return pd.concat(listed, ignore_index=True) if listed else typed([], columns)
