"""Draws the conclusions on the report's page: for each run, each setting and wider groups of runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pandas as pd

from ..tasks import COMPARED_SUBJECTS
from .columns import ATTRIBUTION_KINDS
from .derived import findings
from .findings.finding import frame
from .folder import OutputFolder, RunRecord
from .frames import Frames, sound
from .inference.courses import HeadCourse, courses
from .inference.differences import Difference, difference
from .inference.estimates import quantile
from .inference.families import Family, Means, PatchJob, families, has_gap, jobs, means

SETTINGS = ("model", "task", "lr", "weight_decay", "schedule", "steps", "batch_size")
"""Columns of runs that the page groups by, besides the setting."""

ALIKE = ("model", "task", "network")
"""Columns that are equal for all runs of a group."""

MOST_PAIRS = 30
"""Groups of one kind are compared pairwise up to this many pairs, and not at all above it. `inference.differences`
compares any two."""

MOST_RUNS_CONCLUDED = 300
"""With more runs than this, the page has no room for conclusions; the exported table `verdicts` has them."""

MOST_SINGLE_RUNS = 40
"""With more runs than this, a run that is part of a mean over seeds gets no conclusions of its own on the page;
`show` prints them."""


@dataclass(frozen=True)
class JudgedFamily:
    """The verdicts at one site for a group of runs, and its heads' courses."""

    runs: tuple[int, ...]
    """Indices in the table of runs."""
    patching: str
    family: Family
    courses: tuple[HeadCourse, ...]
    """Courses of heads; empty for positions."""


@dataclass(frozen=True)
class Comparison:
    """The difference between two families: the second minus the first."""

    first: JudgedFamily
    second: JudgedFamily
    difference: Difference


@dataclass(frozen=True)
class AttributionMeans:
    """One kind of attribution of a group of runs under one corruption."""

    runs: tuple[int, ...]
    patching: str
    corruption: str
    means: Means


