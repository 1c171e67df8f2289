"""How often a family has a wrong verdict: `python -m mi_sweeps.analysis.planted verdicts`.

Every place recovers exactly DELTA, so that `matters` and `small` are both wrong. What prompts add to that has a planted
distribution, or it is what the heads of an output folder have: its prompts are then all that there are, so patch many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from ..frames import load
from .estimates import estimate, interval
from .families import Family
from .tables import of_frames
from .verdicts import DELTA, MATTERS, SMALL, critical_values_of, judge

PROMPTS = (12, 48, 240)
PLACES = 100
Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

SHAPES: dict[str, Draw] = {
    "normal": lambda random, shape: random.standard_normal(shape),
    "skewness -1": lambda random, shape: (4 - random.gamma(4, size=shape)) / 2,
    "skewness -2": lambda random, shape: 1 - random.exponential(size=shape),
    "Student's t, 5 degrees of freedom": lambda random, shape: random.standard_t(5, size=shape),
}


def outcome(
    gain: Float[np.ndarray, "run place prompt"], gap: Float[np.ndarray, "run place prompt"]
) -> tuple[bool, Bool[np.ndarray, " place"]]:
    """Whether any place is said to matter or to be small, and which places' own 95% intervals do not exclude DELTA."""
    found = estimate(gain, gap)
    verdict = judge(found, critical_values_of(found), np.zeros(len(found.n), int), seeds=False).verdict
    low, high = interval(found, seeds=False)
    return bool(np.isin(verdict, (MATTERS, SMALL)).any()), ~((low > DELTA) | (high < DELTA))


def simulations(draws: int, output: str | None = None) -> Iterator[str]:
    """By number of prompts, the share of families with a wrong verdict, and the coverage of the places' own
    intervals: the mean, and the lowest of any place."""
    if output is not None:
        yield from _of_output(draws, Path(output))
        return
    for name, draw in SHAPES.items():
        for prompts in PROMPTS:
            random, shape = np.random.default_rng(prompts), (1, PLACES, prompts)
            outcomes = (outcome(DELTA + 0.05 * draw(random, shape), np.ones(shape)) for _ in range(draws))
            yield f"{PLACES} unrelated heads, {name}, {prompts} prompts: {_shares(outcomes)}"


def _of_output(draws: int, output: Path) -> Iterator[str]:
    for (setting, patching, corruption), family in of_frames(load(output)):
        has_other_prompts = any(job.prompts != family.jobs[0].prompts for job in family.jobs)
        if family.site != "z" or family.gain is None or has_other_prompts:
            continue
        gap = _gaps(family)
        gain = family.gain - (family.estimate.of_run - DELTA)[..., None] * gap
        what = f"{setting}, {corruption}, {patching}, {gain.shape[1]} places"
        for prompts in PROMPTS:
            random = np.random.default_rng(prompts)
            drawn = (random.integers(0, gain.shape[2], prompts) for _ in range(draws))
            outcomes = (outcome(gain[..., at], gap[..., at]) for at in drawn)
            yield f"{what}, {prompts} of {gain.shape[2]} prompts: {_shares(outcomes)}"


def _shares(outcomes: Iterable[tuple[bool, Bool[np.ndarray, " place"]]]) -> str:
    wrong, inside = map(np.array, zip(*outcomes, strict=True))
    covered = inside.mean(axis=0)
    return f"a wrong verdict {wrong.mean():.3f}; intervals hold {covered.mean():.3f}, at least {covered.min():.3f}"


def _gaps(family: Family) -> Float[np.ndarray, "run place prompt"]:
    sites = [job.sites[family.site] for job in family.jobs]
    gaps = np.stack([(one.clean - one.corrupted)[np.isin(one.steps, family.steps)] for one in sites])
    return gaps.repeat(len(family.places), axis=1)
