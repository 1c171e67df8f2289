"""Notes for captions: missing steps, where lines are broken, and diverged runs, which are left out of means."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from ..counting import counted
from ..series import missing_steps
from .frames import Frames

NAMED = 4
"""Runs whose missing steps a caption lists."""


def steps(frames: Frames, run_ids: Iterable[str]) -> list[int]:
    """The steps that any of these runs lacks."""
    listed = frames.runs.loc[frames.runs["run_id"].isin(set(run_ids)), "missing_steps"].dropna()
    return sorted({int(step) for of_run in listed for step in of_run.split(", ")})


def left_out(frames: Frames, rows: pd.DataFrame) -> pd.DataFrame:
    """Drop the steps that any of several runs lacks: a mean over the others would look like a change."""
    return rows[~rows["step"].isin(steps(frames, rows["run_id"]))]


def broken(line: pd.DataFrame, missing: Iterable[int]) -> pd.DataFrame:
    """Insert NaN at missing steps, so that a line is broken there."""
    wanted = set(missing)
    if not wanted or not len(line):
        return line
    breaks = pd.DataFrame({"step": sorted(wanted)}).reindex(columns=line.columns)
    measured = line[~line["step"].isin(wanted)].astype({"step": float})
    joined = pd.concat([measured, breaks.astype({"step": float})]).sort_values("step")
    return joined.astype({"step": int}).replace({pd.NA: np.nan})


def note(frames: Frames, run_ids: Iterable[str]) -> str:
    """For captions: which of these runs lack which checkpoints and why, and how many diverged runs are left out."""
    wanted = set(run_ids)
    ended = _left_out(frames, wanted)
    lines = [
        f"{run.run_id} at {'; '.join(missing_steps.lines(run.missing_steps))}"
        for run in (frames.output.runs if frames.output else ())
        if run.run_id in wanted and run.missing_steps
    ]
    if not lines:
        return ended
    more = f" / and {len(lines) - NAMED} more runs" if len(lines) > NAMED else ""
    return f"; broken where there is no checkpoint: {' / '.join(lines[:NAMED])}{more}{ended}"


def _left_out(frames: Frames, run_ids: set[str]) -> str:
    runs = frames.runs
    own = runs[runs["setting"].isin(runs.loc[runs["run_id"].isin(run_ids), "setting"]) & (runs["status"] == "diverged")]
    n = len(own[own["run_id"].isin(frames.patches["run_id"]) & ~own["run_id"].isin(run_ids)])
    return f"; {counted(n, 'diverged run')} left out" if n else ""
