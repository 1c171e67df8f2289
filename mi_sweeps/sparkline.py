"""Sparklines for a terminal. rich has none, and a further dependency would save little."""

from __future__ import annotations

import math
from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], low: float | None = None, high: float | None = None, width: int = 40) -> str:
    """Draws a block for each value, between `low` and `high` (default: smallest and largest value); a space for NaN.

    Of more than `width` values, that many are drawn, evenly spaced and including the first and the last. If all values
    are equal and no limits are given, the blocks have half height.
    """
    if len(values) > width:
        values = [values[round(at * (len(values) - 1) / max(1, width - 1))] for at in range(width)]
    there = [value for value in values if math.isfinite(value)]
    bottom = min(there, default=0.0) if low is None else low
    top = max(there, default=0.0) if high is None else high
    return "".join(_block(value, bottom, top) for value in values)


def _block(value: float, low: float, high: float) -> str:
    if not math.isfinite(value):
        return " "
    share = (value - low) / (high - low) if high > low else 0.5
    return BLOCKS[min(max(int(share * len(BLOCKS)), 0), len(BLOCKS) - 1)]
