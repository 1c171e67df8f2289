"""The tables of an output folder as pandas frames, and the measures that every picture shares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import UserError
from ..store.files import write_bytes
from . import cells, folder

FLOOR = 0.1
"""Logits. Where clean and corrupted differ by less, a recovered fraction says nothing and is left out."""

T_95 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""Student's t: its 97.5% points for 1 to 30 degrees of freedom."""

# Column names and pandas types. Numbers that a run may lack are nullable (Int64) or NaN (float64).
RUNS = {
    **{"run_id": "string", "sweep": "string", "cell": "string", "model": "string", "task": "string"},
    **{"lr": "float64", "weight_decay": "float64", "schedule": "string", "seed": "Int64"},
    **{
        "steps": "Int64",
        "batch_size": "Int64",
        "status": "string",
        "attempts": "Int64",
        "seconds": "float64",
    },
    **{"host": "string", "error": "string", "patched": "string"},
}
PATCHES = {
    **{
        "run_id": "string",
        "patch_id": "string",
        "corruption": "string",
        "patching": "string",
        "prompts": "Int64",
    },
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
    **{"patched": "float64", "clean": "float64", "corrupted": "float64", "n": "int64"},
}


@dataclass(frozen=True)
class Frames:
    """Tidy tables, one value a row, joined by `run_id` (and `patch_id`). Logit differences are in logits."""

    runs: pd.DataFrame
    """One row a run, also those that failed or were never started. `cell` is equal for runs that differ in
    their seed only; `patched` counts its patch jobs that are done ("1/2"); `seconds` is wall-clock."""
    patches: pd.DataFrame
    """One row a patch job. `patching` names its settings, `prompts` counts its prompts."""
    metrics: pd.DataFrame
    """What training measured: `value` of `metric` on `split` after `step` steps, over `n` prompts."""
    attribution: pd.DataFrame
    """Logit differences of the residual stream (`lens`), of each layer's parts (`layer`) and each `head`."""
    patching: pd.DataFrame
    """Logit difference `patched` at one site, with those of the `clean` and `corrupted` prompts."""


def load(output: Path, sweeps: Sequence[str] | None = None) -> Frames:
    """The tables of the folder `output`, limited to the named `sweeps` if any are given.

    Raises UserError where the folder or a sweep does not exist, or a file cannot be read.
    """
    return tabulate(folder.read(output, sweeps))


def tabulate(output: folder.Output) -> Frames:
    """The tables of an output folder that was read."""
    examined = [(patch, step, file) for patch in output.patches for step, file in patch.tables()]
    keys = [(patch.run_id, patch.patch_id, patch.corruption, step) for patch, step, _ in examined]
    tables = _stack([file for _, _, file in examined], "kind", keys, tuple(EXAMINED))
    of_patch = tables["kind"] == "patch"
    trained = [run for run in output.runs if (run.path / "metrics.parquet").exists()]
    metrics = [run.path / "metrics.parquet" for run in trained]
    return Frames(
        runs=_typed(_runs(output.runs), RUNS),
        patches=_typed(_patches(list(output.patches)), PATCHES),
        metrics=_typed(_stack(metrics, "metric", [(run.run_id,) for run in trained], ("run_id",)), METRICS),
        attribution=_typed(tables[~of_patch], ATTRIBUTION),
        patching=_typed(tables[of_patch], PATCHING),
    )


def export(frames: Frames, directory: Path, format: Literal["parquet", "csv"] = "parquet") -> list[Path]:
    """Write each table to its own file in `directory`, whole or not at all; returns the files.

    CSV keeps values, Parquet keeps types as well.
    """
    if format not in ("parquet", "csv"):
        raise UserError(f"no table format {format!r}: choose parquet or csv")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for field in fields(frames):
        table: pd.DataFrame = getattr(frames, field.name)
        file = directory / f"{field.name}.{format}"
        written = table.to_parquet(index=False) if format == "parquet" else table.to_csv(index=False).encode()
        write_bytes(file, written)
        files.append(file)
    return files


def recovered(patching: pd.DataFrame) -> pd.Series:
    """(patched - corrupted) / (clean - corrupted) of each row, each a mean over prompts: a ratio of means.

    0: the patch changes nothing; 1: it brings back the clean logit difference. Missing where clean and
    corrupted differ by less than FLOOR, as they may before training.
    """
    denominator = patching["clean"] - patching["corrupted"]
    return (patching["patched"] - patching["corrupted"]) / denominator.where(denominator.abs() >= FLOOR)


def first_step(metrics: pd.DataFrame, threshold: float = 0.9, split: str = "heldout") -> pd.Series:
    """First step at which each run's win rate on `split` is at least `threshold`; missing if it never was."""
    chosen = metrics[(metrics["metric"] == "win_rate") & (metrics["split"] == split)]
    reached = chosen[chosen["value"] >= threshold].groupby("run_id")["step"].min()
    return reached.reindex(pd.unique(chosen["run_id"])).astype("Int64").rename("first_step").rename_axis("run_id")


