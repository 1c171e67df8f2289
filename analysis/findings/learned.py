"""Was the task learned, and when?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ...counting import counted
from ...training.outcome import SHARE_ROUNDING, THRESHOLDS, learned_by
from ..frames import Frames, sound
from ..inference import words
from ..inference.wins import interval
from ..summaries import band, first_step
from .finding import Finding

OF_PROMPTS = ("win_rate", "preferred")
"""Shares of prompts, which are independent. The positions behind an accuracy are not."""


def learned(frames: Frames) -> Iterator[Finding]:
    """Yield a finding for each setting: the metric at the first and the last shared checkpoint, and when it reached its
    threshold."""
    heldout = frames.metrics[frames.metrics["split"] == "heldout"].merge(
        frames.runs[["run_id", "setting", "status"]], on="run_id"
    )
    for setting, own in heldout.groupby("setting", sort=False):
        metric = learned_by(set(own["metric"]))
        if metric is not None:
            own = own[own["metric"] == metric]
            kept = sound(own)
            left_out = own["run_id"].nunique() - kept["run_id"].nunique()
            yield from _of_setting(str(setting), kept, metric, left_out, bool((kept["status"] == "diverged").all()))


def _of_setting(setting: str, rows: pd.DataFrame, metric: str, left_out: int, diverged: bool) -> Iterator[Finding]:
    runs = tuple(pd.unique(rows["run_id"]))
    counts = rows.groupby("step")["run_id"].nunique()
    shared = counts.index[counts == len(runs)]
    if not len(shared):
        return
    rates = band(rows[rows["step"].isin(shared)], ["step"])
    first, last = rates.iloc[0], rates.iloc[-1].copy()
    at_end = rows[rows["step"] == shared[-1]]
    if metric in OF_PROMPTS:
        last["low"], last["high"] = interval(at_end["value"].tolist(), int(at_end["n"].min()))
    ends = f" [{_percent(last['low'])}, {_percent(last['high'])}]" if np.isfinite(last["low"]) else ""
    before = f"went from {_percent(first['mean'])} at checkpoint {shared[0]} to" if len(shared) > 1 else "is"
    said = f"Held-out {metric.replace('_', ' ')} {before} {_percent(last['mean'])}{ends} at checkpoint {shared[-1]}"
    steps = first_step(rows, THRESHOLDS[metric], metric=metric).reindex(list(runs)).dropna()
    in_order = rows.sort_values("step").groupby("run_id")["value"]
    starts, there = (values >= THRESHOLDS[metric] - SHARE_ROUNDING for values in (in_order.first(), in_order.last()))
    goal = _percent(THRESHOLDS[metric])
    if len(steps) == len(runs):
        when = f"{steps.min()}" if steps.min() == steps.max() else f"{steps.min()} to {steps.max()}"
        already = starts.all()
        said += f"; {goal} was {'already' if already else 'first'} reached at checkpoint {when}"
        said += ", the first that was examined" if already else ""
    elif len(steps):
        said += f"; {len(steps)} of {len(runs)} runs reached {goal}, the first of them at checkpoint {steps.min()}"
    else:
        said += f"; {goal} was never reached"
    if fell := len(steps) - int(there.sum()):
        said += f", and at the end {counted(fell, 'run')} {'is' if fell == 1 else 'are'} below it again"
    if diverged:
        said += "; the run diverged" if len(runs) == 1 else f"; all {len(runs)} runs diverged"
    if left_out:
        said += f"; {words.left_out(left_out)}"
    verdict = "learned" if there.all() else "learned by some" if there.any() else "lost" if fell else "not learned"
    if starts.all() and there.all() and not shared[0]:
        verdict = "from the start"
    several = len(runs) > 1
    if metric in OF_PROMPTS:
        scope = "for other prompts and other seeds" if several else "for other prompts in this run"
    else:
        scope = "on these prompts, for other seeds" if several else "on these prompts, in this run"
    if rows["step"].max() > shared[-1]:
        scope += f", {words.up_to(shared[-1])}"
    yield Finding(
        "learned", setting, "", f"{said}.", verdict, last["mean"], last["low"], last["high"], "share",
        int(rows["n"].max()), len(runs) == 1, scope, "metrics", run_ids=runs,
    )  # fmt: skip


def _percent(share: float) -> str:
    return f"{100 * min(max(share, 0.0), 1.0):.0f}%"  # Student's t may end outside 0 to 1
