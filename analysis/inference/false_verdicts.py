"""How often a family has a wrong verdict: `python -m mi_sweeps.analysis.planted verdicts`.

Every place recovers exactly DELTA, so that `matters` and `small` are both wrong. What prompts add to that has a planted
distribution, or it is what the heads of an output folder have: its prompts are then all that there are, so patch many.
Where it has tables of attention, changes of attention are drawn too, whose mean over all prompts is taken away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from .. import looks
from ..frames import load
from .estimates import estimate, interval
from .families import Family
from .means import mean
from .tables import of_frames
from .verdicts import DELTA, MATTERS, SMALL, critical_values_of, judge

PROMPTS = (12, 48, 240)
TOLERANCE = 0.005
"""A tenth of DELTA. A place that a few of 100 prompts change may look unchanged in a sample."""
PLACES = 100
Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

SHAPES: dict[str, Draw] = {
    "normal": lambda random, shape: random.standard_normal(shape),
    "skewness -1": lambda random, shape: (4 - random.gamma(4, size=shape)) / 2,
    "skewness -2": lambda random, shape: 1 - random.exponential(size=shape),
    "Student's t, 5 degrees of freedom": lambda random, shape: random.standard_t(5, size=shape),
}


@dataclass(frozen=True)
class Outcome:
    """What is said of places whose truth is known."""

    wrong: bool
    """Whether anything wrong is said of any place."""
    far: bool
    """Whether it is wrong by more than TOLERANCE."""
    inside: Bool[np.ndarray, " place"]
    """Where the place's own 95% interval does not exclude the truth."""


def of_gains(gain: Float[np.ndarray, "run place prompt"], gap: Float[np.ndarray, "run place prompt"]) -> Outcome:
    """Verdicts on places whose recovered is DELTA."""
    found = estimate(gain, gap)
    judged = judge(found, critical_values_of(found), np.zeros(len(found.n), int), seeds=False)
    low, high = interval(found, seeds=False)
    far = (judged.low > DELTA + TOLERANCE) | (judged.high < DELTA - TOLERANCE)
    wrong = np.isin(judged.verdict, (MATTERS, SMALL))
    return Outcome(bool(wrong.any()), bool(far.any()), ~((low > DELTA) | (high < DELTA)))


def of_changes(change: Float[np.ndarray, "place prompt"]) -> Outcome:
    """Answers on places whose mean change of attention is zero."""
    found = mean(change[None], np.zeros(len(change), int))
    wrong, far = ((found.lowest > most) | (found.highest < -most) for most in (0.0, TOLERANCE))
    return Outcome(bool(wrong.any()), bool(far.any()), ~((found.low > 0) | (found.high < 0)))


def simulations(draws: int, output: str | None = None) -> Iterator[str]:
    """By number of prompts: how often a family has a wrong verdict, and one that is wrong by more than TOLERANCE, and
    how often a place's own interval holds the truth (the mean, and the lowest of any place)."""
    if output is None:
        for name, draw in SHAPES.items():
            yield from _lines(f"{PLACES} unrelated heads, {name}, prompts", draws, partial(_planted, draw))
        return
    frames = load(Path(output))
    for (setting, patching, corruption), family in of_frames(frames):
        has_other_prompts = any(job.prompts != family.jobs[0].prompts for job in family.jobs)
        if family.site == "z" and family.gain is not None and not has_other_prompts:
            gap = _gaps(family)
            gain = family.gain - (family.estimate.of_run - DELTA)[..., None] * gap
            what = f"{setting}, {corruption}, {patching}, {gain.shape[1]} places, prompts of {gain.shape[2]}"
            yield from _lines(what, draws, partial(_drawn_gains, gain, gap))
    for patch in frames.output.patches if frames.output else ():
        steps = looks.read(patch)
        if len(steps) > 1:
            change = _changes(steps)
            what = f"{patch.corruption}, attention from the end, {len(change)} places, prompts of {change.shape[1]}"
            yield from _lines(what, draws, partial(_drawn_changes, change))


def _lines(what: str, draws: int, draw: Callable[[np.random.Generator, int], Outcome]) -> Iterator[str]:
    for prompts in PROMPTS:
        random = np.random.default_rng(prompts)
        outcomes = [draw(random, prompts) for _ in range(draws)]
        wrong, far = np.mean([(one.wrong, one.far) for one in outcomes], axis=0)
        covered = np.mean([one.inside for one in outcomes], axis=0)
        yield (
            f"{what}: {prompts}: wrong {wrong:.3f}, by more than {TOLERANCE} {far:.3f}; "
            f"intervals hold {covered.mean():.3f}, at least {covered.min():.3f}"
        )


def _planted(draw: Draw, random: np.random.Generator, prompts: int) -> Outcome:
    shape = (1, PLACES, prompts)
    return of_gains(DELTA + 0.05 * draw(random, shape), np.ones(shape))


def _drawn_gains(gain: np.ndarray, gap: np.ndarray, random: np.random.Generator, prompts: int) -> Outcome:
    at = random.integers(0, gain.shape[2], prompts)
    return of_gains(gain[..., at], gap[..., at])


def _drawn_changes(change: np.ndarray, random: np.random.Generator, prompts: int) -> Outcome:
    return of_changes(change[:, random.integers(0, change.shape[1], prompts)])


def _gaps(family: Family) -> Float[np.ndarray, "run place prompt"]:
    sites = [job.sites[family.site] for job in family.jobs]
    gaps = np.stack([(one.clean - one.corrupted)[np.isin(one.steps, family.steps)] for one in sites])
    return gaps.repeat(len(family.places), axis=1)


def _changes(steps: Mapping[int, looks.RoleAttention]) -> Float[np.ndarray, "place prompt"]:
    """Changes of attention from the end of clean prompts between the first and the last checkpoint, less their mean."""
    first, last = steps[min(steps)], steps[max(steps)]
    shared = last.index.intersection(first.index)
    shared = shared[(shared.get_level_values("side") == "clean") & (shared.get_level_values("query") == "end")]
    change = last.paid[last.index.get_indexer(shared)] - first.paid[first.index.get_indexer(shared)]
    return change - np.nanmean(change, axis=1, keepdims=True)
