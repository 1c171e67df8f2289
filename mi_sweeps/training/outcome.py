"""Whether a run ended worse than it began."""

from __future__ import annotations

from collections.abc import Mapping
from math import hypot

WORSE = "worse than at the start"
RATES = ("win_rate", "win_rate_low", "win_rate_high")
"""The metrics of the held-out prompts that tell: a share and its Wilson 95% interval."""


def outcome(first: Mapping[str, float], last: Mapping[str, float]) -> str:
    """WORSE, if the win rate at the last checkpoint is below that at the first: if the 95% interval of their difference
    (Newcombe 1998, method 10, of both Wilson intervals) is below 0. Otherwise, and where RATES are not known, "".

    Both are of the same prompts. Win rates that rise and fall together differ by less than the interval allows for, so
    what it shows is there.
    """
    if not all(name in rates for name in RATES for rates in (first, last)):
        return ""
    fall = first["win_rate"] - last["win_rate"]
    margin = hypot(first["win_rate"] - first["win_rate_low"], last["win_rate_high"] - last["win_rate"])
    return WORSE if fall > margin else ""
