"""Compares two groups of runs, such as two learning rates or single runs, or two corruptions of the same runs.

The difference is always the second group's recovered minus the first's. It is paired by prompt, and by run if each run
of one group has a partner in the other that differs only in what distinguishes the groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from jaxtyping import Float, Int

from .estimates import Estimate, Places, between_runs, fieller, quantile
from .families import Family, PatchJob, Place
from .verdicts import DELTA, critical_values, few, seed_part


class Comparison(Enum):
    """Comparisons of two groups at a place."""

    MORE = "more"
    """The second group recovers more than the first."""
    LESS = "less"
    ALIKE = "alike"
    """They differ by less than DELTA (two one-sided tests)."""
    UNDECIDED = "undecided"
    UNDEFINED = "undefined"
    """One of them has no gap there."""


COMPARISONS = np.array([one.value for one in Comparison])
MORE, LESS, ALIKE, UNDECIDED, UNDEFINED = range(len(COMPARISONS))


@dataclass(frozen=True)
class Difference:
    """The second family's recovered minus the first's, at shared checkpoints and places."""

    site: str
    steps: tuple[int, ...]
    places: tuple[Place, ...]
    difference: Places
    """All places of the first checkpoint, then of the next."""
    low: Places
    """Ends of the 95% interval at each place alone."""
    high: Places
    comparison: Int[np.ndarray, " place"]
    """Index in COMPARISONS. The chance that any comparison is wrong, over all places and checkpoints, is 5%."""
    paired: bool
    """Whether runs are paired as well."""
    seeds: bool
    """Whether it holds for other seeds too, or for these runs only."""
    n: Int[np.ndarray, " place"]
    """Prompts of the smaller group."""
    shared: int
    """Shared prompts, by which the groups are paired."""

    @property
    def words(self) -> np.ndarray:
        """The comparisons by name."""
        return COMPARISONS[self.comparison]

    def at(self, step: int) -> slice:
        """The places at a checkpoint."""
        start = self.steps.index(step) * len(self.places)
        return slice(start, start + len(self.places))


def difference(first: Family, second: Family) -> Difference | None:
    """Compute `second` minus `first`; None without a shared checkpoint or place, or without values by prompt."""
    steps = tuple(step for step in first.steps if step in second.steps)
    places = tuple(place for place in first.places if place in second.places)
    if not steps or not places or first.gain is None or second.gain is None:
        return None
    rows = [_rows(family, steps, places) for family in (first, second)]
    one, other = first.estimate, second.estimate
    influence, n = _influence((first, second), rows)
    middle = other.recovered[rows[1]] - one.recovered[rows[0]]
    pairs = _pairs(first.jobs, second.jobs)
    between, freedom, seeds = _between(one, other, rows, pairs)
    critical = critical_values(influence, np.where(np.isnan(middle) | few(n), 0, n))
    checkpoint = np.repeat(np.arange(len(steps)), len(places))
    together = _correlation((first, second), rows)
    extra = seed_part(between, freedom, checkpoint, critical) if seeds else np.zeros(len(n))
    low, high = _ends((one, other), rows, critical, together, extra)
    with np.errstate(invalid="ignore"):
        own = quantile(freedom) ** 2 * between if seeds else np.zeros(len(n))
        alike = (low > -DELTA) & (high < DELTA)
        conditions = [np.isnan(middle), few(n), alike, low > 0, high < 0]
        comparison = np.select(conditions, [UNDEFINED, UNDECIDED, ALIKE, MORE, LESS], UNDECIDED)
    shared = len(set(first.prompts) & set(second.prompts))
    return Difference(
        first.site, steps, places, middle, *_ends((one, other), rows, quantile(n - 1), together, own), comparison,
        pairs is not None, seeds, n, shared,
    )  # fmt: skip


def _ends(
    both: tuple[Estimate, Estimate],
    rows: Sequence[np.ndarray],
    critical: Places | float,
    together: Places,
    extra: Places,
) -> tuple[Places, Places]:
    """Interval of the second's recovered minus the first's.

    Combines the ends of both intervals (Fieller's) over prompts and their correlation by MOVER (Zou & Donner 2008,
    Stat. Med. 27). NaN if either is unbounded.

    Args:
        critical: critical values of the intervals over prompts.
        extra: what seeds add to the square of each half-width.
    """
    with np.errstate(invalid="ignore"):
        each = np.broadcast_to(critical, rows[0].shape)
        first, second = (_sides(of, own, each) for of, own in zip(both, rows, strict=True))
        middle = both[1].recovered[rows[1]] - both[0].recovered[rows[0]]
        down = second[0] ** 2 + first[1] ** 2 - 2 * together * second[0] * first[1]
        up = second[1] ** 2 + first[0] ** 2 - 2 * together * second[1] * first[0]
        # Rounding may make nearly equal values negative.
        return middle - np.sqrt(np.maximum(down + extra, 0.0)), middle + np.sqrt(np.maximum(up + extra, 0.0))


def _sides(found: Estimate, rows: np.ndarray, critical: Places) -> tuple[Places, Places]:
    """Distances of recovered from both ends of its interval over prompts."""
    every = np.full(len(found.n), np.nan)
    every[rows] = critical
    low, high = fieller(found, every)
    return (found.recovered - low)[rows], (high - found.recovered)[rows]


def _correlation(families: tuple[Family, Family], rows: Sequence[np.ndarray]) -> Places:
    """Correlation of the influences of shared prompts; 0 if there are none."""
    first, second = families
    shared = [key for key in first.prompts if key in set(second.prompts)]
    x, y = (
        family.estimate.influence[own][:, [family.prompts.index(key) for key in shared]]
        for family, own in zip(families, rows, strict=True)
    )
    sizes = [
        np.sqrt((family.estimate.influence[own] ** 2).sum(axis=1)) for family, own in zip(families, rows, strict=True)
    ]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num((x * y).sum(axis=1) / (sizes[0] * sizes[1]))


def _rows(family: Family, steps: Sequence[int], places: Sequence[Place]) -> Int[np.ndarray, " place"]:
    """Indices of these places at these checkpoints in a family."""
    number = {place: at for at, place in enumerate(family.places)}
    columns = np.array([number[place] for place in places])
    return np.concatenate([family.steps.index(step) * len(family.places) + columns for step in steps])


def _influence(
    families: tuple[Family, Family], rows: Sequence[np.ndarray]
) -> tuple[Float[np.ndarray, "place prompt"], Int[np.ndarray, " place"]]:
    """Influence of each prompt on the difference; a prompt that only one group has counts in that group."""
    first, second = families
    number = {key: at for at, key in enumerate(dict.fromkeys((*first.prompts, *second.prompts)))}
    influence = np.zeros((len(rows[0]), len(number)))
    for sign, family, own in ((-1.0, first, rows[0]), (1.0, second, rows[1])):
        influence[:, [number[key] for key in family.prompts]] += sign * family.estimate.influence[own]
    return influence, np.minimum(first.estimate.n[rows[0]], second.estimate.n[rows[1]])


def _between(
    one: Estimate, other: Estimate, rows: Sequence[np.ndarray], pairs: list[tuple[int, int, str]] | None
) -> tuple[Places, Places, bool]:
    """Variance of the difference due to seeds, its degrees of freedom, and whether it is known."""
    if pairs is not None:
        paired = np.stack([other.of_run[b][rows[1]] - one.of_run[a][rows[0]] for a, b, _ in pairs])
        variance, freedom = between_runs(paired, [setting for _, _, setting in pairs])
        return variance, freedom, bool(np.isfinite(variance).any())
    a, b = one.seed_variance[rows[0]], other.seed_variance[rows[1]]
    with np.errstate(divide="ignore", invalid="ignore"):
        total = a + b
        freedom = total**2 / (a**2 / one.seed_freedom[rows[0]] + b**2 / other.seed_freedom[rows[1]])
        freedom = np.where(total > 0, freedom, one.seed_freedom[rows[0]])
    return total, freedom, bool(np.isfinite(total).any())


def _pairs(first: Sequence[PatchJob], second: Sequence[PatchJob]) -> list[tuple[int, int, str]] | None:
    """Indices of paired runs, and the settings that pairs share if they differ only in their seed; None if runs do not
    pair up."""
    keys = sorted({key for job in (*first, *second) for key in job.config})

    def values(jobs: Sequence[PatchJob], key: str) -> set[str | None]:
        return {job.config.get(key) for job in jobs}

    # Keys that differ between the groups have disjoint values.
    shared = [key for key in keys if values(first, key) == values(second, key)]

    def numbered(jobs: Sequence[PatchJob]) -> dict[tuple[str | None, ...], int]:
        return {tuple(job.config.get(key) for key in shared): at for at, job in enumerate(jobs)}

    a, b = numbered(first), numbered(second)
    if len(a) < len(first) or len(b) < len(second) or a.keys() != b.keys():
        return None
    at_seed = [at for at, key in enumerate(shared) if key == "seed"]
    return [
        (number, b[key], str([value for at, value in enumerate(key) if at not in at_seed])) for key, number in a.items()
    ]
