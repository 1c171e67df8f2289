"""Counts sign changes of heads' effects, and tests whether they cluster at ends of epochs.

A sign is known where the 95% interval of the mean over prompts excludes zero; a change lies halfway between two
successive known signs that differ. The number of changes within WINDOW steps of an epoch's end is compared with its
distribution when all changes of all runs are shifted together, circularly, by a random time, 1000 times. Heads that
change at the same time still do, and so do runs, which share their base model and prompts; only the relation to the
ends of epochs is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from .estimates import ROUNDING, quantile

WINDOW = 4.0
"""Steps."""
SHIFTS = 1000
SEED = 0


@dataclass(frozen=True)
class Reversals:
    """Sign changes near ends of epochs."""

    observed: int
    expected: float
    """Mean over circular shifts."""
    p: float
    """Share of shifts with at least as many; NaN without changes, or if no epoch ends within the run."""
    n: int
    """All changes."""


def reversals(steps: Sequence[int], values: Float[np.ndarray, "checkpoint place prompt"]) -> list[float]:
    """The middle step of each sign change, place by place.

    Args:
        values: effects in logits; NaN where a prompt has none.
    """
    count = (~np.isnan(values)).sum(axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.nansum(values, axis=2) / count
        error = np.sqrt(np.nansum((values - mean[..., None]) ** 2, axis=2) / (count - 1) / count)
        is_clear = np.abs(mean) > np.maximum(quantile(count - 1) * error, ROUNDING)
    found = []
    for place in range(mean.shape[1]):
        at = np.flatnonzero(is_clear[:, place])
        turns = np.flatnonzero(np.diff(np.sign(mean[at, place])) != 0)
        found += [(steps[at[turn]] + steps[at[turn + 1]]) / 2 for turn in turns]
    return found


def at_epoch_ends(changes: Sequence[Sequence[float]], ends: Sequence[float], first: float, last: float) -> Reversals:
    """Counts changes near the ends of epochs.

    Args:
        changes: the steps of the changes of each run.
        ends: the steps at which epochs end; those within the run count.
        first: the first checkpoint; `last`: the last one.
    """
    within = np.array([end for end in ends if first <= end <= last])
    own = np.array([change for one in changes for change in one])
    n, observed = len(own), _near(own, within)
    if not n or not len(within):
        return Reversals(observed, float("nan"), float("nan"), n)
    length = last - first
    shifts = np.random.default_rng(SEED).uniform(0, length, SHIFTS)
    shifted = np.array([_near(first + (own - first + shift) % length, within) for shift in shifts])
    return Reversals(observed, float(shifted.mean()), float((1 + (shifted >= observed).sum()) / (1 + SHIFTS)), n)


def _near(changes: np.ndarray, ends: np.ndarray) -> int:
    return int((np.abs(changes[:, None] - ends) <= WINDOW).any(axis=1).sum())