@dataclass(frozen=True)
class Conclusions:
    """Everything that the page concludes from an output folder."""

    families: tuple[JudgedFamily, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    attribution: tuple[AttributionMeans, ...] = ()
    findings: pd.DataFrame = field(default_factory=lambda: frame([]))
    """The table `findings`."""
    gapless: frozenset[str] = frozenset()
    """Patch jobs without a measurable gap at their last checkpoint."""


def conclude(output: OutputFolder, frames: Frames, damaged: list[str] | None = None) -> Conclusions:
    """Judge every group that the page shows, and compare groups of one kind."""
    examined = frames.patches[frames.patches["patch_id"].isin(pd.unique(frames.patching["patch_id"]))]
    if examined["run_id"].nunique() > MOST_RUNS_CONCLUDED:
        return Conclusions()
    steps = set(frames.patching["step"])
    patch_jobs = jobs(output, frames.runs, examined["patch_id"], damaged, steps, attribution=True)
    read = {job.patch.patch_id: job for job in patch_jobs}
    examined = examined[examined["patch_id"].isin(read) & examined["patching"].notna()]
    number = {run_id: at for at, run_id in enumerate(frames.runs["run_id"])}
    networks = {run.run_id: _network(run) for run in output.runs}
    there = frames.runs[frames.runs["run_id"].isin(examined["run_id"])]
    groups = _groups(there.assign(network=there["run_id"].map(networks)))
    found: dict[tuple[tuple[int, ...], str, str], list[JudgedFamily]] = {}
    attribution: list[AttributionMeans] = []
    for (patching, corruption), rows in examined.groupby(["patching", "corruption"], sort=False, dropna=False):
        of_run = {run_id: read[patch_id] for run_id, patch_id in zip(rows["run_id"], rows["patch_id"], strict=True)}
        for run_ids in {run_ids: None for kind in groups for run_ids in kind}:
            own = [of_run[run_id] for run_id in run_ids if run_id in of_run]
            key = tuple(sorted(number[job.patch.run_id] for job in own)), str(patching), str(corruption)
            if own and key not in found:
                found[key] = list(_judged_families(number, str(patching), own))
                of_kinds = (means(own, kind) for kind in ATTRIBUTION_KINDS)
                attribution += [AttributionMeans(*key, one) for one in of_kinds if one is not None]
    every = [one for listed in found.values() for one in listed]
    gapless = frozenset(patch_id for patch_id, job in read.items() if _is_gapless(job))
    compared = tuple(_comparisons(every, groups, number))
    return Conclusions(tuple(every), compared, tuple(attribution), findings(frames, damaged), gapless)


def _is_gapless(job: PatchJob) -> bool:
    one = next(iter(job.sites.values()))
    return one.clean.shape[1] > 1 and not has_gap(one.clean[-1:], one.corrupted[-1:]).all()


def _judged_families(number: dict[str, int], patching: str, own: Sequence[PatchJob]) -> Iterator[JudgedFamily]:
    for family in families(own):
        heads = family.places[0][1] is not None
        runs = tuple(sorted(number[job.patch.run_id] for job in family.jobs))  # some may lack the site
        yield JudgedFamily(runs, patching, family, tuple(courses(family)) if heads else ())


def _network(run: RunRecord) -> str:
    """Tell apart networks whose models have one name, as in two series."""
    found = run.about.get("model") or {}
    return f"{found.get('architecture')} {found.get('parameters')}"


def _groups(runs: pd.DataFrame) -> list[list[tuple[str, ...]]]:
    """Groups of run ids by kind: single runs, settings, values of each column, all runs."""
    single = runs
    if len(runs) > MOST_SINGLE_RUNS:
        diverged = runs["status"] == "diverged"  # in no group
        single = runs[diverged | ((~diverged).groupby(runs["setting"]).transform("sum") == 1)]
    kinds: list[list[tuple[str, ...]]] = [[(run_id,) for run_id in single["run_id"]]]
    for column in ("setting", *SETTINGS):
        # Heads of two models, or of two tasks, are not the same heads.
        by_value = runs.groupby([*ALIKE, column], sort=False, dropna=True)
        groups = [tuple(sound(own)["run_id"]) for _, own in by_value]
        kinds.append([run_ids for run_ids in groups if len(run_ids) > 1])
    of_one = len(runs) and runs[list(ALIKE)].drop_duplicates().shape[0] == 1
    return [*kinds, [tuple(sound(runs)["run_id"])]] if of_one else kinds


def _comparisons(
    found: Iterable[JudgedFamily], groups: Sequence[Sequence[tuple[str, ...]]], number: dict[str, int]
) -> Iterator[Comparison]:
    """Second corruption minus first in each group, and for groups of one kind the later minus the earlier."""
    heads = [one for one in found if one.family.places[0][1] is not None]
    by_place: dict[tuple[tuple[int, ...], str, str, str], JudgedFamily] = {
        (one.runs, one.patching, one.family.corruption, one.family.site): one for one in heads
    }
    pairs: dict[tuple[int, int], tuple[JudgedFamily, JudgedFamily]] = {}
    for (runs, patching, corruption, site), one in by_place.items():
        partner = by_place.get((runs, patching, COMPARED_SUBJECTS[1], site))
        if corruption == COMPARED_SUBJECTS[0] and partner:
            pairs[id(one), id(partner)] = one, partner
    for kind in groups:
        keys = [tuple(sorted(number[run_id] for run_id in run_ids)) for run_ids in kind]
        apart = [(a, b) for a, b in combinations(keys, 2) if not set(a) & set(b)]
        if len(apart) > MOST_PAIRS:
            continue
        for a, b in apart:
            for (runs, patching, corruption, site), one in by_place.items():
                partner = by_place.get((b, patching, corruption, site))
                if runs == a and partner:
                    pairs[id(one), id(partner)] = one, partner
    for one, partner in pairs.values():
        less = difference(one.family, partner.family)
        if less is not None:
            yield Comparison(one, partner, less)


def gaps(family: Family) -> np.ndarray:
    """Gap (logits) with its 95% interval over prompts: [checkpoint, (gap, low, high)]."""
    found = family.estimate
    # Positions that only some prompts have get their own gap.
    place = family.grid(found.n).argmax(axis=1) + np.arange(len(family.steps)) * len(family.places)
    gap, n, own = found.gap[place], found.n[place], found.gap_influence[place]
    with np.errstate(invalid="ignore", divide="ignore"):
        half = quantile(n - 1) * np.sqrt((own * own).sum(axis=1) * n / (n - 1)) * np.abs(gap)
    half = half if family.gain is not None else np.full(len(gap), np.nan)
    return np.column_stack([gap, gap - half, gap + half])
