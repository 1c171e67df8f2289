"""Tests curves over checkpoints for a transition: a plateau, a sudden change and another plateau, in most seeds.

Only continuous measures are tested: the share of prompts that pass a threshold is sudden by construction (Schaeffer,
Miranda & Koyejo 2023, arXiv:2304.15004), so a win rate is refused. `shapes` describes the fits and the noise.

- Steepness is the largest slope over the mean slope within the run, for the logistic that fits best; t50 is when half
  of the change within the run is done, and the width is the time from 10% to 90% of it. Their intervals are the ranges
  over all fits that a likelihood ratio test does not reject.
- The null is the best smooth fit: linear, exponential, a power, or a logistic at least SUDDEN of the run wide. p is the
  share of DRAWS curves, drawn from it with the curve's own noise, that are at least as steep as the curve.
- Nothing changes if no checkpoint differs from the first, by Bonferroni. The noise of that test is the prompts' and a
  wobble from neighbouring checkpoints, because the wobble of a fit also contains what the shape misses.
- A second detector, which assumes no shapes (`bends`), must find a single rise at the same place.

For one run the answer holds for other prompts. A setting has a transition if SHARE of its runs have one, and it has at
least SEEDS runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from jaxtyping import Float
from scipy import stats

from ...counting import counted
from . import shapes
from .bends import Rise, rise
from .estimates import LEVEL, ROUNDING, quantile
from .onsets import interval

SUDDEN = 0.2
"""Largest upper end of the width, as a share of the run."""
PLATEAU = 0.1
"""Largest share of the change that may be done before it."""
SIGNIFICANT = 0.01
DRAWS = 500
SEED = 0
WITHIN = 6
"""Fewest checkpoints within the width; with fewer, its shape cannot be seen."""
ASIDE = 3
"""Fewest checkpoints before it, and after it."""
FEWEST = WITHIN + ASIDE
"""Fewest checkpoints of a curve that is classified."""
MISFIT = 0.05
"""Largest standard deviation of what the best shape leaves, as a share of the change: two to four equal sudden rises
leave more."""
NO_SHAPE = f"no single shape fits: the best leaves more than {100 * MISFIT:.0f}% of the change"
BACK = "it comes and goes: the last checkpoint is not shown to differ from the first, but others are"
SEEDS = 5
SHARE = 0.8
"""Share of a setting's runs that must agree."""


class Answer(Enum):
    """Classes of curves."""

    TRANSITION = "transition"
    UNRESOLVED = "below resolution"
    """At least as sudden, but with fewer than WITHIN checkpoints in it."""
    GRADUAL = "gradual"
    """Even at the lower end of its interval, the width is more than SUDDEN of the run, and a single shape fits."""
    UNCHANGED = "no change"
    """No checkpoint is shown to differ from the first."""
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Transition:
    """The classification of one curve of one run, with times in the curve's own units; NaN where nothing changes."""

    answer: Answer
    reason: str
    shape: str = ""
    """The one of `shapes.SHAPES` with the best BIC."""
    p: float = float("nan")
    """NaN where the width rules a transition out."""
    steepness: float = float("nan")
    t50: float = float("nan")
    t50_low: float = float("nan")
    t50_high: float = float("nan")
    width: float = float("nan")
    width_low: float = float("nan")
    width_high: float = float("nan")
    before: float = float("nan")
    """The share of the change that is done one width before t50, which is small after a plateau; NaN if the run begins
    later."""
    within: int = 0
    """Checkpoints in the width."""
    bend: float = float("nan")
    """When half of the change is done according to the second detector; NaN if it finds no rise or, as for p, was not
    run."""
    change: float = float("nan")
    """The change between the first and the last checkpoint, in units of the curve."""
    wobble: float = float("nan")
    """Standard deviation at each checkpoint that prompts do not account for, in units of the curve."""
    start: float = float("nan")
    """When 10% of the change is done."""
    fitted: tuple[float, ...] = ()
    """The best fit at the checkpoints."""


