"""Simulated curves with and without a transition: `python -m mi_sweeps.analysis.planted transitions` or `widths`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from .transitions import over_runs, transition

STEPS = np.array([0, 1, 2, 3, *range(4, 100, 2), *range(104, 185, 8)], float)
"""Steps of the checkpoints: dense early, up to the length of the original run."""
Shape = Callable[[np.ndarray, float], np.ndarray]
"""Of the step and a step that differs by seed."""

CURVES: dict[str, Shape] = {
    "logistic of scale 4": lambda t, at: 1 / (1 + np.exp(-(t - at) / 4)),
    "logistic of scale 0.5": lambda t, at: 1 / (1 + np.exp(-2 * (t - at))),
    "logistic of scale 10": lambda t, at: 1 / (1 + np.exp(-(t - at) / 10)),
    "linear": lambda t, at: t / 184,
    "square root": lambda t, at: np.sqrt(t / 184),
    "exponential approach": lambda t, at: 1 - np.exp(-t / at * 2),
    "exponential growth": lambda t, at: np.expm1(t / at * 2) / np.expm1(184 / at * 2),
    "nothing": lambda t, at: 0 * t,
}


def curve(
    random: np.random.Generator, shape: Shape, steps: np.ndarray = STEPS, prompts: int = 48, wobble: float = 0.03
) -> np.ndarray:
    """Logit differences [checkpoint, prompt] that rise by 3 logits on average. Standard deviations between prompts: 0.6
    of the level, 0.8 of the rise, 0.3 at each checkpoint. `wobble` is that of the whole run at each checkpoint.
    """
    mean = shape(steps, random.uniform(45, 55))
    level, rise = 0.6 * random.standard_normal(prompts), 3 + 0.8 * random.standard_normal(prompts)
    own = 0.3 * random.standard_normal((len(steps), prompts)) + wobble * random.standard_normal((len(steps), 1))
    return level + mean[:, None] * rise + own


def transitions(draws: int) -> Iterator[str]:
    """How often each answer is given for each kind of curve, with five runs and with one."""
    for kind in CURVES:
        settings: Counter[str] = Counter()
        runs: Counter[str] = Counter()
        for seed in range(draws):
            random = np.random.default_rng([seed, len(kind)])
            found = [transition(STEPS, curve(random, CURVES[kind])) for _ in range(5)]
            runs.update(one.answer.value for one in found)
            settings[over_runs(found).answer.value] += 1
        yield f"{kind}: settings {_shares(settings)}; runs {_shares(runs)}"


WIDTHS = (2, 4, 6, 8, 12, 16, 20)
"""From 10% to 90%, in checkpoints, which are 2 steps apart there."""


def widths(draws: int) -> Iterator[str]:
    """How often each answer is given for logistic rises of each width, with five runs and with one."""
    for width in WIDTHS:
        steps = float(width * 2)
        kind = f"logistic, {width} checkpoints ({steps:g} steps, {steps / STEPS[-1]:.0%} of the run) wide"
        settings: Counter[str] = Counter()
        runs: Counter[str] = Counter()
        for seed in range(draws):
            random = np.random.default_rng([seed, width])
            found = [transition(STEPS, curve(random, logistic(steps))) for _ in range(5)]
            runs.update(one.answer.value for one in found)
            settings[over_runs(found).answer.value] += 1
        yield f"{kind}: settings {_shares(settings)}; runs {_shares(runs)}"


def logistic(width: float) -> Shape:
    """A rise that takes `width` steps from 10% to 90%."""
    scale = width / (2 * np.log(9))
    return lambda t, at: 1 / (1 + np.exp(-(t - at) / scale))


def _shares(counts: Counter[str]) -> str:
    return ", ".join(f"{answer} {count / counts.total():.3f}" for answer, count in counts.most_common())
