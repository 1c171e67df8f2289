"""Spikes of the training loss, and how many noise alone would give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

HALF_WINDOW = 12
"""Steps on either side over which the median is taken: about as long as a spike may last."""

ROBUST = 1.4826
"""Standard deviation of normal noise over its median absolute value."""

THRESHOLD = 6.0
"""Robust standard deviations."""

LEAST = 2.0
"""A spike is at least this many times the median around it: if losses hardly vary, six deviations are tiny."""

TAILS = 3
"""Degrees of freedom of the Student's t noise that spikes are compared with: the heaviest tails with a variance."""

NOISE = f"independent noise of the run's own spread (Student's t, {TAILS} degrees of freedom)"


def robust_z(losses: Sequence[float] | np.ndarray) -> np.ndarray:
    """How far each log-loss is above the median of the log-losses around it, in robust standard deviations.

    The deviation is ROBUST times the median absolute residual of the whole run (Rousseeuw & Croux 1993), which spikes
    hardly affect. Zeros if nothing varies. Losses are logarithmic because they fall over orders of magnitude.
    """
    residuals = _residuals(losses)
    deviation = _deviation(residuals)
    return residuals / deviation if deviation > 0 else np.where(residuals > 0, np.inf, 0.0)


def spikes(losses: Sequence[float] | np.ndarray) -> list[int]:
    """Find the spikes of the training loss: the highest step of each.

    A step is in a spike if its robust z is above THRESHOLD and its loss at least LEAST times the median around it;
    steps that are at most HALF_WINDOW apart are one spike.
    """
    values = np.asarray(losses, dtype=float)
    high = np.flatnonzero((robust_z(values) > THRESHOLD) & (_residuals(values) >= np.log(LEAST)))
    found: list[list[int]] = []
    for step in high.tolist():
        if found and step - found[-1][-1] <= HALF_WINDOW:
            found[-1].append(step)
        else:
            found.append([step])
    return [max(group, key=lambda step: values[step]) for group in found]


def expected(losses: Sequence[float] | np.ndarray) -> float:
    """Expected number of spikes from noise alone, in a run of this length.

    Log-losses are medians plus independent Student's t noise with TAILS degrees of freedom and the run's own robust
    standard deviation. A step is high with probability p, and starts a spike if none of the HALF_WINDOW steps before
    it is high.
    """
    residuals = _residuals(losses)
    deviation = _deviation(residuals)
    if deviation == 0:
        return 0.0
    least = max(THRESHOLD, np.log(LEAST) / deviation)
    p = float(stats.t.sf(least * ROBUST * stats.t.ppf(0.75, TAILS), TAILS))
    return len(residuals) * p * (1 - p) ** HALF_WINDOW


def _deviation(residuals: np.ndarray) -> float:
    """Robust standard deviation."""
    return ROBUST * float(np.median(np.abs(residuals))) if len(residuals) else 0.0


def _residuals(losses: Sequence[float] | np.ndarray) -> np.ndarray:
    logs = pd.Series(np.log(np.maximum(np.asarray(losses, dtype=float), 1e-12)))
    return (logs - logs.rolling(2 * HALF_WINDOW + 1, center=True, min_periods=1).median()).to_numpy()


def counts(metrics: pd.DataFrame) -> pd.DataFrame:
    """Count the spikes of each run: run_id, found, expected (from noise alone)."""
    rows = [
        (run_id, len(spikes(rows["value"])), expected(rows["value"]))
        for run_id, rows in _batches(metrics).groupby("run_id", sort=False)
    ]
    return pd.DataFrame(rows, columns=["run_id", "found", "expected"])


def of_runs(metrics: pd.DataFrame) -> pd.DataFrame:
    """List the spikes of all runs: run_id, step, value (the loss)."""
    batch = _batches(metrics)
    parts = [rows.iloc[spikes(rows["value"])] for _, rows in batch.groupby("run_id", sort=False)]
    found = pd.concat(parts) if parts else batch
    return found[["run_id", "step", "value"]].reset_index(drop=True)


def _batches(metrics: pd.DataFrame) -> pd.DataFrame:
    return metrics[(metrics["split"] == "batch") & (metrics["metric"] == "loss")].sort_values("step")
