"""The bootstrap of a mean over runs, with the same random numbers as on the report's page.

SciPy's bootstrap cannot be reproduced in the page's JavaScript, so this one is our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pandas as pd

from .summaries import band

RESAMPLES = 1000
SEED = 0
LEAST = 20
"""Fewest runs for a bootstrap. With fewer it is too narrow: over three runs it covers the mean 75 times in 100."""


def over_runs(values: pd.DataFrame, by: Sequence[str], value: str = "value") -> pd.DataFrame:
    """Mean of `value` in each group of `by`, with its 95% interval over the rows and their number `n`.

    Pass one row per run. From LEAST runs on, the interval is a percentile bootstrap of the mean (Efron & Tibshirani
    1993, An Introduction to the Bootstrap, ch. 13); below, it is Student's t (`summaries.band`).
    """
    bands = band(values, by, value)
    groups = values.groupby(list(by), sort=True, dropna=False, observed=True)[value]
    for at, (_, of_group) in enumerate(groups):
        if bands.loc[at, "n"] >= LEAST:
            bands.loc[at, ["low", "high"]] = bootstrap(of_group.dropna().to_numpy("float64"))
    return bands


def bootstrap(values: np.ndarray) -> tuple[float, float]:
    """95% percentile bootstrap interval of the mean of `values`; NaN for fewer than two."""
    if len(values) < 2:
        return float("nan"), float("nan")
    low, high = np.percentile(draws(len(values)) @ values, (2.5, 97.5))
    return float(low), float(high)


@lru_cache(maxsize=32)
def draws(n: int) -> np.ndarray:
    """The weight of each of `n` runs in each resample: [resample, n].

    Random numbers are mulberry32's, which the page computes in five lines of JavaScript.
    """
    state = np.uint32(SEED) + np.arange(1, RESAMPLES * n + 1, dtype=np.uint32) * np.uint32(0x6D2B79F5)
    mixed = (state ^ (state >> 15)) * (state | 1)
    mixed ^= mixed + (mixed ^ (mixed >> 7)) * (mixed | 61)
    drawn = ((mixed ^ (mixed >> 14)) / 2**32 * n).astype(int).reshape(RESAMPLES, n)
    resample = np.arange(RESAMPLES)[:, None]
    return np.bincount((resample * n + drawn).ravel(), minlength=RESAMPLES * n).reshape(RESAMPLES, n) / n
