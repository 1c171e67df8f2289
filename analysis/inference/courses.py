"""How each head comes to matter over the checkpoints, or stops mattering.

Onsets use the gain in logits, because a head may recover the same fraction from the start while the gap itself grows.
The onset is the first checkpoint at which the gain exceeds half of the last one and still does at the next. Its
interval runs from the first checkpoint where simultaneous bounds for all places and checkpoints do not exclude this to
the first where they show it; if they never show it, there is no onset.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from jaxtyping import Bool, Float

from .estimates import between_runs
from .families import Family, Place
from .verdicts import critical_values, few, seed_part


class Course(Enum):
    """What a head did over the checkpoints."""

    FORMED = "formed"
    """It matters at the last checkpoint, was small at the first, and had less than half of its last gain there."""
    GREW = "grew"
    """It matters at the last checkpoint; at the first it was not small, but had less than half of its last gain."""
    FROM_THE_START = "from the start"
    """It matters at the first checkpoint and the last, is small at none, and always had more than half of its last
    gain."""
    MATTERS = "matters"
    """It matters at the last checkpoint; its onset is unknown."""
    CHANGED_SIGN = "changed sign"
    """It matters at the last checkpoint, and mattered with a gain of the opposite sign before."""
    LOST = "lost"
    """It mattered, is small at the last checkpoint, and has less than half of its largest gain left."""
    OUTGROWN = "outgrown"
    """It mattered and is small at the last checkpoint, but its gain is not shown to have shrunk: the gap has grown."""
    FADED = "undecided at the end"
    """It mattered; whether it does at the last checkpoint is undecided."""
    UNDEFINED = "undefined at the end"
    """It mattered; at the last checkpoint the corruption makes no measurable difference."""
    NEVER = "never mattered"
    """It is small at the first and the last checkpoint, and at every other one that has a gap."""
    UNDECIDED = "undecided"
    """It is not shown to matter anywhere, and not shown to be small everywhere."""


@dataclass(frozen=True)
class HeadCourse:
    """The course of one place of a family, usually a head."""

    place: Place
    course: Course
    onset: int | None
    """Checkpoint (step), or None."""
    onset_low: int | None
    """Ends of the onset's interval."""
    onset_high: int | None
    last: int | None
    """The last checkpoint at which it mattered, if it no longer does; for a sign change, the last one with the opposite
    sign."""
    peak: float
    """The recovered fraction with the largest absolute value among the checkpoints at which it mattered; for a sign
    change, among those with the opposite sign."""


@dataclass(frozen=True)
class _Halves:
    """How far the gain of each place is from half of another one: [checkpoint, place], in logits."""

    of_last: Float[np.ndarray, "checkpoint place"]
    """How far the gain is beyond half of the last one."""
    half: Float[np.ndarray, "checkpoint place"]
    """Half-widths of its simultaneous intervals."""
    is_less: Bool[np.ndarray, " place"]
    """Whether the last gain is shown to be less than half of the largest one at which the place mattered."""


def courses(family: Family) -> list[HeadCourse]:
    """The course of every place of a family."""
    found = family.estimate
    recovered, gain, verdict = family.grid(found.recovered), family.grid(found.gain), family.grid(family.judged.words)
    matters = verdict == "matters"
    halves = _halves(family, matters) if matters.any() else None
    of_places = []
    for number, place in enumerate(family.places):
        own = matters[:, number]
        sign = np.sign(recovered[:, number])
        other_way = own & (sign != sign[-1]) & (np.sign(gain[:, number]) != np.sign(gain[-1, number]))
        course, onset = _course(number, verdict[:, number], other_way, halves)
        before = other_way if course is Course.CHANGED_SIGN else own if not own[-1] else np.zeros_like(own)
        last = family.steps[np.flatnonzero(before)[-1]] if before.any() else None
        there = np.where(before if before.any() else own, recovered[:, number], 0.0)
        peak = float(there[np.argmax(np.abs(there))])
        at, low, high = (None if step is None else family.steps[step] for step in onset)
        of_places.append(HeadCourse(place, course, at, low, high, last, peak))
    return of_places


