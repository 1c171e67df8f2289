"""Verdicts on circuits: faithful, complete, minimal.

With m(C) the mean logit difference when everything outside a set C of nodes is ablated, and M the whole model,

    F(C) = (m(C) - m(nothing)) / (m(M) - m(nothing))

is a ratio of means over prompts like recovered, and has its intervals (`estimates`). It is not clipped, and undefined
if its denominator is not distinguishable from zero. A circuit is

- faithful if F(C) is within FAITHFUL of 1 (Wang et al. 2022, arXiv:2211.00593, call a circuit faithful at 0.87);
- complete if |F(C without K) - F(M without K)| is below FAITHFUL for every K that was tried, simultaneously;
- minimal if for every member |F(C without K) - F(C without K and the member)| is above MINIMAL for some K that was
  tried.

All three are simultaneous: the chance that any verdict of a family is wrong is 5%. CPR and CMD are the areas of F and
of |1 - F| over the share of nodes that is kept, by trapezoids from the smallest share to the largest, as in the MIB
track (Mueller et al. 2025, arXiv:2504.13151).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import numpy as np
from jaxtyping import Float, Int

from .estimates import Estimate, Places, estimate, fieller
from .verdicts import critical_values, few, seed_part

FAITHFUL = 0.2
"""Tolerance for F around 1, and for F(C without K) around F(M without K)."""

MINIMAL = 0.01
"""Smallest change of F that a member must make, for some K."""

Values = Float[np.ndarray, "run place prompt"]
"""m of each prompt, in logits; NaN where a run or a prompt has none."""


class Faithful(Enum):
    """Verdicts on F(C)."""

    FAITHFUL = "faithful"
    NOT = "not faithful"
    UNDECIDED = "undecided"
    UNDEFINED = "undefined"
    """The whole model does no better or worse than with everything ablated."""


class Complete(Enum):
    """Verdicts on all K together."""

    COMPLETE = "complete"
    NOT = "not complete"
    UNDECIDED = "undecided"
    UNDEFINED = "undefined"


class Needed(Enum):
    """Verdicts on a member."""

    NEEDED = "needed"
    NOT = "not needed"
    """For the K that were tried."""
    UNDECIDED = "undecided"
    UNDEFINED = "undefined"


class Minimal(Enum):
    """Verdicts on all members together."""

    MINIMAL = "minimal"
    NOT = "not minimal"
    UNDECIDED = "undecided"
    UNDEFINED = "undefined"


def faithfulness(m: Values, nothing: Values, whole: Values, settings: Sequence[object] | None = None) -> Estimate:
    """F at each place, over runs and prompts; `recovered` of the estimate.

    Args:
        settings: as for `estimate`.
    """
    return estimate(m - nothing, whole - nothing, settings)


def simultaneous(found: Estimate, checkpoint: Int[np.ndarray, " place"]) -> tuple[Places, Places]:
    """Simultaneous interval of F at all places: for other prompts, and for other seeds if the runs allow it.

    Args:
        checkpoint: the checkpoint of each place, as any number.
    """
    n = np.where(few(found.n), 0, found.n)
    critical = critical_values(np.nan_to_num(found.influence, posinf=0.0, neginf=0.0), n)
    extra: Places | float = 0.0
    if found.has_seeds:
        extra = seed_part(found.seed_variance, found.seed_freedom, checkpoint, critical)
    low, high = fieller(found, critical, extra, 1.0)
    return np.where(few(found.n), np.nan, low), np.where(few(found.n), np.nan, high)


def faithful(found: Estimate, low: Places, high: Places) -> list[Faithful]:
    """A verdict on each place.

    Args:
        low: the lower ends of `simultaneous` intervals.
        high: the upper ones.
    """
    with np.errstate(invalid="ignore"):
        inside = (low > 1 - FAITHFUL) & (high < 1 + FAITHFUL)
        outside = (high < 1 - FAITHFUL) | (low > 1 + FAITHFUL)
    verdict = np.full(len(low), Faithful.UNDECIDED, object)
    for place, kind in ((outside, Faithful.NOT), (inside, Faithful.FAITHFUL), (~found.has_gap, Faithful.UNDEFINED)):
        verdict[place] = kind
    return list(verdict)


def complete(found: Estimate, low: Places, high: Places) -> Complete:
    """Judge a circuit's completeness from F(C without K) - F(M without K) for every K."""
    if not len(low) or not found.has_gap.all():
        return Complete.UNDEFINED
    with np.errstate(invalid="ignore"):
        if ((low > FAITHFUL) | (high < -FAITHFUL)).any():
            return Complete.NOT
        return Complete.COMPLETE if ((low > -FAITHFUL) & (high < FAITHFUL)).all() else Complete.UNDECIDED


def needed(found: Estimate, low: Places, high: Places) -> Needed:
    """Judge a member from F(C without K) - F(C without K and member) for every K."""
    if not found.has_gap.all():
        return Needed.UNDEFINED
    with np.errstate(invalid="ignore"):
        if ((low > MINIMAL) | (high < -MINIMAL)).any():
            return Needed.NEEDED
        return Needed.NOT if ((low > -MINIMAL) & (high < MINIMAL)).all() else Needed.UNDECIDED


def minimal(members: Sequence[Needed]) -> Minimal:
    """Judge a circuit's minimality from its members; a circuit without members is not judged."""
    if not members or Needed.UNDEFINED in members:
        return Minimal.UNDEFINED
    if Needed.NOT in members:
        return Minimal.NOT
    return Minimal.UNDECIDED if Needed.UNDECIDED in members else Minimal.MINIMAL


def cpr(sizes: Float[np.ndarray, " size"], m: Values, nothing: Values, whole: Values) -> Estimate:
    """The area of F over the share of nodes; one place.

    Args:
        sizes: shares of the nodes, ascending: one for each place of `m`.
        nothing: one place.
        whole: one place.
    """
    weights = trapezoid(sizes)[:, None]
    gap = whole - nothing
    # The area is linear in F, hence a ratio to the same gap.
    return estimate(((m - nothing) * weights).sum(axis=1, keepdims=True), gap)


def cmd(sizes: Float[np.ndarray, " size"], m: Values, nothing: Values, whole: Values) -> Estimate:
    """The area of |1 - F|; otherwise as `cpr`.

    Each 1 - F keeps its observed sign. Where F is close to 1 relative to its error, the area is biased upwards, which
    the interval does not reflect.
    """
    gap = whole - nothing
    short = gap - (m - nothing)
    with np.errstate(divide="ignore", invalid="ignore"):
        sign = np.sign(np.nanmean(short, axis=2, keepdims=True) / np.nanmean(gap, axis=2, keepdims=True))
    weights = trapezoid(sizes)[:, None]
    return estimate((short * sign * weights).sum(axis=1, keepdims=True), gap)


def trapezoid(sizes: Float[np.ndarray, " size"]) -> Float[np.ndarray, " size"]:
    """Weight of each value in the area: half the distance between its neighbours."""
    between = np.diff(sizes)
    return (np.concatenate([[0.0], between]) + np.concatenate([between, [0.0]])) / 2
