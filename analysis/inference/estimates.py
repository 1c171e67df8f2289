"""Recovered fractions over the runs of a group and their prompts, with intervals.

For run s and prompt i: gain g = patched - corrupted, gap r = clean - corrupted (logits). A run's recovered is the ratio
of its means over prompts, a group's the mean over its runs. Each prompt's influence is e = (g - recovered · r) / mean
gap; runs share their prompts, so influences are averaged over runs before their variance is taken over prompts. The
variance between seeds is added.

Intervals are Fieller's (1954, J. R. Stat. Soc. B 16): all values that a test does not reject when it allows for the
gap's uncertainty. If the gap may be zero, they are unbounded and recovered is undefined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import special

LEVEL = 0.95
"""Level of all intervals."""

ROUNDING = 1e-4
"""Logits. A smaller gap may be fp32 rounding, which is much the same in all prompts."""

Places = Float[np.ndarray, " place"]


@dataclass(frozen=True)
class Estimate:
    """What patching recovers at each place (a site's head or position at a checkpoint). NaN: no such place, or no gap.

    Variances are of the mean over runs and prompts.
    """

    recovered: Places
    gain: Places
    """patched - corrupted (logits), mean over runs and prompts."""
    gap: Places
    """clean - corrupted (logits), mean over runs and prompts."""
    of_run: Float[np.ndarray, "run place"]
    """Recovered of each run."""
    gain_of_run: Float[np.ndarray, "run place"]
    influence: Float[np.ndarray, "place prompt"]
    """Contribution of each prompt to the deviation of `recovered`; they sum to 0. 0 where a prompt lacks the place."""
    gap_influence: Float[np.ndarray, "place prompt"]
    """The same for the gap, relative to the gap."""
    gain_influence: Float[np.ndarray, "place prompt"]
    """The same for `gain`."""
    seed_variance: Places
    """Variance of mean recovered due to seeds; NaN if a setting has a single run."""
    seed_freedom: Places
    """Its degrees of freedom."""
    n: Int[np.ndarray, " place"]
    """Prompts."""
    runs: Int[np.ndarray, " place"]
    has_gap: Bool[np.ndarray, " place"]
    """Whether the gap of every run is distinguishable from zero."""

    @property
    def has_seeds(self) -> bool:
        """Whether the runs allow inference to other seeds."""
        return bool(np.isfinite(self.seed_variance).any())

    @property
    def gap_variance(self) -> Places:
        """Variance of the gap over prompts, relative to its square."""
        return _products(self)[:, 2]

    def variance(self, deviation: Places | float = 0.0) -> Places:
        """Variance of recovered over prompts in a test at `recovered + deviation`, which includes the gap's own
        variance."""
        return _products(self, deviation) @ np.array([1.0, -2.0, 1.0])


def estimate(
    gain: Float[np.ndarray, "run place prompt"],
    gap: Float[np.ndarray, "run place prompt"],
    settings: Sequence[object] | None = None,
) -> Estimate:
    """Estimate what patching recovers at each place, over runs and prompts.

    Args:
        gain: patched - corrupted (logits); NaN where a run or a prompt has no such place.
        gap: clean - corrupted (logits).
        settings: the setting of each run, so that differences between settings do not count as seeds. None: one
            setting.
    """
    there = ~np.isnan(gain) & ~np.isnan(gap)
    g, r = np.where(there, gain, 0.0), np.where(there, gap, 0.0)
    count = there.sum(axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        g_mean, r_mean = g.sum(axis=2) / count, r.sum(axis=2) / count
        of_run = g_mean / r_mean
        runs = (count > 0).sum(axis=0)
        weight = (there / count[..., None]) / runs[:, None]

        def mean(values: np.ndarray) -> np.ndarray:
            return np.where(runs > 0, np.nansum(values, axis=0) / runs, np.nan)

        def influence(values: np.ndarray) -> np.ndarray:
            return np.nansum(values * weight, axis=0)

        n = there.any(axis=0).sum(axis=1)
        share = r / r_mean[..., None]
        spread = np.where(there, r - r_mean[..., None], 0.0)
        error = np.sqrt((spread**2).sum(axis=2) / (count - 1) / count)
        differs = (np.abs(r_mean) > np.maximum(quantile(count - 1) * error, ROUNDING)) | (count == 0)
        has_gap = differs.all(axis=0) & (n > 1)
        recovered = mean(of_run)
        seed_variance, seed_freedom = between_runs(of_run, settings)
        return Estimate(
            recovered=np.where(has_gap, recovered, np.nan),
            gain=mean(g_mean),
            gap=mean(r_mean),
            of_run=of_run,
            gain_of_run=g_mean,
            influence=influence((g - of_run[..., None] * r) / r_mean[..., None]),
            gap_influence=influence(share - 1.0),
            gain_influence=influence(g - g_mean[..., None]),
            seed_variance=seed_variance,
            seed_freedom=seed_freedom,
            n=n,
            runs=runs,
            has_gap=has_gap,
        )


def of_means(
    gain: Float[np.ndarray, "run place"],
    gap: Float[np.ndarray, "run place"],
    n: Int[np.ndarray, " place"],
    settings: Sequence[object] | None = None,
    has_gap: Bool[np.ndarray, " place"] | None = None,
) -> Estimate:
    """As `estimate`, but from means over prompts, so without a variance over prompts.

    Args:
        has_gap: known from values by prompt. None: judged over the runs, and assumed for a single run.
    """
    runs = (~np.isnan(gain)).sum(axis=0)
    nothing = np.full((gain.shape[1], 0), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        of_run = np.where(np.abs(gap) > ROUNDING, gain / gap, np.nan)
        middle = np.nansum(gap, axis=0) / runs
        error = np.sqrt(np.nansum((gap - middle) ** 2, axis=0) / (runs - 1) / runs)
        differs = (runs == 1) | (np.abs(middle) > quantile(runs - 1) * error) if has_gap is None else has_gap
        has_gap = differs & (~np.isnan(of_run) | np.isnan(gain)).all(axis=0) & (runs > 0)
        recovered = np.nansum(of_run, axis=0) / runs
    seed_variance, seed_freedom = between_runs(of_run, settings)
    return Estimate(
        recovered=np.where(has_gap, recovered, np.nan),
        gain=np.nansum(gain, axis=0) / runs,
        gap=middle,
        of_run=of_run,
        gain_of_run=gain,
        influence=nothing,
        gap_influence=nothing,
        gain_influence=nothing,
        seed_variance=seed_variance,
        seed_freedom=seed_freedom,
        n=n,
        runs=runs,
        has_gap=has_gap,
    )


def interval(found: Estimate, *, seeds: bool) -> tuple[Places, Places]:
    """The 95% interval of recovered at each place.

    Where prompts and seeds both vary, Student's t has Satterthwaite's degrees of freedom.

    Args:
        seeds: whether it is for other prompts and other seeds, or for other prompts in these runs. NaN if it cannot be
            had.
    """
    if not found.influence.shape[1]:
        if not seeds:
            return found.recovered * np.nan, found.recovered * np.nan
        half = quantile(found.seed_freedom) * np.sqrt(found.seed_variance)
        return found.recovered - half, found.recovered + half
    if seeds:
        over_prompts, over_seeds, _ = criticals(found.variance(), found.n, found.seed_variance, found.seed_freedom)
        return fieller(found, over_prompts, found.seed_variance, over_seeds)
    return fieller(found, quantile(found.n - 1))


def fieller(
    found: Estimate, critical: Places | float, seed_variance: Places | float = 0.0, seed_critical: Places | float = 0.0
) -> tuple[Places, Places]:
    """All values of recovered within `critical` standard errors over prompts, and `seed_critical` over seeds, added in
    quadrature. NaN where the gap may be zero at that level, so that there are no bounds."""
    own, both, gap = _products(found).T
    squared = np.square(critical)
    with np.errstate(invalid="ignore"):
        a = 1.0 - squared * gap
        b = squared * both
        c = squared * own + np.square(seed_critical) * seed_variance
        root = np.sqrt(np.maximum(b**2 + a * c, 0.0) * np.where(np.isnan(c), np.nan, 1.0))
        bounded = (a > 0) & found.has_gap
        low, high = (np.where(bounded, found.recovered + (-b + sign * root) / a, np.nan) for sign in (-1.0, 1.0))
    return low, high


def _products(found: Estimate, deviation: Places | float = 1.0) -> Float[np.ndarray, "place 3"]:
    """Over prompts the variance of recovered, its covariance with the gap's share, and the variance of that; times 1,
    deviation, and its square."""
    x, w = found.influence, found.gap_influence
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(found.n > 1, found.n / (found.n - 1.0), np.nan)
        sums = (x * x).sum(axis=1), (x * w).sum(axis=1) * deviation, (w * w).sum(axis=1) * np.square(deviation)
        return (np.stack(sums) * scale).T


def between_runs(values: Float[np.ndarray, "run place"], settings: Sequence[object] | None) -> tuple[Places, Places]:
    """Variance of the mean over runs due to seeds, with Satterthwaite's degrees of freedom."""
    labels = (
        np.zeros(len(values), int)
        if settings is None
        else np.unique(np.array(settings, dtype=str), return_inverse=True)[1]
    )
    there = ~np.isnan(values)
    total = there.sum(axis=0)
    variance, weight = np.zeros((2, values.shape[1]))
    for label in np.unique(labels):
        own, count = values[labels == label], there[labels == label].sum(axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            middle = np.nansum(own, axis=0) / count
            within = np.nansum((own - middle) ** 2, axis=0) / (count - 1)
            # the variance between seeds is unknown for a single run, and so for the whole
            part = np.where(count > 1, within * count / total**2, np.where(count == 1, np.nan, 0.0))
            variance += part
            weight += np.where(count > 1, part**2 / (count - 1), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = np.where(weight > 0, variance**2 / weight, np.maximum(total - len(np.unique(labels)), 1))
    return np.where(total > 0, variance, np.nan), np.where(np.isnan(variance), np.nan, freedom)


def quantile(freedom: np.ndarray | float) -> np.ndarray:
    """Student's t quantile for a two-sided interval; NaN without a degree of freedom."""
    values = np.asarray(freedom, dtype=float)
    each, where = np.unique(values, return_inverse=True)  # usually few distinct values
    # `scipy.stats.t.ppf` calls this too, with twenty times the overhead.
    points = np.where(each > 0, special.stdtrit(np.where(each > 0, each, 1.0), 0.5 + LEVEL / 2), np.nan)
    return points[where.ravel()].reshape(values.shape)


def mean_interval(
    values: Float[np.ndarray, "run place prompt"], settings: Sequence[object] | None = None
) -> tuple[Places, Places, Places]:
    """Mean over runs and prompts at each place, with its 95% interval.

    The interval is for other prompts, and for other seeds if every setting has several runs.

    Args:
        values: for example logit differences; NaN where a run or prompt lacks the place.
        settings: as for `estimate`.
    """
    there = ~np.isnan(values)
    count = there.sum(axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        of_run = np.where(there, values, 0.0).sum(axis=2) / count
        runs = (count > 0).sum(axis=0)
        middle = np.nansum(of_run, axis=0) / runs
        centred = np.where(there, values - of_run[..., None], 0.0) / np.maximum(count, 1)[..., None]
        n = there.any(axis=0).sum(axis=1)
        prompts = ((centred.sum(axis=0) / runs[:, None]) ** 2).sum(axis=1) * n / (n - 1)
    seeds, freedom = between_runs(of_run, settings)
    over_prompts, over_seeds, seeds = criticals(prompts, n, seeds, freedom)
    half = np.sqrt(over_prompts**2 * prompts + over_seeds**2 * seeds)
    return middle, middle - half, middle + half


def criticals(
    prompts: Places, n: Int[np.ndarray, " place"], seeds: Places, freedom: Places
) -> tuple[Places, Places, Places]:
    """Critical values over prompts and over seeds, from both variances of a mean; and the variance over seeds, 0 if
    unknown."""
    is_known = np.isfinite(seeds)
    seeds = np.where(is_known, seeds, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        both = (prompts + seeds) ** 2 / (prompts**2 / (n - 1) + seeds**2 / np.where(is_known, freedom, 1.0))
    # One degree of freedom is too few for Satterthwaite: two seeds that agree by chance would hide the variance.
    few = is_known & (freedom < 2)
    critical = quantile(np.where(is_known & ~few & (prompts + seeds > 0), both, n - 1))
    return critical, np.where(few, quantile(np.where(is_known, freedom, 1.0)), critical), seeds
