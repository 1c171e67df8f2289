"""Bootstrap intervals: over the prompts of one patch job, and over runs that differ in their seed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pandas as pd

from ..circuits.recovered import FLOOR

RESAMPLES = 1000
SEED = 0
LEFT_OUT = 0.05
"""Share of resamples that may lack a denominator: an interval of 95% cannot do without more."""
CHUNK = 1000
"""Sites at once: CHUNK × RESAMPLES numbers are in memory."""


def over_prompts(rows: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Recovered in each group of `by`, with its 95% interval over the `n` prompts of the group.

    `rows` are those of `frames.by_prompt`; `by` must tell apart all but the prompts. Recovered is a ratio of means,
    as `summaries.recovered` has it, so `low` and `high` are those of a paired percentile bootstrap (Efron & Tibshirani
    1993, An Introduction to the Bootstrap, ch. 13): prompts are drawn with replacement, each with its patched, clean
    and corrupted logit differences, and the ratio is worked out anew. The same numbers come out on each call.

    Draws whose clean and corrupted differ by less than FLOOR logits are left out; the interval is missing if these
    are more than LEFT_OUT of all, where recovered itself is missing, and for one prompt. It speaks of prompts like
    these and of this one model, not of other seeds. Over few prompts it is too narrow: over ten, by about a fifth.
    """
    rows = rows.dropna(subset=["patched", "clean", "corrupted"])
    group = rows.groupby(list(by), sort=False, dropna=False, observed=True).ngroup().to_numpy()
    _, first = np.unique(group, return_index=True)
    numbers, prompt = np.unique(rows["prompt"], return_inverse=True)
    if len(np.unique(group * len(numbers) + prompt)) < len(rows):
        raise ValueError(f"a prompt has several rows in a group of {', '.join(by)}")

    gain, room = np.full((2, len(first), len(numbers)), np.nan)
    gain[group, prompt] = rows["patched"] - rows["corrupted"]
    room[group, prompt] = rows["clean"] - rows["corrupted"]
    present = ~np.isnan(gain)
    low, high = np.full((2, len(first)), np.nan)
    # Sites that the same prompts have share their draws.
    patterns, which = np.unique(present, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        sites, there = np.flatnonzero(which.ravel() == number), np.flatnonzero(pattern)
        if len(there) < 2:
            continue
        for start in range(0, len(sites), CHUNK):
            part = sites[start : start + CHUNK]
            low[part], high[part] = _ends(gain[np.ix_(part, there)], room[np.ix_(part, there)])

    n = present.sum(axis=1)
    estimate = _ratio(np.nansum(gain, axis=1) / n, np.nansum(room, axis=1) / n)
    low[np.isnan(estimate)] = high[np.isnan(estimate)] = np.nan
    keys = rows[list(by)].iloc[first].reset_index(drop=True)
    return keys.assign(recovered=estimate, low=low, high=high, n=n)


def over_runs(values: pd.DataFrame, by: Sequence[str], value: str = "value") -> pd.DataFrame:
    """Mean of `value` in each group of `by`, with its 95% interval over the rows and their number `n`.

    Give it one row a run. As `summaries.band`, but the interval is a percentile bootstrap of the mean, the one that the
    report's page has, to the same numbers. It is missing for one run, and too narrow for fewer than about five: over
    two runs it reaches just from one to the other, where Student's t asks for more than six times as much.
    """
    rows = []
    for key, of_group in values.groupby(list(by), sort=True, dropna=False, observed=True)[value]:
        there = of_group.dropna().to_numpy("float64")
        low, high = bootstrap(there)
        rows.append((*key, there.mean() if len(there) else np.nan, low, high, len(there)))
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "n"])


def bootstrap(values: np.ndarray) -> tuple[float, float]:
    """Both ends of the 95% percentile bootstrap of the mean of `values`; NaN for fewer than two."""
    if len(values) < 2:
        return float("nan"), float("nan")
    low, high = np.percentile(draws(len(values)) @ values, (2.5, 97.5))
    return float(low), float(high)


def _ends(gain: np.ndarray, room: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both ends for each site, from numerators and denominators of shape [site, prompt]."""
    drawn = draws(gain.shape[1])
    ratios = _ratio(gain @ drawn.T, room @ drawn.T)
    lost = np.isnan(ratios)
    low, high = np.full((2, len(ratios)), np.nan)
    whole = ~lost.any(axis=1)
    if whole.any():
        low[whole], high[whole] = np.percentile(ratios[whole], (2.5, 97.5), axis=1)
    some = ~whole & (lost.mean(axis=1) <= LEFT_OUT)
    if some.any():
        low[some], high[some] = np.nanpercentile(ratios[some], (2.5, 97.5), axis=1)
    return low, high


@lru_cache(maxsize=32)
def draws(n: int) -> np.ndarray:
    """How often each of `n` prompts or runs is drawn, over n: of shape [resample, n].

    The random numbers are mulberry32's, which fits in five lines of JavaScript too: the report's page draws the same.
    """
    state = np.uint32(SEED) + np.arange(1, RESAMPLES * n + 1, dtype=np.uint32) * np.uint32(0x6D2B79F5)
    mixed = (state ^ (state >> 15)) * (state | 1)
    mixed ^= mixed + (mixed ^ (mixed >> 7)) * (mixed | 61)
    drawn = ((mixed ^ (mixed >> 14)) / 2**32 * n).astype(int).reshape(RESAMPLES, n)
    resample = np.arange(RESAMPLES)[:, None]
    return np.bincount((resample * n + drawn).ravel(), minlength=RESAMPLES * n).reshape(RESAMPLES, n) / n


def _ratio(gain: np.ndarray, room: np.ndarray) -> np.ndarray:
    return gain / np.where(np.abs(room) >= FLOOR, room, np.nan)
