"""Packs the page's data: shared values are stored once, decimals as whole numbers."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np

UNIT = 1e-4
"""Logits. Logit differences are stored as whole multiples of it."""


class Pool:
    """Values that many entries share: each is stored once, and entries hold its index."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[Hashable, int] = {}

    def number(self, key: Hashable, value: Any) -> int:
        """Return the index of `value`; equal keys mean equal values."""
        if key not in self._numbers:
            self._numbers[key] = len(self.values)
            self.values.append(value)
        return self._numbers[key]

    def steps(self, steps: Iterable[int]) -> int:
        """Return the index of a list of steps."""
        values = [int(step) for step in steps]
        return self.number(tuple(values), values)


def in_units(values: np.ndarray) -> list[int | None]:
    """Logits in whole multiples of UNIT; None where a value is not finite."""
    whole = np.round(values / UNIT)
    return [int(value) if math.isfinite(value) else None for value in whole.tolist()]


def thousandths(values: np.ndarray) -> list[int | None]:
    """Fractions in whole thousandths; None where a value is not finite."""
    with np.errstate(invalid="ignore"):
        whole = np.round(values * 1000)
    return [int(value) if np.isfinite(value) else None for value in whole.tolist()]


def rounded(values: np.ndarray) -> list[float | None]:
    """Round to five significant digits; None where a value is not finite, which JSON cannot express."""
    return [float(f"{value:.5g}") if math.isfinite(value) else None for value in values.tolist()]
