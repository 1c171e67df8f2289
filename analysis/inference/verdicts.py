"""Decides which of many places matter, with verdicts that hold for all of them at once.

A page shows 16 or 144 heads at 27 checkpoints, so some separate 95% intervals are wrong on every page. Here the chance
that any verdict of a family is wrong is 5%, by a bootstrap of the prompts: all places share the prompts of a sample, so
what places have in common is not counted twice. Each place has its own critical value of |T|. Where a few prompts make
up most of an effect, |T| has heavier tails than Student's t, and the value is larger.

Seeds are too few to bootstrap: three allow only four distinct sign patterns. Their variance is added in quadrature,
scaled by Student's t or the place's critical value, whichever is larger. The smallest of many estimated variances is
too small by chance. So each is raised to at least the median at its checkpoint, times the place's usual ratio to that
median at other checkpoints. If k places still vary more than the others, each of them could be wrong on its own, so
their quantile of t is that at the level 0.05/k (Bonferroni).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special, stats

from .estimates import LEVEL, Estimate, Places, fieller, quantile
from .holm import holm

DELTA = 0.05
"""Smallest fraction recovered that matters; less is small."""

AGREE_ABOVE = 0.8
"""Two things agree if their whole interval lies above this share of full agreement."""
DISAGREE_BELOW = 0.5
"""They disagree if it lies below this share; otherwise it is undecided."""

DRAWS = 2000
SEED = 0
CHUNK = 64
"""Places per block: CHUNK × DRAWS numbers fit into a core's cache."""
LEAST = 5
"""Prompts. With fewer, a bootstrap has too few distinct samples, and nothing is decided."""
CONSTANT = 0.005
"""A row is hopeless if a larger share of samples does not vary: up to four prompts have an effect, the others none."""
ROUNDING = 1e-6
"""A sample does not vary if its variance is below this share of the variance of all prompts."""


class Verdict(Enum):
    """Verdicts on a place."""

    MATTERS = "matters"
    """It recovers or removes more than DELTA of the gap."""
    SMALL = "small"
    """It recovers or removes less than DELTA."""
    UNDECIDED = "undecided"
    """Neither is shown."""
    UNDEFINED = "undefined"
    """Clean and corrupted prompts do not differ measurably: there is nothing to recover."""


VERDICTS = np.array([one.value for one in Verdict])
MATTERS, SMALL, UNDECIDED, UNDEFINED = range(len(VERDICTS))


@dataclass(frozen=True)
class Judged:
    """A family of places with verdicts whose family-wise error rate is 5%."""

    verdict: Int[np.ndarray, " place"]
    """Index in VERDICTS; see `words`."""
    low: Places
    """Ends of the simultaneous interval of recovered; NaN where it has none."""
    high: Places
    seeds: bool
    """Whether it also holds for other seeds, or only for these runs."""

    @property
    def words(self) -> np.ndarray:
        """The verdicts by name."""
        return VERDICTS[self.verdict]

    def matter(self) -> Bool[np.ndarray, " place"]:
        """Where the verdict is `matters`."""
        return self.verdict == MATTERS


def critical_values_of(found: Estimate) -> Places:
    """The simultaneous critical value of each place, in standard errors over prompts.

    Each place is tested at the nearer of DELTA and -DELTA, since the influences at both are nearly the same. Places
    without a gap count too, because they were examined.
    """
    nearer = np.where(found.recovered < 0, -DELTA, DELTA) - found.recovered
    with np.errstate(invalid="ignore"):  # from a gap that is exactly zero
        rows = found.influence - np.nan_to_num(nearer)[:, None] * found.gap_influence
    return critical_values(np.nan_to_num(rows, posinf=0.0, neginf=0.0), np.where(few(found.n), 0, found.n))


def few(n: Int[np.ndarray, " place"]) -> Bool[np.ndarray, " place"]:
    """Which places fewer than half of the prompts have, such as roles that only long prompts have. These are not tested
    and stay undecided: four prompts among 48 would raise the critical value so much that every other place stayed
    undecided too."""
    return n < n.max(initial=0) / 2


def judge(found: Estimate, critical: Places | float, checkpoint: Int[np.ndarray, " place"], *, seeds: bool) -> Judged:
    """Judges all places of a family at once.

    Args:
        critical: `critical_values_of` the estimate.
        checkpoint: a number for each place's checkpoint; only equality matters.
        seeds: whether verdicts hold for other prompts and other seeds, or only for other prompts in these runs.
    """
    tested = _tested(found)
    extra = (
        seed_part(found.seed_variance, found.seed_freedom, checkpoint, critical) if seeds else np.zeros(len(found.n))
    )
    low, high = (np.where(few(found.n), np.nan, end) for end in fieller(found, critical, extra, 1.0))
    squared = np.square(critical)
    with np.errstate(invalid="ignore"):  # infinite times zero
        beyond = {sign: np.abs(d) > np.sqrt(squared * found.variance(d) + extra) for sign, d in tested.items()}
        # A gap that differs from zero at its own checkpoint may do so by chance among all checkpoints.
        gap_differs = squared * found.gap_variance < 1
    more = gap_differs & ((found.recovered > DELTA) & beyond[1.0] | (found.recovered < -DELTA) & beyond[-1.0])
    less = gap_differs & (np.abs(found.recovered) < DELTA) & beyond[1.0] & beyond[-1.0]
    conditions = [~found.has_gap, few(found.n), more, less]
    return Judged(np.select(conditions, [UNDEFINED, UNDECIDED, MATTERS, SMALL], UNDECIDED), low, high, seeds)


