"""Tests whether training transforms the heads that mattered before, or adds others.

Between checkpoints A and B each head is kept, strengthened, weakened, gained, lost or reversed, according to
simultaneous verdicts on all heads at both checkpoints and simultaneous intervals of the change in its gain (logits).
Then

    T = sum of |gain in B| over heads that matter in both, with the same sign / sum of |gain in B| over all that matter
    in B

is a ratio of means over runs and prompts, like recovered, with the same interval (Fieller's, `estimates`). The interval
also covers undecided heads: its low end counts heads that are undecided in A or B as new, its high end as kept. The
answer is `transformed` only if the low end is above 0.8, and `added` only if the high end is below 0.5. T covers only
heads that matter individually, not the joint effect of many small ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from jaxtyping import Bool, Float

from ..prompts import Site
from .estimates import between_runs, estimate, interval
from .families import Family, PatchJob, family
from .verdicts import critical_values, few, seed_part

TRANSFORMED, ADDED = 0.8, 0.5
"""Thresholds of T for the two answers."""

SITE = "z"
"""The patched site."""


class Change(Enum):
    """How a head changed between two checkpoints."""

    KEPT = "kept"
    """It matters in both with the same sign, and its gain is not shown to have changed."""
    STRENGTHENED = "strengthened"
    """It matters in both with the same sign, and its gain is larger in the second."""
    WEAKENED = "weakened"
    """It matters in both with the same sign, and its gain is smaller in the second."""
    GAINED = "gained"
    """It is small in the first and matters in the second, where its gain is larger."""
    LOST = "lost"
    """It matters in the first and is small in the second, where its gain is smaller."""
    REVERSED = "reversed"
    """It matters in both, with gains of opposite signs."""
    LEFT_OVER = "left over"
    """It is small in the first and matters in the second, but its gain is not shown to be larger: the gap has
    shrunk."""
    OUTGROWN = "outgrown"
    """It matters in the first and is small in the second, but its gain is not shown to be smaller: the gap has
    grown."""
    NEITHER = "matters in neither"
    UNDECIDED = "undecided"
    UNDEFINED = "undefined"
    """At one of the checkpoints the corruption makes no measurable difference."""


class Answer(Enum):
    """The answers that T can give."""

    TRANSFORMED = "transformed"
    ADDED = "added"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Transformation:
    """How the heads of some runs changed between two checkpoints."""

    family: Family
    """At these two checkpoints alone."""
    changes: tuple[Change, ...]
    """One for each place of the family."""
    value: float
    """T; NaN if no head matters in the second checkpoint, or if it is undecided whether one that does mattered
    before."""
    low: float
    """The ends of its interval (`low` and `high`); NaN if no head matters in the second checkpoint."""
    high: float
    answer: Answer
    why: str
    """The reason for `cannot tell`, or for `transformed` where no change is shown."""
    undecided: tuple[str, ...]
    """Heads that may be kept or new, which widens the interval."""

    def named(self, *changes: Change) -> list[str]:
        """The heads with that change."""
        return _names(self.family, [own in changes for own in self.changes])

    @property
    def kept(self) -> list[str]:
        """Heads that matter in both with the same sign."""
        return self.named(Change.KEPT, Change.STRENGTHENED, Change.WEAKENED)

    @property
    def sentence(self) -> str:
        """The answer as a sentence, with its scope."""
        first, last = self.family.steps
        between = f"Between checkpoints {first} and {last}"
        if np.isnan(self.low):
            return f"{between}: cannot tell whether heads were transformed or added ({self.why})."
        scope = "other prompts and other seeds" if self.family.seeds else "other prompts in these runs"
        share = f"{'' if np.isnan(self.value) else f'{self.value:.2f} '}[{self.low:.2f}, {self.high:.2f}]"
        statement = f"{between}, heads that mattered before have {share} of the gain of all that matter after ({scope})"
        return f"{statement}: {self.answer.value}{f' ({self.why})' if self.why else ''}."


def between(jobs: Sequence[PatchJob], first: int, last: int) -> Transformation:
    """How heads changed from one checkpoint to another.

    Args:
        jobs: patch jobs of a group of runs, all with values by prompt for heads at both checkpoints.
    """
    steps = (first, last)
    cut = [replace(job, sites={SITE: _at(job.sites[SITE], steps)}, attribution={}) for job in jobs]
    return transformation(family(SITE, cut))


def _at(site: Site, steps: tuple[int, int]) -> Site:
    rows = [site.steps.index(step) for step in steps]
    parts = {name: getattr(site, name)[rows] for name in ("clean", "corrupted", "gain", "gap", "n")}
    patched = None if site.patched is None else site.patched[rows]
    return replace(site, steps=steps, patched=patched, **parts)


def transformation(both: Family) -> Transformation:
    """How the heads of a family changed, which has two checkpoints and values by prompt."""
    assert both.gain is not None and len(both.steps) == 2
    before, after = both.grid(both.judged.words)
    recovered, gain = both.grid(both.estimate.recovered), both.grid(both.estimate.gain)
    more, less = _changed(both)
    changes = tuple(
        _change(one, other, bool(same), bool(opposite), bool(up), bool(down))
        for one, other, same, opposite, up, down in zip(
            before, after, np.sign(recovered[0]) == np.sign(recovered[1]),
            (np.sign(recovered[0]) != np.sign(recovered[1])) & (np.sign(gain[0]) != np.sign(gain[1])), more, less,
            strict=True,
        )
    )  # fmt: skip
    value, low, high, unknown, why = _index(both, changes)
    answer = Answer.CANNOT_TELL
    if low > TRANSFORMED:
        answer, why = Answer.TRANSFORMED, "" if _any_changed(changes) else "none of them is shown to have changed"
    elif high < ADDED:
        answer, why = Answer.ADDED, ""
    return Transformation(both, changes, value, low, high, answer, why, tuple(_names(both, unknown)))


def _any_changed(changes: Sequence[Change]) -> bool:
    return any(
        one in (Change.STRENGTHENED, Change.WEAKENED, Change.REVERSED, Change.GAINED, Change.LOST) for one in changes
    )


def _names(both: Family, chosen: Sequence[bool] | Bool[np.ndarray, " place"]) -> list[str]:
    return [f"{place[0]}.{place[1]}" for place, own in zip(both.places, chosen, strict=True) if own]


def _change(before: str, after: str, same: bool, opposite: bool, more: bool, less: bool) -> Change:
    if "undefined" in (before, after):
        return Change.UNDEFINED
    if before == after == "matters":
        if opposite:
            return Change.REVERSED
        kept = Change.STRENGTHENED if more else Change.WEAKENED if less else Change.KEPT
        return kept if same else Change.UNDECIDED  # The gap itself has changed sign.
    if before == "small" and after == "matters":
        return Change.GAINED if more else Change.LEFT_OVER
    if before == "matters" and after == "small":
        return Change.LOST if less else Change.OUTGROWN
    return Change.NEITHER if before == after == "small" else Change.UNDECIDED


def _changed(both: Family) -> tuple[Bool[np.ndarray, " place"], Bool[np.ndarray, " place"]]:
    """Whether each gain is shown to be larger or smaller at the second checkpoint. Its sign is taken from the
    checkpoint where its size is larger. The intervals of the difference (logits) are simultaneous, and paired by prompt
    and run."""
    found, size = both.estimate, len(both.places)
    gain = both.grid(found.gain)
    sign = np.sign(gain[np.abs(gain).argmax(axis=0), np.arange(size)])
    influence = found.gain_influence.reshape(2, size, -1)
    spread = np.nan_to_num(influence[1] - influence[0])
    change = sign * (gain[1] - gain[0])
    n = found.n.reshape(2, size).min(axis=0)
    critical = critical_values(spread, np.where(np.isnan(change) | few(n), 0, n))
    extra = np.zeros(size)
    if both.seeds:
        of_run = found.gain_of_run.reshape(len(both.jobs), 2, size)
        variance, freedom = between_runs(of_run[:, 1] - of_run[:, 0], [job.setting for job in both.jobs])
        extra = seed_part(variance, freedom, np.zeros(size, dtype=int), critical)
    with np.errstate(divide="ignore", invalid="ignore"):
        half = np.sqrt(critical**2 * (spread**2).sum(axis=1) * n / (n - 1) + extra)
        return change > half, change < -half


def _index(both: Family, changes: Sequence[Change]) -> tuple[float, float, float, Bool[np.ndarray, " place"], str]:
    """T, both ends of its interval, the heads that may be kept or new, and the reason if there is no answer."""
    before, after = both.grid(both.judged.words)
    recovered = both.grid(both.estimate.recovered)
    matters = after == "matters"
    kept = matters & (before == "matters") & (np.sign(recovered[0]) == np.sign(recovered[1]))
    # Heads that matter in the second and are undecided in the first, and heads that are undecided in the second.
    unsure = matters & np.array([change in (Change.UNDECIDED, Change.UNDEFINED) for change in changes])
    later = after == "undecided"
    unknown = unsure | later
    if not matters.any():
        gap = (after == "undefined").all()
        why = _no_gap(both, both.steps[1]) if gap else "no head is shown to matter"
        return float("nan"), float("nan"), float("nan"), unknown, why
    # If it is unknown whether a head that matters is new, T is unknown too, but its bounds are not.
    value = float("nan") if unsure.any() else _ratio(both, kept, matters)[0]
    # The lowest end: heads that may matter in the second and may not have mattered before count as new.
    _, low, _ = _ratio(both, kept, matters | (later & (before != "matters")))
    # The highest end: heads that may have mattered before count as kept.
    old = later & (before != "small")
    _, _, high = _ratio(both, kept | unsure | old, matters | old)
    if np.isnan(low) or np.isnan(high):
        return value, 0.0, 1.0, unknown, "the gain of the heads that matter may be zero"
    why = ""
    if (before == "undefined").all():
        why = _no_gap(both, both.steps[0])
    elif unknown.any():
        why = f"undecided: {' '.join(_names(both, unknown))}"
    return value, max(low, 0.0), min(high, 1.0), unknown, why


def _no_gap(both: Family, step: int) -> str:
    """Where no head is defined: a group has no gap as soon as one of its runs has none."""
    where = f" in at least one of the {len(both.jobs)} runs" if len(both.jobs) > 1 else ""
    return f"no measurable gap at checkpoint {step}{where}"


def _ratio(
    both: Family, above: Bool[np.ndarray, " place"], below: Bool[np.ndarray, " place"]
) -> tuple[float, float, float]:
    """The summed gains of some heads at the second checkpoint as a share of those of other heads, with its interval."""
    assert both.gain is not None
    of_second: Float[np.ndarray, "run place prompt"] = both.gain[:, both.at(both.steps[1])]
    signed = np.sign(both.estimate.gain[both.at(both.steps[1])])[:, None] * of_second
    # A prompt that a run lacks has no gain for any head.
    absent = np.isnan(signed).all(axis=1, keepdims=True)
    parts = [np.where(absent, np.nan, np.nansum(signed[:, chosen], axis=1, keepdims=True)) for chosen in (above, below)]
    found = estimate(parts[0], parts[1], [job.setting for job in both.jobs])
    low, high = interval(found, seeds=both.seeds)
    return float(found.recovered[0]), float(low[0]), float(high[0])