def transition(
    time: Float[np.ndarray, " checkpoint"],
    values: Float[np.ndarray, "checkpoint prompt"],
    draws: int = DRAWS,
) -> Transition:
    """Classifies one curve of one run.

    Args:
        time: of the checkpoints, rising.
        values: of each prompt, or a single column if only the mean is known. Prompts that lack a checkpoint are left
            out.
    """
    values = values[:, np.isfinite(values).all(axis=0)]
    if len(time) < FEWEST or not values.shape[1]:
        many = counted(len(time), "checkpoint")
        why = f"{many}; at least {FEWEST} are needed" if values.shape[1] else "no prompt has all checkpoints"
        return Transition(Answer.CANNOT_TELL, why)
    curve = values.mean(axis=1)
    if np.ptp(curve) < ROUNDING:
        return Transition(Answer.UNCHANGED, "all checkpoints are equal but for rounding", change=curve[-1] - curve[0])
    covariance = shapes.of_prompts(values) if values.shape[1] > 2 else np.zeros((len(time), len(time)))
    wobble = _wobble(time, curve, covariance)
    noise, change, freedom = covariance + wobble**2 * np.eye(len(time)), curve - curve[0], len(time) - shapes.MOST
    error = np.sqrt(np.maximum(noise.diagonal() + noise[0, 0] - 2 * noise[0], 0.0))
    if abs(change[-1]) > max(float(quantile(freedom)) * error[-1], ROUNDING):
        return _judged(time, curve, shapes.fit(time, curve, covariance), draws)
    of_all = stats.t.isf((1 - LEVEL) / 2 / (len(time) - 1), freedom)
    if (np.abs(change) > np.maximum(of_all * error, ROUNDING)).any():
        return Transition(Answer.CANNOT_TELL, BACK, change=change[-1], wobble=wobble)
    return Transition(
        Answer.UNCHANGED, "no checkpoint differs measurably from the first", change=change[-1], wobble=wobble
    )


def _wobble(time: np.ndarray, curve: np.ndarray, covariance: np.ndarray) -> float:
    """Standard deviation at each checkpoint that prompts do not account for, from how far each checkpoint is from the
    line between its neighbours, so whatever the curve's shape (Gasser, Sroka & Jennen-Steinmetz 1986, Biometrika 73).
    """
    inner = np.arange(1, len(time) - 1)
    weights = np.zeros((len(inner), len(time)))
    weights[inner - 1, inner - 1] = (time[2:] - time[1:-1]) / (time[2:] - time[:-2])
    weights[inner - 1, inner + 1] = 1 - weights[inner - 1, inner - 1]
    weights[inner - 1, inner] = -1
    of_prompts = ((weights @ covariance) * weights).sum(axis=1)
    left = ((weights @ curve) ** 2 - of_prompts) / (weights**2).sum(axis=1)
    return float(np.sqrt(max(left.mean(), 0.0)))


def _judged(time: np.ndarray, curve: np.ndarray, fit: shapes.Fit, draws: int) -> Transition:
    known, length, change = fit.candidates, time[-1] - time[0], curve[-1] - curve[0]
    best, acceptable = fit.best(), fit.acceptable()
    t50, width = time[0] + known.middle[best] * length, known.width[best] * length
    low, high = (float(end(known.width[acceptable])) for end in (np.min, np.max))
    start = time[0] + length * float(known.start[best])
    end = start + width
    earlier, later = int((time <= start).sum()), int((time >= end).sum())
    # A tenth is done at `start` by definition. Half a width earlier the rise has not begun: 1% of a logistic's.
    flat = int((time <= t50 - width).sum())
    before = float((curve[flat - 1] - curve[0]) / change) if flat else float("nan")
    within = len(time) - int((time < start).sum()) - int((time > end).sum())
    fitted = fit.fitted(best)
    misfit = float(np.sqrt(np.mean((curve - fitted) ** 2))) > MISFIT * abs(change)
    p, steepness, bent = float("nan"), float(known.steepness[best]), None
    if high < SUDDEN:  # otherwise it is not a transition, whatever they say
        (p, steepness), bent = _p(fit, draws), rise(time, curve)
    reasons = [
        *([NO_SHAPE] if misfit else []),
        *([f"the width may be {100 * high:.0f}% of the run"] if high >= SUDDEN else []),
        *([f"{earlier} checkpoints before it"] if earlier < ASIDE else []),
        *(["no plateau before it"] if not flat else []),
        *([f"{100 * before:.0f}% of the change is done before it"] if flat and before >= PLATEAU else []),
        *([f"{later} checkpoints after it"] if later < ASIDE else []),
        *([f"p = {p:.3f} against a smooth course"] if p >= SIGNIFICANT else []),
        *([] if high >= SUDDEN or _agrees(bent, t50, width, time) else ["change points show no sudden rise there"]),
    ]
    if low >= SUDDEN and misfit:
        answer, reason = Answer.CANNOT_TELL, NO_SHAPE
    elif low >= SUDDEN:
        answer, reason = Answer.GRADUAL, f"from 10% to 90% takes at least {100 * low:.0f}% of the run"
    elif reasons:
        answer, reason = Answer.CANNOT_TELL, "; ".join(reasons)
    elif within < WITHIN:
        answer, reason = Answer.UNRESOLVED, f"{within} checkpoints within it; at least {WITHIN} show its shape"
    else:
        answer, reason = Answer.TRANSITION, f"{within} checkpoints within it"
    middles = time[0] + length * known.middle[acceptable]
    return Transition(
        answer, reason, fit.best_shape(), p, steepness, t50, float(middles.min()), float(middles.max()),
        width, low * length, high * length, before, within, bent.middle if bent else float("nan"), change, fit.wobble,
        start, tuple(fitted.tolist()),
    )  # fmt: skip