def _tested(found: Estimate) -> dict[float, Places]:
    """Distances of recovered from DELTA and -DELTA, by sign.

    Whether recovered is beyond DELTA is tested at DELTA itself, which makes it a test of a mean and not of a ratio.
    """
    return {sign: sign * DELTA - found.recovered for sign in (1.0, -1.0)}


def critical_values(rows: Float[np.ndarray, "row prompt"], n: Int[np.ndarray, " row"]) -> Places:
    """Critical values of |T|, one per row, that hold for all rows at once.

    Prompts are drawn with replacement, the same ones for all rows, and |T| is computed anew in each of DRAWS samples.
    A row whose 95% quantile of |T| is larger than Student's gets a value that is larger by the same ratio (a balanced
    bootstrap: Beran 1988, J. Am. Stat. Assoc. 83). Quantiles of |T| are hardly affected by skewness (Hall 1988, J. R.
    Stat. Soc. B 50). A row that is hopeless does not hide the others. One whose |T| has heavy tails beyond that
    quantile raises the values of all rows.

    Args:
        rows: influences of the prompts; they sum to 0 in each row.
        n: prompts of each row. Rows of fewer than two are not tested.

    Returns:
        In standard errors; infinite where nothing can be decided.
    """
    squares = (rows * rows).sum(axis=1)
    kept = (squares > 0) & (n > 1)
    scale = np.ones(len(rows))
    if not kept.any():
        return np.zeros(len(rows))
    rows, n = (rows[kept] / np.sqrt(squares[kept, None])).astype(np.float32), n[kept]
    drawn = _samples(rows.shape[1])
    student, own, most = quantile(n - 1), np.ones(len(rows)), np.zeros(DRAWS)
    at = int(np.ceil(LEVEL * DRAWS))
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        t = _studentised(rows[part], n[part], drawn)
        own[part] = np.maximum(np.partition(t, at, axis=1)[:, at] / student[part], 1.0)
        own[part][(n[part] < LEAST) | (np.isinf(t).mean(axis=1) > CONSTANT)] = np.inf
        bounded = np.isfinite(own[part])
        if bounded.any():
            np.maximum(most, (t[bounded] / own[part][bounded, None]).max(axis=0), out=most)
    scale[kept] = own
    # It is 0 if all rows are hopeless.
    return scale * max(float(np.quantile(most, LEVEL, method="higher")), 1.0)


def _studentised(
    rows: Float[np.ndarray, "row prompt"], n: Int[np.ndarray, " row"], drawn: Float[np.ndarray, "prompt draw"]
) -> Float[np.ndarray, "row draw"]:
    """|T| of each row, whose squares sum to 1, in each sample; infinite where the sample does not vary."""
    total, count = rows @ drawn, n[:, None].astype(np.float32)
    spread = (rows * rows) @ drawn - total * total / count
    t = np.abs(total) / np.sqrt(np.maximum(spread, ROUNDING) * count / (count - 1))
    return np.where(spread > ROUNDING, t, np.inf)


def seed_part(
    variance: Places, freedom: Places, checkpoint: Int[np.ndarray, " place"], critical: Places | float
) -> Places:
    """The seeds' part of each squared half-width; NaN where it cannot be estimated.

    Args:
        variance: of the mean over seeds.
        freedom: its degrees of freedom.
        checkpoint: a number for each place's checkpoint; every checkpoint has the same places, in the same order.
        critical: of each place, in standard errors over prompts.
    """
    order = np.argsort(checkpoint, kind="stable")
    grid = len(np.unique(checkpoint)), -1 if len(checkpoint) else 0
    each = variance, np.where(freedom > 0, freedom, np.nan), np.broadcast_to(critical, variance.shape)
    own, df, over_prompts = (values[order].reshape(grid) for values in each)
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.filterwarnings("ignore", r"All-NaN slice|Mean of empty slice")
        middle = np.nanmedian(own, axis=1, keepdims=True)
        ratio = np.nanmedian(np.where(middle > 0, own / middle, np.nan), axis=0)
        own = np.fmax(own, ratio * middle)
        middle = np.nanmedian(own, axis=1, keepdims=True)
        # Of places with equal variances, one at a checkpoint is expected above this.
        share = 1 / np.maximum(np.isfinite(own).sum(axis=1, keepdims=True), 2)
        expected = middle * special.chdtri(df, share) / special.chdtri(df, 0.5)
        varying = np.maximum((own > expected).sum(axis=1, keepdims=True), 1)
        quantiles = special.stdtrit(df, 1 - (1 - LEVEL) / 2 / np.where(own > middle, varying, 1))
        part = np.maximum(quantiles, over_prompts) ** 2 * np.fmax(own, middle)
    found = np.empty(len(variance))
    found[order] = part.ravel()
    return found


def judge_means(found: Estimate) -> Int[np.ndarray, " place"]:
    """Verdicts without values by prompt: Student's t over the means of runs, with Holm's correction over places. They
    hold for these prompts only. A single run decides nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (np.abs(found.recovered) - DELTA) / np.sqrt(found.seed_variance)
        more, less = stats.t.sf(t, found.seed_freedom), stats.t.cdf(t, found.seed_freedom)
    # The test for each verdict is a separate one.
    p = np.nan_to_num(np.stack([more, less]), nan=1.0)
    beyond, within = holm(p)
    return np.select([~found.has_gap, beyond, within], [UNDEFINED, MATTERS, SMALL], UNDECIDED)


@lru_cache(maxsize=2)
def _samples(prompts: int) -> Float[np.ndarray, "prompt draw"]:
    """How often each prompt is in each sample, the same on each call."""
    random = np.random.default_rng(SEED)
    return random.multinomial(prompts, np.full(prompts, 1 / prompts), DRAWS).T.astype(np.float32, order="C")
