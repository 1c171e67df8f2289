"""Spikes of the training loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

HALF_WINDOW = 12
"""Steps on either side whose median a step's loss is compared with: about as long as a spike may last."""

THRESHOLD = 6.0
"""Robust standard deviations."""

LEAST = 2.0
"""A spike is at least so many times the median around it: where losses hardly vary, six deviations are nothing."""


def robust_z(losses: Sequence[float] | np.ndarray) -> np.ndarray:
    """How far each log-loss is above the median of the log-losses around it, in robust standard deviations.

    The residuals' standard deviation is taken as 1.4826 times the median of their size (Rousseeuw & Croux 1993), over
    the whole run; the spikes themselves hardly move it. Zeros where nothing varies. The logarithm, because a loss falls
    over orders of magnitude.
    """
    residuals = _residuals(losses)
    deviation = 1.4826 * np.median(np.abs(residuals)) if len(residuals) else 0.0
    return residuals / deviation if deviation > 0 else np.where(residuals > 0, np.inf, 0.0)


def spikes(losses: Sequence[float] | np.ndarray) -> list[int]:
    """Where the training loss has spikes: the highest step of each.

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


def _residuals(losses: Sequence[float] | np.ndarray) -> np.ndarray:
    logs = pd.Series(np.log(np.maximum(np.asarray(losses, dtype=float), 1e-12)))
    return (logs - logs.rolling(2 * HALF_WINDOW + 1, center=True, min_periods=1).median()).to_numpy()


def of_runs(metrics: pd.DataFrame) -> pd.DataFrame:
    """The spikes of all runs that a metrics table holds: run_id, step, value (the loss there)."""
    batch = metrics[(metrics["split"] == "batch") & (metrics["metric"] == "loss")].sort_values("step")
    parts = [rows.iloc[spikes(rows["value"])] for _, rows in batch.groupby("run_id", sort=False)]
    found = pd.concat(parts) if parts else batch
    return found[["run_id", "step", "value"]].reset_index(drop=True)
