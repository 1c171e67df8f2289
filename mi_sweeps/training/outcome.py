"""Whether a run learned its task, and whether it ended worse than it began."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import hypot

WORSE = "worse than at the start"
RATES = ("win_rate", "win_rate_low", "win_rate_high")
"""The held-out metrics that decide: the win rate and its Wilson 95% interval."""


THRESHOLDS = {"accuracy": 0.5, "win_rate": 0.9, "preferred": 0.9}
"""A task counts as learned when the first of these metrics that it has reaches its threshold on held-out prompts.
Accuracy is over all tokens, many of which cannot be predicted."""
SHARE_ROUNDING = 1e-6
"""How far below its threshold a share may be: shares stored in 32 bits turn 0.9 into 0.89999998. Two shares of fewer
than 100,000 prompts differ by more."""


def learned_by(metrics: Collection[str]) -> str | None:
    """The metric by which a task with these metrics counts as learned; None if it has none of THRESHOLDS."""
    return next((name for name in THRESHOLDS if name in metrics), None)


def outcome(first: Mapping[str, float], last: Mapping[str, float]) -> str:
    """WORSE if the win rate fell from the first to the last checkpoint: if the 95% interval of their difference
    (Newcombe 1998, method 10, from the two Wilson intervals) is below 0. Otherwise, or if RATES are missing, "".

    The method assumes independent samples. Both rates are of the same prompts, and where they rise and fall together
    the interval is too wide, never too narrow.
    """
    if not all(name in rates for name in RATES for rates in (first, last)):
        return ""
    fall = first["win_rate"] - last["win_rate"]
    margin = hypot(first["win_rate"] - first["win_rate_low"], last["win_rate_high"] - last["win_rate"])
    return WORSE if fall > margin else ""
