"""Measures of how well runs agree on which heads matter, each with an interval, a value expected by chance and an
answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from jaxtyping import Float

from ..inference.estimates import ROUNDING
from ..inference.verdicts import AGREE_ABOVE, DISAGREE_BELOW
from .designs import (
    ENOUGH,
    Design,
    bootstrap_variance,
    interval,
    jackknife_variance,
    mean,
    mean_of_runs,
    ratio,
)
from .halves import Between, halves
from .members import chance
from .moments import agreement_parts, correlation, heads_differ, moments, reliability

SIZES = (1, 3, 5, 10, 20)
"""Sizes k of the top-k sets that are compared; those above half of the heads are left out."""


class Answer(Enum):
    """Possible answers on the agreement of runs."""

    AGREE = "agree"
    """The interval lies above AGREE_ABOVE times the ceiling."""
    DISAGREE = "disagree"
    """The interval lies below DISAGREE_BELOW times the ceiling."""
    CANNOT_TELL = "cannot tell"
    """Neither holds, or there are fewer than ENOUGH seeds."""
    IDENTICAL = "identical"
    """All runs are the same model, as before the first step, which says nothing about training."""
    UNDEFINED = "undefined"
    """In some run no head differs from the others, so there is nothing to agree on."""


@dataclass(frozen=True)
class Agreement:
    """One measure over pairs of runs, with 95% intervals for other prompts and other runs. NaN: not defined."""

    measure: str
    """`correlation`, `icc` and `reliability` are corrected for the noise of prompts; `rank` and `jaccard`, between
    disjoint halves of the prompts, are not."""
    k: int | None
    """The size of the sets; for `jaccard` only."""
    value: float
    low: float
    high: float
    ceiling: float
    """The value for identical effects: 1, or the value between the halves of one run."""
    of_ceiling: float
    """Value divided by ceiling, pair by pair."""
    of_ceiling_low: float
    of_ceiling_high: float
    expected: float
    """The value expected by chance."""
    p: float
    """Probability of this value or more by chance; for `jaccard` only."""
    answer: Answer | None
    """None for `reliability`, which compares no runs."""


def agreements(gain: Float[np.ndarray, "run head prompt"], design: Design) -> list[Agreement]:
    """All measures of some runs at one site and checkpoint.

    Args:
        gain: patched - corrupted (logits); NaN where a run lacks a prompt.
    """
    heads, prompts = gain.shape[1:]
    if heads < 3 or prompts < 4 or not design.pairs.any():
        return []
    differ = bool(heads_differ(gain).all())
    found = moments(gain)
    every = gain[:, :, ~np.isnan(gain).any(axis=(0, 1))]  # prompts that all runs have
    same = every.shape[2] > 0 and bool((np.ptp(every, axis=0) < ROUNDING).all())
    rows = []
    for name, statistic in (("correlation", mean(correlation(found))), ("icc", ratio(*agreement_parts(found)))):
        value, low, high = interval(statistic, design, prompts, bootstrap_variance) if differ else (float("nan"),) * 3
        rows.append(_row(name, None, (value, low, high), 1.0, (value, low, high), design, differ))
    own = interval(mean_of_runs(reliability(found)), design, prompts, bootstrap_variance)
    rows.append(_row("reliability", None, own, 1.0, own, design, differ, answered=False))
    sizes = [k for k in SIZES if k <= heads / 2]
    compared = halves(gain, sizes)
    rows.append(_between("rank", None, compared.rank, design, prompts, differ, 0.0, float("nan")))
    for k in sizes:
        value = float(mean(compared.jaccard[k])(design.pairs)[0])
        expected, p = chance(heads, k, len(gain), value)
        if not design.pairs[np.triu_indices(len(gain), 1)].all():
            p = float("nan")  # the null is for all pairs together
        rows.append(_between("jaccard", k, compared.jaccard[k], design, prompts, differ, expected, p))
    return [replace(row, answer=row.answer and Answer.IDENTICAL) for row in rows] if same else rows


def _between(
    name: str, k: int | None, values: Between, design: Design, prompts: int, differ: bool, expected: float, p: float
) -> Agreement:
    """A measure between halves, whose ceiling is the value between halves of the same run. If the ceiling is not above
    chance, the answer is `cannot tell`."""
    own = np.diagonal(values, axis1=1, axis2=2)
    ceiling, low, _ = interval(mean_of_runs(own), design, prompts, jackknife_variance)
    both = (own[:, :, None], own[:, None])
    with np.errstate(invalid="ignore", divide="ignore"):
        share = values / np.sqrt(both[0] * both[1])
    share = np.where(np.isfinite(share), share, np.nan)
    found = interval(mean(values), design, prompts, jackknife_variance)
    differ = differ and low > expected
    nothing = (float("nan"),) * 3
    of_ceiling = interval(mean(share), design, prompts, jackknife_variance) if differ else nothing
    return _row(name, k, found, ceiling, of_ceiling, design, differ, expected=expected, p=p)


def _row(
    name: str, k: int | None, found: tuple[float, float, float], ceiling: float,
    of_ceiling: tuple[float, float, float], design: Design, differ: bool, *, expected: float = 0.0,
    p: float = float("nan"), answered: bool = True,
) -> Agreement:  # fmt: skip
    _, low, high = of_ceiling
    answer = None
    if not answered:
        pass
    elif not differ:
        answer = Answer.UNDEFINED
    elif design.units < ENOUGH or np.isnan(low):
        answer = Answer.CANNOT_TELL
    else:
        answer = Answer.AGREE if low > AGREE_ABOVE else Answer.DISAGREE if high < DISAGREE_BELOW else Answer.CANNOT_TELL
    return Agreement(name, k, *found, ceiling, *of_ceiling, expected, p, answer)
