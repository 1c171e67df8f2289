"""Decides which of many places matter, with verdicts that hold for all of them at once.

A page shows 16 or 144 heads at 27 checkpoints, so some separate 95% intervals are wrong on every page. Here the chance
that any verdict of a family is wrong is 5%: the critical value is that of the largest |T| over all its places, from a
multiplier bootstrap (Chernozhukov, Chetverikov & Kato 2013, Ann. Statist. 41) of the prompts' influences. In each draw
every prompt has one sign, the same at all places, so what places share is not counted twice.

Seeds are too few to bootstrap: three allow only four distinct sign patterns. Their variance is added in quadrature,
scaled by Student's t or the family's critical value, whichever is larger. The smallest of many estimated variances is
too small by chance. So each is raised to at least the median at its checkpoint, times the place's usual ratio to that
median at other checkpoints. If k places still vary more than the others, each of them could be wrong on its own, so
their quantile of t is that at the level 0.05/k (Bonferroni).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from enum import Enum

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special, stats

from .estimates import LEVEL, Estimate, Places, fieller
from .holm import holm

DELTA = 0.05
"""Smallest fraction recovered that matters; less is small."""

AGREE_ABOVE = 0.8
"""Two things agree if their whole interval lies above this share of full agreement."""
DISAGREE_BELOW = 0.5
"""They disagree if it lies below this share; otherwise it is undecided."""

DRAWS = 2000
SEED = 0
CHUNK = 256
"""Places per block: CHUNK × DRAWS numbers are in memory at a time."""


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
    critical: float
    """Critical value in standard errors over prompts, the same for all places."""
    seeds: bool
    """Whether it also holds for other seeds, or only for these runs."""

    @property
    def words(self) -> np.ndarray:
        """The verdicts by name."""
        return VERDICTS[self.verdict]

    def matter(self) -> Bool[np.ndarray, " place"]:
        """Where the verdict is `matters`."""
        return self.verdict == MATTERS


def critical_value(found: Estimate) -> float:
    """The simultaneous critical value for all places, in standard errors over prompts.

    Each place is tested at the nearer of DELTA and -DELTA, since the influences at both are nearly the same. Places
    without a gap count too, because they were examined.
    """
    nearer = np.where(found.recovered < 0, -DELTA, DELTA) - found.recovered
    with np.errstate(invalid="ignore"):  # from a gap that is exactly zero
        rows = found.influence - np.nan_to_num(nearer)[:, None] * found.gap_influence
    return largest(np.nan_to_num(rows, posinf=0.0, neginf=0.0), np.where(few(found.n), 0, found.n))


def few(n: Int[np.ndarray, " place"]) -> Bool[np.ndarray, " place"]:
    """Which places fewer than half of the prompts have, such as roles that only long prompts have. These are not tested
    and stay undecided: four prompts among 48 would raise the critical value so much that every other place stayed
    undecided too."""
    return n < n.max(initial=0) / 2


def judge(found: Estimate, critical: float, checkpoint: Int[np.ndarray, " place"], *, seeds: bool) -> Judged:
    """Judges all places of a family at once.

    Args:
        critical: the family's `critical_value`.
        checkpoint: a number for each place's checkpoint; only equality matters.
        seeds: whether verdicts hold for other prompts and other seeds, or only for other prompts in these runs.
    """
    tested = _tested(found)
    extra = (
        seed_part(found.seed_variance, found.seed_freedom, checkpoint, critical) if seeds else np.zeros(len(found.n))
    )
    beyond = {sign: np.abs(d) > np.sqrt(critical**2 * found.variance(d) + extra) for sign, d in tested.items()}
    low, high = (np.where(few(found.n), np.nan, end) for end in fieller(found, critical, extra, 1.0))
    # A gap that differs from zero at its own checkpoint may do so by chance among all checkpoints.
    gap_differs = critical**2 * found.gap_variance < 1
    more = gap_differs & ((found.recovered > DELTA) & beyond[1.0] | (found.recovered < -DELTA) & beyond[-1.0])
    less = gap_differs & (np.abs(found.recovered) < DELTA) & beyond[1.0] & beyond[-1.0]
    conditions = [~found.has_gap, few(found.n), more, less]
    return Judged(np.select(conditions, [UNDEFINED, UNDECIDED, MATTERS, SMALL], UNDECIDED), low, high, critical, seeds)


def _tested(found: Estimate) -> dict[float, Places]:
    """Distances of recovered from DELTA and -DELTA, by sign.

    Whether recovered is beyond DELTA is tested at DELTA itself, which makes it a test of a mean and not of a ratio.
    """
    return {sign: sign * DELTA - found.recovered for sign in (1.0, -1.0)}


def largest(rows: Float[np.ndarray, "row prompt"], n: Int[np.ndarray, " row"]) -> float:
    """The critical value of the largest |T| over all rows; a row has the influences of its `n` prompts.

    Rows of fewer than two prompts are left out; with too few prompts it is infinite. Each draw is studentised by its
    own variance, because with few prompts the standard error is uncertain too.
    """
    norms = np.sqrt((rows * rows).sum(axis=1))
    kept = (norms > 0) & (n > 1)
    if not kept.any():
        return 0.0
    rows, n = (rows[kept] / norms[kept, None]).astype(np.float32), n[kept]
    signs = _signs(rows.shape[1])
    most = np.zeros(DRAWS)
    for count in np.unique(n):
        of_count = rows[n == count]
        share = np.zeros(DRAWS, np.float32)
        for start in range(0, len(of_count), CHUNK):
            np.maximum(share, _extent(of_count[start : start + CHUNK] @ signs), out=share)
        with np.errstate(divide="ignore"):
            left = np.maximum(1.0 - share.astype(float) ** 2 / count, 0.0)
            most = np.maximum(
                most, np.where(left > 1e-6, share / np.sqrt(count / (count - 1) * np.maximum(left, 1e-6)), np.inf)
            )
    return float(np.quantile(most, LEVEL, method="higher"))


def _extent(sums: Float[np.ndarray, "row draw"]) -> Float[np.ndarray, " draw"]:
    return np.maximum(sums.max(axis=0), -sums.min(axis=0))


def seed_part(variance: Places, freedom: Places, checkpoint: Int[np.ndarray, " place"], critical: float) -> Places:
    """The seeds' part of each squared half-width; NaN where it cannot be estimated.

    Args:
        variance: of the mean over seeds.
        freedom: its degrees of freedom.
        checkpoint: a number for each place's checkpoint; every checkpoint has the same places, in the same order.
        critical: of the family, in standard errors over prompts.
    """
    order = np.argsort(checkpoint, kind="stable")
    grid = len(np.unique(checkpoint)), -1 if len(checkpoint) else 0
    own, df = (values[order].reshape(grid) for values in (variance, np.where(freedom > 0, freedom, np.nan)))
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
        part = np.maximum(quantiles, critical) ** 2 * np.fmax(own, middle)
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


def _signs(n: int) -> Float[np.ndarray, "prompt draw"]:
    """Rademacher draws, the same on each call."""
    return np.random.default_rng(SEED).choice(np.array([-1.0, 1.0], np.float32), (n, DRAWS))
