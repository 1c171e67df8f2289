"""How each head comes to matter over the checkpoints, or ceases to.

Since when is asked of the gain in logits, for recovered is a share that a head may have from the start while the
difference itself grows. The onset is the first checkpoint at which the gain is beyond half of the last one, in the
simultaneous interval and at the next checkpoint as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from jaxtyping import Float

from .estimates import LEVEL, between_runs
from .families import Family, Place
from .verdicts import SEED, few, largest, seed_part

RESAMPLES = 500


class Course(Enum):
    """What a head did over the checkpoints."""

    FORMED = "formed"
    """It matters at the last checkpoint; at the first it was not shown to, and had less than half of its last gain."""
    GREW = "grew"
    """Likewise, but it mattered at the first as well."""
    FROM_THE_START = "from the start"
    """It matters at the last checkpoint, and its onset is the first."""
    MATTERS = "matters"
    """It matters at the last checkpoint; since when cannot be told."""
    CHANGED_SIGN = "changed sign"
    """It matters at the last checkpoint, and mattered the other way before."""
    LOST = "lost"
    """It mattered, and is small at the last checkpoint."""
    FADED = "undecided at the end"
    """It mattered; whether it does at the last checkpoint cannot be told."""
    UNDEFINED = "undefined at the end"
    """It mattered; at the last checkpoint the corruption makes no measurable difference."""
    NEVER = "never mattered"
    """It is small at every checkpoint that has a gap."""
    UNDECIDED = "undecided"
    """It mattered nowhere as far as can be told, and was not small everywhere."""


@dataclass(frozen=True)
class HeadCourse:
    """The course of one place of a family; mostly a head."""

    place: Place
    course: Course
    onset: int | None
    """Checkpoint (step); None where there is none."""
    onset_low: int | None
    """Ends of the onset's 95% interval, over prompts and runs."""
    onset_high: int | None
    """None: not by the last checkpoint."""
    last: int | None
    """The last checkpoint at which it mattered, of one that does no more; of one that changed sign, the other way."""
    peak: float
    """Recovered where it was largest, without regard to its sign, among the checkpoints at which it mattered."""


def courses(family: Family) -> list[HeadCourse]:
    """The course of every place of a family."""
    found, judged = family.estimate, family.judged
    recovered, verdict = family.grid(found.recovered), family.grid(judged.words)
    matters = verdict == "matters"
    onsets = _onsets(family, matters[-1])
    told = []
    for number, place in enumerate(family.places):
        own, course = matters[:, number], _course(recovered[:, number], verdict[:, number])
        onset: tuple[int | None, int | None, int | None] = (None, None, None)
        if course is Course.MATTERS and number in onsets:
            at, low, high, grew = onsets[number]
            if at == 0:
                course = Course.FROM_THE_START
            elif grew:
                course = Course.GREW if own[0] else Course.FORMED
            if course is not Course.MATTERS:
                onset = family.steps[at], _step(family, low), _step(family, high)
        other_way = own & (np.sign(recovered[:, number]) != np.sign(recovered[-1, number]))
        before = other_way if course is Course.CHANGED_SIGN else own if not own[-1] else np.zeros_like(own)
        last = family.steps[np.flatnonzero(before)[-1]] if before.any() else None
        there = np.where(own, recovered[:, number], 0.0)
        told.append(HeadCourse(place, course, *onset, last, float(there[np.argmax(np.abs(there))])))
    return told


def _course(recovered: Float[np.ndarray, " checkpoint"], verdict: np.ndarray) -> Course:
    """Without a look at the onset."""
    mattered = verdict == "matters"
    if mattered[-1]:
        other_way = np.sign(recovered[mattered]) != np.sign(recovered[-1])
        return Course.CHANGED_SIGN if other_way.any() else Course.MATTERS
    if mattered.any():
        return {"small": Course.LOST, "undefined": Course.UNDEFINED}.get(verdict[-1], Course.FADED)
    told = verdict[verdict != "undefined"]
    return Course.NEVER if len(told) and (told == "small").all() else Course.UNDECIDED


