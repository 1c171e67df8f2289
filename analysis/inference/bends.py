"""Where a curve bends: straight pieces between change points, found without assuming any of the shapes in `shapes`.

The pieces are least-squares lines, found by dynamic programming (`ruptures.Dynp`; Truong, Oudre & Vayatis 2020, Signal
Processing 167); their number minimises BIC. `jump` is 1, because the default of 5 considers every fifth checkpoint
only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import ruptures
from jaxtyping import Float

PIECES = 5
"""At most."""
LEAST = 3
"""Checkpoints of a piece."""
STEEP = 2.0
"""Times the mean slope of the whole curve."""


@dataclass(frozen=True)
class Rise:
    """A stretch that is steeper than the rest, with change points on both sides."""

    middle: float
    """When half of the change of the whole curve is done, in units of the time."""
    width: float
    """Time from 10% to 90% of that change."""


def rise(time: Float[np.ndarray, " checkpoint"], curve: Float[np.ndarray, " checkpoint"]) -> Rise | None:
    """Find a stretch STEEP times as steep as the whole curve, with change points before and after it.

    None if there is none: a line has no change point, and a curve that slows down or speeds up throughout is steepest
    at one end. Two distant rises count as one wide rise.
    """
    pieces = straight(time, curve)
    change = pieces[-1] - pieces[0]
    if change == 0:
        return None
    done, spacing = (pieces - pieces[0]) / change, np.diff(time)
    steep = np.flatnonzero(np.diff(done) / spacing > STEEP / (time[-1] - time[0]))
    if not len(steep) or steep[0] == 0 or steep[-1] == len(spacing) - 1:
        return None
    low, middle, high = (_reached(time, done, share) for share in (0.1, 0.5, 0.9))
    return Rise(middle, high - low)


def straight(time: Float[np.ndarray, " checkpoint"], curve: Float[np.ndarray, " checkpoint"]) -> np.ndarray:
    """The curve as straight pieces, at the checkpoints."""
    scale = float(np.ptp(curve)) or 1.0
    share = (time - time[0]) / (time[-1] - time[0])
    signal = np.stack([curve / scale, share, np.ones(len(time))], axis=1)
    found = ruptures.Dynp(model="linear", min_size=LEAST, jump=1).fit(signal)
    best, fewest = curve, np.inf
    for pieces in range(1, min(PIECES, len(time) // LEAST) + 1):
        ends = found.predict(n_bkps=pieces - 1) if pieces > 1 else [len(time)]
        fitted = np.concatenate([_line(signal[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)])
        squares = ((signal[:, 0] - fitted) ** 2).sum() + 1e-12  # a straight curve leaves rounding only
        score = len(time) * np.log(squares / len(time)) + 3 * pieces * np.log(len(time))
        if score < fewest:
            best, fewest = fitted * scale, score
    return best


def _line(piece: np.ndarray) -> np.ndarray:
    found, *_ = np.linalg.lstsq(piece[:, 1:], piece[:, 0], rcond=None)
    return piece[:, 1:] @ found


def _reached(time: np.ndarray, done: np.ndarray, share: float) -> float:
    """Time at which a share of the change is first done."""
    at = int((done >= share).argmax())
    if at == 0:
        return float(time[0])
    return float(np.interp(share, done[at - 1 : at + 1], time[at - 1 : at + 1]))
