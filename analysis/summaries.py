"""Summaries of tables: recovered fractions, first steps, means over seeds with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from ..training.outcome import SHARE_ROUNDING, THRESHOLDS
from .inference.estimates import LEVEL, ROUNDING

APPROXIMATE = " (approximate)"
"""Suffix of a site whose values are estimates only."""


def recovered(patching: pd.DataFrame) -> pd.Series:
    """(patched - corrupted) / (clean - corrupted) of each row, each a mean over prompts: a ratio of means.

    0: the patch changes nothing; 1: it recovers the clean logit difference. Missing where clean and corrupted are equal
    up to rounding. Whether there is a gap, and how precise the value is, is for `inference` to say.
    """
    denominator = patching["clean"] - patching["corrupted"]
    return (patching["patched"] - patching["corrupted"]) / denominator.where(denominator.abs() > ROUNDING)


def with_approximate(patching: pd.DataFrame) -> pd.DataFrame:
    """The rows to show. A row with only an estimate has it as `patched`, and "z (approximate)" as site; rows with
    neither are left out."""
    estimated = patching["patched"].isna()
    if not estimated.any():
        return patching
    known = patching[~estimated | patching["approximate"].notna()]
    estimated = known["patched"].isna()
    return known.assign(
        site=known["site"].where(~estimated, known["site"] + APPROXIMATE),
        patched=known["patched"].fillna(known["approximate"]),
    )


def first_step(
    metrics: pd.DataFrame, threshold: float = THRESHOLDS["win_rate"], split: str = "heldout", metric: str = "win_rate"
) -> pd.Series:
    """First evaluated step at which each run's `metric` on `split` is at least `threshold`; missing if it never was."""
    chosen = metrics[(metrics["metric"] == metric) & (metrics["split"] == split)]
    reached = chosen[chosen["value"] >= threshold - SHARE_ROUNDING].groupby("run_id")["step"].min()
    return reached.reindex(pd.unique(chosen["run_id"])).astype("Int64").rename("first_step").rename_axis("run_id")


def band(values: pd.DataFrame, by: Sequence[str], value: str = "value") -> pd.DataFrame:
    """Mean of `value` in each group of `by`, with its 95% interval over the rows and their number `n`.

    Pass one row per seed. The interval is Student's t, mean ± t · s / √n; missing for one seed. Missing values do not
    count.
    """
    groups = values.groupby(list(by), sort=True, dropna=False, observed=True)[value]
    summary = groups.agg(mean="mean", deviation="std", n="count").reset_index()
    freedom = summary["n"] - 1
    critical = stats.t.ppf(0.5 + LEVEL / 2, freedom.where(freedom > 0))
    half = critical * summary["deviation"] / np.sqrt(summary["n"])
    summary["low"], summary["high"] = summary["mean"] - half, summary["mean"] + half
    return summary[[*by, "mean", "low", "high", "n"]]


def spread(steps: Sequence[int], count: int) -> list[int]:
    """Select `count` evenly spaced steps, including the first and the last."""
    ordered = sorted(set(steps))
    chosen = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return [ordered[index] for index in chosen]