Onset = tuple[int | None, int | None, int | None]
"""The index of its checkpoint and of both ends of its interval."""


def _course(number: int, verdict: np.ndarray, other_way: np.ndarray, halves: _Halves | None) -> tuple[Course, Onset]:
    none: Onset = (None, None, None)
    mattered = verdict == "matters"
    if not mattered.any():
        # Where the first or the last checkpoint has no gap, it may have mattered before or may matter later.
        small = verdict == "small"
        never = small[0] and small[-1] and (small | (verdict == "undefined")).all()
        return Course.NEVER if never else Course.UNDECIDED, none
    if not mattered[-1]:
        if verdict[-1] == "small":
            return Course.LOST if halves is not None and halves.is_less[number] else Course.OUTGROWN, none
        return Course.UNDEFINED if verdict[-1] == "undefined" else Course.FADED, none
    if other_way.any():
        return Course.CHANGED_SIGN, none
    if halves is None or len(verdict) < 2:
        return Course.MATTERS, none
    beyond, half = halves.of_last[:, number], halves.half[:, number]
    at, low, high = (_first(values) for values in (beyond > 0, beyond > -half, beyond > half))
    if at is None or high is None or (beyond[high:] < -half[high:]).any():  # or the effect comes and goes
        return Course.MATTERS, none
    if high == 0:
        # A gain that stayed the same need not have mattered: the gap may have been larger, or not measurable.
        since = verdict[0] == "matters" and not (verdict == "small").any()
        return (Course.FROM_THE_START, (0, 0, 0)) if since else (Course.MATTERS, none)
    if beyond[0] >= -half[0]:
        return Course.MATTERS, none
    return Course.FORMED if verdict[0] == "small" else Course.GREW, (at, low, high)


def _first(is_so: Bool[np.ndarray, " checkpoint"]) -> int | None:
    """The first checkpoint at which it holds and still holds at the next; the last checkpoint alone does not count."""
    held = is_so[:-1] & is_so[1:]
    return int(held.argmax()) if held.any() else None


def _halves(family: Family, matters: Bool[np.ndarray, "checkpoint place"]) -> _Halves | None:
    """None if tables lack values by prompt."""
    if family.gain is None:
        return None
    found = family.estimate
    gain = family.grid(found.gain)
    influence = found.gain_influence.reshape(*gain.shape, -1)
    of_run = found.gain_of_run.reshape(len(family.jobs), *gain.shape)
    place = np.arange(gain.shape[1])
    peak = np.where(matters, np.abs(gain), -1.0).argmax(axis=0)
    last, largest_gain = np.sign(gain[-1]), np.sign(gain[peak, place])
    # Compares each checkpoint with half of the last one, and finally the last one with half of the largest.
    contrasts = np.concatenate([last * (gain - gain[-1] / 2), largest_gain * (gain[-1:] - gain[peak, place] / 2)])
    spread = np.concatenate([influence - influence[-1] / 2, influence[-1:] - influence[peak, place] / 2])
    between = np.concatenate(
        [of_run - of_run[:, -1:] / 2, of_run[:, -1:] - of_run[:, peak, place][:, None] / 2], axis=1
    )
    n = found.n.reshape(gain.shape)
    n = np.concatenate([n, n[-1:]])
    there = ~np.isnan(contrasts)
    rows = np.where(there[..., None], spread, 0.0).reshape(-1, spread.shape[-1])
    critical = critical_values(rows, np.where(there.ravel() & ~few(n.ravel()), n.ravel(), 0))
    extra = np.zeros_like(contrasts)
    if family.seeds:
        seeds, freedom = between_runs(between.reshape(len(family.jobs), -1), [job.setting for job in family.jobs])
        checkpoint = np.repeat(np.arange(len(contrasts)), contrasts.shape[1])
        extra = seed_part(seeds, freedom, checkpoint, critical).reshape(contrasts.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = (spread**2).sum(axis=-1) * n / (n - 1)
        half = np.sqrt(critical.reshape(variance.shape) ** 2 * variance + extra)
        return _Halves(contrasts[:-1], half[:-1], contrasts[-1] < -half[-1])
