"""Several tests at once, by Holm's method (1979, Scand. J. Statist. 6)."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from .estimates import LEVEL


def holm(p: Float[np.ndarray, "*test"]) -> Bool[np.ndarray, "*test"]:
    """Which of these tests show something, where the chance that any of them does by chance is 1 - LEVEL.

    From the smallest p on, each is compared with that share of the tests that are left; the first that is larger ends
    it. A p that is not defined (NaN) is a test that shows nothing.
    """
    flat = np.nan_to_num(np.ravel(p), nan=1.0)
    order = np.argsort(flat, kind="stable")
    shown = np.zeros(flat.shape, bool)
    shown[order] = np.logical_and.accumulate(flat[order] <= (1 - LEVEL) / np.arange(len(flat), 0, -1))
    found: np.ndarray[Any, Any] = shown.reshape(np.shape(p))
    return found
