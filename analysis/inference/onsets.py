"""Onsets over the seeds of a setting; each is only known to lie between two checkpoints (interval-censored).

A head that matters at the first checkpoint began to at or before it, and one that never formed may form after the last.
So each run gives an interval, with no assumption about where in it the onset lies. The distribution over runs is
Turnbull's (1976, J. R. Stat. Soc. B 38), and a median's 95% interval is the sign test's, which assumes nothing about
the distribution. Five runs are too few for one: the chance that all five are on one side of the median is 6%.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from jaxtyping import Float
from scipy import stats

from .courses import Course, HeadCourse
from .estimates import LEVEL


def enough(heads: int = 1) -> int:
    """The fewest runs that can show a difference for some of so many heads with a 5% chance of any wrong answer: all on
    one side of the median, which happens by chance in 2 of 2^runs."""
    return math.ceil(math.log2(2 * heads / (1 - LEVEL)))


class When(Enum):
    """Whether the second group's onsets are earlier or later than the first's."""

    EARLIER = "earlier"
    LATER = "later"
    SAME = "same within one checkpoint"
    NEITHER = "neither forms"
    UNDECIDED = "cannot tell"


@dataclass(frozen=True)
class Onset:
    """An onset after checkpoint `after` and no later than checkpoint `by`, both as indices. From the start: after -∞,
    by 0. Never: after the last one, by ∞.
    """

    after: float
    by: float


Intervals = Sequence[Onset]


def onset(course: HeadCourse, steps: Sequence[int], other_prompts: bool = True) -> Onset:
    """The onset of a head of one run: when its gain passed half of the final one, as far as its course shows.

    Args:
        other_prompts: whether to use the onset's interval, which holds for other prompts, or the onset itself, which
            lies between two checkpoints on these prompts.
    """
    last = float(len(steps) - 1)
    if course.course is Course.FROM_THE_START:
        return Onset(-np.inf, 0.0)
    ends = (course.onset_low, course.onset_high) if other_prompts else (course.onset, course.onset)
    if course.course in (Course.FORMED, Course.GREW) and ends[0] is not None and ends[1] is not None:
        return Onset(steps.index(ends[0]) - 1.0, float(steps.index(ends[1])))
    if course.course is Course.NEVER:
        return Onset(last, np.inf)
    if course.course is Course.UNDECIDED:
        return Onset(-np.inf, np.inf)
    return Onset(-np.inf, last)  # it mattered, but its onset is unknown


def distribution(
    found: Intervals,
) -> tuple[Float[np.ndarray, " stretch"], Float[np.ndarray, " stretch"], Float[np.ndarray, " stretch"]]:
    """Turnbull's distribution, the most likely one: the intervals that have mass, in order, and how much.

    All mass is in the innermost intervals, each from the beginning of some interval to the next end. Expectation
    maximisation gives the amounts.
    """
    after, by = (np.array([getattr(one, name) for one in found], dtype=float) for name in ("after", "by"))
    starts, ends = np.unique(after), np.unique(by)
    inner = [
        (start, ends[ends > start][0])
        for start in starts
        if not ((starts > start) & (starts < ends[ends > start][0])).any()
    ]
    low, high = np.array(inner).T
    within = (low >= after[:, None]) & (high <= by[:, None])
    mass = np.full(len(low), 1 / len(low))
    for _ in range(2000):
        share = within * mass
        new = (share / share.sum(axis=1, keepdims=True)).mean(axis=0)
        if np.abs(new - mass).max() < 1e-10:
            break
        mass = new
    return low, high, mass


def median(found: Intervals) -> Onset:
    """The interval of Turnbull's distribution that contains the median; if it lies between two, from the first to the
    second."""
    low, high, mass = distribution(found)
    done = mass.cumsum()
    first, last = (int((done >= 0.5 - slack).argmax()) for slack in (1e-6, -1e-6))
    return Onset(float(low[first]), float(high[last]))


def interval(low: Sequence[float], high: Sequence[float], heads: int = 1) -> tuple[float, float]:
    """The 95% interval of a median over runs, where each run's value is only known to lie between its `low` and `high`;
    NaN with too few runs.

    The sign test: from the k-th smallest `low` to the k-th largest `high`, with k the largest for which fewer than k
    runs are on one side of the median with a chance of at most 2.5%.

    Args:
        heads: how many such intervals hold together with 95% (Bonferroni).
    """
    n = len(low)
    k = int(stats.binom.ppf((1 - LEVEL) / 2 / heads, n, 0.5))  # the least with as much as that at or below it
    if k < 1:
        return float("nan"), float("nan")
    return float(np.sort(low)[k - 1]), float(np.sort(high)[::-1][k - 1])


Span = tuple[float, float]
"""Indices of the first and last checkpoint at which it may have begun; between two where that is known."""


def span(found: Onset) -> Span:
    """An onset from the start counts as checkpoint 0, one that never came as one past the last."""
    return max(found.after + 1, 0.0), found.by


def forms(first: Sequence[Span], second: Sequence[Span]) -> bool:
    """Whether a head forms in some run under either of two corruptions, or may."""
    return any(one[1] < np.inf or one[0] <= 0 for one in (*first, *second))


def compare(first: Sequence[Span], second: Sequence[Span], heads: int = 1) -> tuple[When, float, float]:
    """Whether the second onset is earlier or later, with the interval of the median difference in checkpoints.

    Args:
        first: the onset in each run; `second` likewise, with the runs in the same order.
        heads: among how many heads compared this is one. The chance that the answer for any of them is wrong is at most
            5%; the interval is this head's alone.
    """
    if first and not forms(first, second):
        return When.NEITHER, float("nan"), float("nan")
    pairs = list(zip(first, second, strict=True))
    lows, highs = [two[0] - one[1] for one, two in pairs], [two[1] - one[0] for one, two in pairs]
    low, high = interval(lows, highs, heads)
    if np.isnan(low):
        answer = When.UNDECIDED
    elif low >= -1 and high <= 1:
        answer = When.SAME
    else:
        answer = When.LATER if low > 0 else When.EARLIER if high < 0 else When.UNDECIDED
    return answer, *interval(lows, highs)
