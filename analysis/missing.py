"""What pictures lack, and captions say: checkpoints that series do not have, where what is drawn is broken; and runs
that diverged, of which no mean is."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from ..counting import counted
from ..series import gaps
from .frames import Frames

NAMED = 4
"""Runs whose gaps a caption tells."""


def steps(frames: Frames, run_ids: Iterable[str]) -> list[int]:
    """The steps at which any of these runs has none: what is of all of them has nothing there either."""
    told = frames.runs.loc[frames.runs["run_id"].isin(set(run_ids)), "gaps"].dropna()
    return sorted({int(step) for listed in told for step in listed.split(", ")})


def left_out(frames: Frames, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of several runs without the steps at which any of them has no checkpoint: a mean over the others would pass
    for a change."""
    return rows[~rows["step"].isin(steps(frames, rows["run_id"]))]


def broken(line: pd.DataFrame, missing: Iterable[int]) -> pd.DataFrame:
    """A line's points by `step`, with nothing at these steps, so that it is not drawn across them."""
    wanted = set(missing)
    if not wanted or not len(line):
        return line
    nothing = pd.DataFrame({"step": sorted(wanted)}).reindex(columns=line.columns)
    there = line[~line["step"].isin(wanted)].astype({"step": float})
    together = pd.concat([there, nothing.astype({"step": float})]).sort_values("step")
    return together.astype({"step": int}).replace({pd.NA: np.nan})


def told(frames: Frames, run_ids: Iterable[str]) -> str:
    """For a caption: which of these runs lack which checkpoints, and why; and how many diverged runs of their
    settings are left out. Empty where there is nothing to say."""
    wanted = set(run_ids)
    ended = _left_out(frames, wanted)
    lines = [
        f"{run.run_id} at {'; '.join(gaps.told(run.gaps))}"
        for run in (frames.output.runs if frames.output else ())
        if run.run_id in wanted and run.gaps
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