def band(values: pd.DataFrame, by: Sequence[str], value: str = "value") -> pd.DataFrame:
    """Mean of `value` in each group of `by`, with its 95% interval over the rows and their number `n`.

    Give it one row a seed. The interval is Student's t, mean ± t · s / √n, so it is wide for few seeds; it is
    missing for one. Missing values are left out and not counted.
    """
    groups = values.groupby(list(by), sort=True, dropna=False, observed=True)[value]
    summary = groups.agg(mean="mean", deviation="std", n="count").reset_index()
    half = summary["n"].map(t_95) * summary["deviation"] / np.sqrt(summary["n"])
    summary["low"], summary["high"] = summary["mean"] - half, summary["mean"] + half
    return summary[[*by, "mean", "low", "high", "n"]]


def t_95(n: int) -> float:
    """Standard errors either side of a mean over `n` values that make its 95% interval; NaN for one value.

    From the table up to n = 31; beyond it within 0.002 of the true value.
    """
    freedom = n - 1
    if freedom < 1:
        return float("nan")
    return T_95[freedom - 1] if freedom <= len(T_95) else 1.96 + 2.5 / freedom


def _runs(runs: Sequence[folder.Run]) -> list[dict[str, Any]]:
    started = [run for run in runs if run.config]
    names = dict(zip((run.run_id for run in started), cells.names([run.config for run in started]), strict=True))
    rows = []
    for run in runs:
        config = run.config or _nested(run.overrides)
        done = sum(patch.status["state"] == "done" for patch in run.patches)
        rows.append(
            {
                "run_id": run.run_id,
                "sweep": ", ".join(run.sweeps),
                "cell": names[run.run_id] or "all" if run.config else None,
                "model": _at(config, "model", "name"),
                "task": _at(config, "task", "name"),
                "lr": _at(config, "optim", "lr"),
                "weight_decay": _at(config, "optim", "weight_decay"),
                "schedule": _at(config, "schedule", "name"),
                "seed": _at(config, "seed"),
                "steps": _at(config, "train", "steps"),
                "batch_size": _at(config, "train", "batch_size"),
                "patched": f"{done}/{len(run.patches)}",
                **_progress(run.status),
                "host": run.status.get("host"),
            }
        )
    return rows


def _patches(patches: Sequence[folder.Patch]) -> list[dict[str, Any]]:
    started = [patch for patch in patches if patch.about]
    settings = [_at(patch.about, "config", "patching") or {} for patch in started]
    names = {}
    for patch, setting, name in zip(
        started, settings, cells.names([{"patching": setting} for setting in settings]), strict=True
    ):
        always = f"patching {setting.get('name')}"
        full = name if name.startswith("patching ") else ", ".join(filter(None, (always, name)))
        names[patch.patch_id] = full.removeprefix("patching ")
    return [
        {
            "run_id": patch.run_id,
            "patch_id": patch.patch_id,
            "corruption": patch.corruption,
            "patching": names.get(patch.patch_id),
            "prompts": len(patch.about["prompts"]) if patch.about.get("prompts") else None,
            **_progress(patch.status),
        }
        for patch in patches
    ]


def _progress(status: folder.Json) -> dict[str, Any]:
    return {"status": status["state"], **{key: status.get(key) for key in ("attempts", "seconds", "error")}}


def _at(config: Any, *path: str) -> Any:
    for key in path:
        config = config.get(key) if isinstance(config, dict) else None
    return config


def _nested(overrides: folder.Json) -> folder.Json:
    """Overrides as the configuration they would make: {"optim.lr": "1e-4", "model": "mini"} in groups."""
    config: folder.Json = {}
    for key, value in overrides.items():
        group, _, name = key.partition(".")
        if name:
            config.setdefault(group, {})[name] = value
        elif key == "seed":
            config[key] = value
        else:  # a group's choice is its name
            config.setdefault(group, {})["name"] = value
    return config


def _stack(files: Sequence[Path], needed: str, keys: Sequence[tuple[Any, ...]], names: Sequence[str]) -> pd.DataFrame:
    """The rows of all files one below the other, each with the keys of its file in the columns `names`.

    Every file must have the column `needed`.
    """
    if not files:
        return pd.DataFrame({needed: pd.Series(dtype="string")})
    tables = [_read(file, needed) for file in files]
    try:
        stacked = pa.concat_tables(tables, promote_options="permissive").to_pandas()
    except pa.ArrowException as error:
        raise UserError(f"tables below {files[0].parent} differ in their columns: {_line(error)}") from None
    lengths = [len(table) for table in tables]
    for name, of_files in zip(names, zip(*keys, strict=True), strict=True):
        stacked[name] = np.repeat(np.array(of_files, dtype=object), lengths)
    return stacked


def _read(file: Path, needed: str) -> pa.Table:
    try:
        # Thousands of small files: a thread pool for each would cost more than the reading.
        with pq.ParquetFile(file) as opened:
            table = opened.read(use_threads=False)
        if needed not in table.column_names:
            raise pa.ArrowInvalid(f"no column {needed!r}")
        return table
    except (pa.ArrowException, OSError) as error:
        todo = "delete it and run the sweep again: only that table is made anew"
        raise UserError(f"cannot read {file} ({_line(error)}): {todo}") from None


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _typed(rows: pd.DataFrame | Iterable[dict[str, Any]], columns: dict[str, str]) -> pd.DataFrame:
    """A frame of exactly these columns and types; what is not there is missing."""
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows)
    frame = frame.reindex(columns=list(columns)).reset_index(drop=True)
    for name, kind in columns.items():
        if kind != "string":  # overrides are text
            frame[name] = pd.to_numeric(frame[name], errors="coerce")
    return frame.astype(columns)