def _p(fit: shapes.Fit, draws: int) -> tuple[float, float]:
    """The probability of a curve at least this steep under the best smooth fit, and the curve's steepness."""
    known = fit.candidates
    smooth = fit.fitted(fit.best((known.shape != shapes.SHAPES.index("logistic")) | (known.width >= SUDDEN)))
    noise = np.linalg.cholesky(fit.covariance) @ np.random.default_rng(SEED).standard_normal((len(smooth), draws))
    found = shapes.steepness_of(fit, np.concatenate([fit.curve[None], smooth + noise.T]))
    return float((1 + (found[1:] >= found[0]).sum()) / (1 + draws)), float(found[0])


def _agrees(bent: Rise | None, t50: float, width: float, time: np.ndarray) -> bool:
    """Whether the second detector finds the same rise: equally sudden, with its middle within the width of the fitted
    one."""
    if bent is None or bent.width >= SUDDEN * (time[-1] - time[0]):
        return False
    at = int(np.clip(np.searchsorted(time, t50), 1, len(time) - 1))
    return abs(bent.middle - t50) <= max(width / 2, bent.width / 2, time[at] - time[at - 1])


def over_runs(found: Sequence[Transition]) -> Transition:
    """Classifies a setting: the class of at least SHARE of its runs, if there are at least SEEDS.

    Times are medians over runs, with the sign test's 95% intervals if there are enough runs.
    """
    counts = Counter(one.answer for one in found)
    answers = ", ".join(f"{count} {answer.value}" for answer, count in counts.most_common())
    said = f"{counted(len(found), 'run')}: {answers}"
    for why in (NO_SHAPE, BACK):
        if count := sum(one.reason == why for one in found):
            said += f"; in {count} {why}"
    answer = Answer.CANNOT_TELL
    if len(found) < SEEDS:
        said += f"; at least {SEEDS} are needed"
    else:
        sudden = counts[Answer.TRANSITION] + counts[Answer.UNRESOLVED]
        for one, count in (*((each, counts[each]) for each in Answer), (Answer.UNRESOLVED, sudden)):
            if one is not Answer.CANNOT_TELL and count >= SHARE * len(found) and answer is Answer.CANNOT_TELL:
                answer = one
    timed = [one for one in found if np.isfinite(one.t50)]
    if not timed:
        return Transition(answer, said)
    middle = {
        name: float(np.median([getattr(one, name) for one in timed])) for name in ("t50", "width", "steepness", "start")
    }
    t50 = interval([one.t50_low for one in timed], [one.t50_high for one in timed])
    width = interval([one.width_low for one in timed], [one.width_high for one in timed])
    within = int(np.median([one.within for one in timed]))
    return Transition(
        answer, said, t50=middle["t50"], t50_low=t50[0], t50_high=t50[1], width=middle["width"], width_low=width[0],
        width_high=width[1], steepness=middle["steepness"], start=middle["start"], within=within,
        change=float(np.mean([one.change for one in found])),
    )  # fmt: skip
