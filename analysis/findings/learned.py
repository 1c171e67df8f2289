"""Was the task learned, and when?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ..frames import Frames
from ..summaries import THRESHOLDS, band, first_step
from .finding import Finding


def learned(frames: Frames) -> Iterator[Finding]:
    """One for each cell: the share of held-out prompts at the last checkpoint that all its runs have, from which
    checkpoint on it is at the threshold, and what it was at the start."""
    metric = next((name for name in THRESHOLDS if (frames.metrics["metric"] == name).any()), None)
    if metric is None:
        return
    chosen = frames.metrics[(frames.metrics["metric"] == metric) & (frames.metrics["split"] == "heldout")]
    of_cell = frames.runs.set_index("run_id")["cell"]
    chosen = chosen.assign(cell=chosen["run_id"].map(of_cell))
    reached = first_step(chosen, THRESHOLDS[metric], metric=metric)
    for cell, rows in chosen.groupby("cell", sort=False):
        runs = tuple(pd.unique(rows["run_id"]))
        counts = rows.groupby("step")["run_id"].nunique()
        shared = counts.index[counts == len(runs)]
        if not len(shared):
            continue
        rates = band(rows[rows["step"].isin(shared)], ["step"])
        first, last = rates.iloc[0], rates.iloc[-1]
        name = metric.replace("_", " ")
        ends = f" [{_percent(last['low'])}, {_percent(last['high'])}]" if np.isfinite(last["low"]) else ""
        said = (
            f"Held-out {name} went from {_percent(first['mean'])} at checkpoint {shared[0]} to "
            f"{_percent(last['mean'])}{ends} at checkpoint {shared[-1]}"
        )
        steps = reached.reindex(list(runs)).dropna()
        goal = _percent(THRESHOLDS[metric])
        if len(steps) == len(runs):
            when = f"{steps.min()}" if steps.min() == steps.max() else f"{steps.min()} to {steps.max()}"
            said += f"; {goal} was first reached at checkpoint {when}."
        elif len(steps):
            said += f"; {len(steps)} of {len(runs)} runs reached {goal}, from checkpoint {steps.min()} on."
        else:
            said += f"; {goal} was never reached."
        verdict = "learned" if len(steps) == len(runs) else "not learned" if not len(steps) else "learned by some"
        scope = "on these prompts, for other seeds" if len(runs) > 1 else "on these prompts, in this run"
        yield Finding(
            "learned", str(cell), "", said, verdict, runs, last["mean"], last["low"], last["high"], "share",
            int(rows["n"].max()), len(runs) == 1, scope, "metrics",
        )  # fmt: skip


def _percent(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.0f}%"  # an interval over seeds may end beyond