def _step(family: Family, number: float) -> int | None:
    return family.steps[int(number)] if number < len(family.steps) else None


def _onsets(family: Family, wanted: np.ndarray) -> dict[int, tuple[int, float, float, bool]]:
    """Of the wanted places that have one: the number of its checkpoint, both ends of its interval, and whether the gain
    was less than half of the last one at the first checkpoint."""
    if family.gain is None or not wanted.any() or len(family.steps) < 2:
        return {}
    found = family.estimate
    gain, influence = family.grid(found.gain), found.gain_influence.reshape(*family.grid(found.gain).shape, -1)
    of_run = found.gain_of_run.reshape(len(family.jobs), *gain.shape)
    sign = np.sign(gain[-1])
    # How far each place is beyond half of its last gain at every checkpoint, and how far it is from that at the first.
    contrasts = np.concatenate([sign * (gain - gain[-1] / 2), sign * (gain[-1:] / 2 - gain[:1])])
    spread = np.concatenate([influence - influence[-1] / 2, influence[-1:] / 2 - influence[:1]])
    between = np.concatenate([of_run - of_run[:, -1:] / 2, of_run[:, -1:] / 2 - of_run[:, :1]], axis=1)
    there = ~np.isnan(contrasts)
    n = found.n.reshape(gain.shape)
    n = np.concatenate([n, n[-1:]])
    rows = np.where(there[..., None], spread, 0.0).reshape(-1, spread.shape[-1])
    critical = largest(rows, np.where(there.ravel() & ~few(n.ravel()), n.ravel(), 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = (spread**2).sum(axis=-1) * n / (n - 1)
    extra = np.zeros_like(contrasts)
    if family.seeds:
        seeds, freedom = between_runs(between.reshape(len(family.jobs), -1), [job.cell for job in family.jobs])
        checkpoint = np.repeat(np.arange(len(contrasts)), contrasts.shape[1])
        extra = seed_part(seeds, freedom, checkpoint, critical).reshape(contrasts.shape)
    half = np.sqrt(critical**2 * variance + extra)
    beyond = contrasts > half
    told = {}
    for place in np.flatnonzero(wanted):
        onset = _first(beyond[None, :-1, place])[0]
        if onset < len(gain):
            of_prompts = family.gain.reshape(len(family.jobs), *gain.shape, -1)[:, :, place]
            low, high = _interval(of_prompts, half[:-1, place])
            told[int(place)] = int(onset), low, high, bool(beyond[-1, place])
    return told


def _first(beyond: np.ndarray) -> np.ndarray:
    """Of each row the first checkpoint that is beyond, as the next one is; the number of checkpoints where none is.

    What is beyond at the last checkpoint alone is not held.
    """
    held = beyond[:, :-1] & beyond[:, 1:]
    return np.where(held.any(axis=1), held.argmax(axis=1), beyond.shape[1])


def _interval(
    gain: Float[np.ndarray, "run checkpoint prompt"], half: Float[np.ndarray, " checkpoint"]
) -> tuple[float, float]:
    """Both ends of an onset's interval: the rule again on prompts and runs drawn with replacement."""
    random = np.random.default_rng(SEED)
    runs, _, prompts = gain.shape
    of_prompts = random.multinomial(prompts, np.full(prompts, 1 / prompts), RESAMPLES)
    of_runs = random.multinomial(runs, np.full(runs, 1 / runs), RESAMPLES)
    there = ~np.isnan(gain)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = np.einsum("scp,bp->bsc", np.nan_to_num(gain), of_prompts) / np.einsum("scp,bp->bsc", there, of_prompts)
        drawn = np.einsum("bsc,bs->bc", np.nan_to_num(means), of_runs) / runs
        onsets = _first(np.sign(drawn[:, -1:]) * (drawn - drawn[:, -1:] / 2) > half)
    low, high = np.quantile(onsets, (0.5 - LEVEL / 2, 0.5 + LEVEL / 2), method="nearest")
    return float(low), float(high)
