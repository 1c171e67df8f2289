"""Families of verdicts: a site's places at all checkpoints, for a group of runs under one corruption."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from .. import configs
from ..folder import OutputFolder, Patch
from ..frames import sound
from ..prompts import AttributionValues, Site, attribution_values, read, sites_by_prompt, wins_by_prompt
from ..summaries import APPROXIMATE
from .estimates import Estimate, Places, estimate, interval, mean_interval, of_means
from .verdicts import Judged, critical_values_of, judge, judge_means

Place = tuple[int, int | None, str | None]
"""Layer, head, position."""


@dataclass(frozen=True)
class PatchJob:
    """A patch job with its values by prompt."""

    patch: Patch
    setting: str
    """Setting of its run."""
    config: dict[str, str]
    """Configuration of its run, by dotted key."""
    sites: dict[str, Site]
    attribution: dict[str, AttributionValues] = field(default_factory=dict)
    """Attribution by kind; empty without values by prompt, or if it was not read."""
    wins: dict[int, Bool[np.ndarray, " prompt"]] = field(default_factory=dict)
    """For a patch job on another task: which held-out prompts are won, by step."""
    diverged: frozenset[str] = frozenset()
    """Runs of its setting that diverged."""
    is_alone: bool = False
    """Whether all other runs of its setting diverged."""

    @cached_property
    def prompts(self) -> list[tuple[str, int]]:
        """Identity of each prompt, equal in all patch jobs and corruptions: its clean text, numbered if repeated."""
        seen: Counter[str] = Counter()
        keys = []
        for prompt in self.patch.about.get("prompts", []):
            text = str(prompt.get("clean"))
            seen[text] += 1
            keys.append((text, seen[text]))
        sizes = {one.patched.shape[2] for one in self.sites.values() if one.patched is not None}
        # A job that has only just begun may lack its prompts.
        return keys if sizes <= {len(keys)} else [(self.patch.patch_id, at) for at in range(max(sizes))]


@dataclass(frozen=True)
class Family:
    """What patching one site recovers in a group of runs under one corruption."""

    site: str
    jobs: tuple[PatchJob, ...]
    steps: tuple[int, ...]
    places: tuple[Place, ...]
    prompts: tuple[tuple[str, int], ...]
    estimate: Estimate
    """All places of the first checkpoint, then of the next; `at` selects a step."""
    gain: Float[np.ndarray, "run place prompt"] | None
    """None without values by prompt."""

    @property
    def corruption(self) -> str:
        """The corruption of the patch jobs."""
        return self.jobs[0].patch.corruption

    @property
    def is_estimate(self) -> bool:
        """Whether it has gradient estimates only (attribution patching)."""
        return self.site.endswith(APPROXIMATE)

    @property
    def stopped(self) -> bool:
        """Whether some runs have later checkpoints that others lack."""
        own = (job.sites.get(self.site) for job in self.jobs)  # paths are in none
        return any(one is not None and one.steps[-1] > self.steps[-1] for one in own)

    @property
    def lacking(self) -> tuple[int, ...]:
        """Steps left out because some runs were not examined there."""
        own = (job.sites.get(self.site) for job in self.jobs)
        examined = {step for one in own if one is not None for step in one.steps if step < self.steps[-1]}
        missing = {step for job in self.jobs for step in job.patch.missing_steps}
        return tuple(sorted((examined | missing) - set(self.steps)))

    @property
    def left_out(self) -> int:
        """How many runs of its settings are left out because they diverged; 0 for one of several runs."""
        diverged = frozenset[str]().union(*(job.diverged for job in self.jobs))
        is_of_one = len(self.jobs) == 1 and not self.jobs[0].is_alone
        return 0 if is_of_one or diverged & {job.patch.run_id for job in self.jobs} else len(diverged)

    @property
    def checkpoint(self) -> Int[np.ndarray, " place"]:
        """Index of the checkpoint of each place of the estimate."""
        return np.repeat(np.arange(len(self.steps)), len(self.places))

    @property
    def seeds(self) -> bool:
        """Whether the runs allow inference to other seeds."""
        return self.estimate.has_seeds

    @cached_property
    def judged(self) -> Judged:
        """Verdicts for other prompts, and for other seeds if the runs allow it."""
        return self._judge(self.seeds)

    @cached_property
    def judged_here(self) -> Judged:
        """Verdicts for other prompts in these runs."""
        return self._judge(False) if self.seeds else self.judged

    @cached_property
    def critical(self) -> Places:
        """Simultaneous critical values of its verdicts, in standard errors over prompts."""
        return critical_values_of(self.estimate)

    def _judge(self, seeds: bool) -> Judged:
        if self.is_estimate:  # estimated, not patched: no conclusions
            nothing = np.full(len(self.estimate.n), np.nan)
            return Judged(np.where(self.estimate.has_gap, 2, 3), nothing, nothing, seeds)
        if self.gain is not None:
            return judge(self.estimate, self.critical, self.checkpoint, seeds=seeds)
        nothing = np.full(len(self.estimate.n), np.nan)
        return Judged(judge_means(self.estimate), nothing, nothing, True)

    @cached_property
    def interval(self) -> tuple[Places, Places]:
        """95% intervals at each place alone, with the scope of `judged`."""
        return interval(self.estimate, seeds=self.seeds)

    @cached_property
    def interval_here(self) -> tuple[Places, Places]:
        """The same for other prompts in these runs."""
        return interval(self.estimate, seeds=False)

    def at(self, step: int) -> slice:
        """The places at a checkpoint."""
        start = self.steps.index(step) * len(self.places)
        return slice(start, start + len(self.places))

    def grid(self, values: np.ndarray) -> np.ndarray:
        """Values of all places as [checkpoint, place]."""
        return values.reshape(len(self.steps), len(self.places))


def jobs(
    output: OutputFolder,
    runs: pd.DataFrame,
    patch_ids: Iterable[str],
    damaged: list[str] | None = None,
    steps: Container[int] | None = None,
    attribution: bool = False,
) -> list[PatchJob]:
    """Read patch jobs with all their tables; jobs without any are left out.

    Args:
        runs: `Frames.runs`, which knows the settings.
        damaged: as for `frames.load`.
        steps: which checkpoints; None: all.
        attribution: whether to read the attribution too.
    """
    wanted, setting = set(patch_ids), dict(zip(runs["run_id"], runs["setting"], strict=True))
    found = [(run, patch) for run in output.runs for patch in run.patches if patch.patch_id in wanted]
    diverged, others = _ended(runs)
    texts = configs.texts([configs.of_run(run.config, run.contents) for run, _ in found])
    made = []
    for (run, patch), text in zip(found, texts, strict=True):
        config = text | {"seed": str(run.config.get("seed"))}
        tables = read(patch, damaged, steps)
        own = attribution_values(tables) if attribution else {}
        sites, wins, name = sites_by_prompt(tables), wins_by_prompt(tables), str(setting[run.run_id])
        ended = diverged.get(name, frozenset()), others.get(name, 0) <= 1
        made.append(PatchJob(patch, name, config, sites, own, wins, *ended))
    return [job for job in made if job.sites]


def _ended(runs: pd.DataFrame) -> tuple[dict[str, frozenset[str]], dict[str, int]]:
    """The runs of each setting that diverged, and how many others it has."""
    has_diverged = runs["status"] == "diverged"
    ids = {str(setting): frozenset(own) for setting, own in runs[has_diverged].groupby("setting")["run_id"]}
    return ids, {str(setting): n for setting, n in runs.loc[~has_diverged, "setting"].value_counts().items()}


def families(jobs: Sequence[PatchJob]) -> Iterator[Family]:
    """Yield a family for each site that any of the jobs has patched, at shared checkpoints."""
    for site in dict.fromkeys(site for job in jobs for site in job.sites):
        own = [job for job in jobs if site in job.sites]
        if set.intersection(*(set(job.sites[site].steps) for job in own)):
            yield family(site, own)


def family(site: str, jobs: Sequence[PatchJob]) -> Family:
    """Build the family of a site from jobs that all patched it. Only shared checkpoints are used, so that every
    checkpoint has the same runs.
    """
    own = [job.sites[site] for job in jobs]
    steps = tuple(sorted(set.intersection(*(set(one.steps) for one in own))))
    places = tuple(dict.fromkeys(place for one in own for place in one.places))
    labels = [job.setting for job in jobs]
    size = len(steps) * len(places)
    shared = [np.isin(one.steps, steps) for one in own]
    where = [_numbers(one, steps, places) for one in own]
    if any(one.patched is None for one in own):
        gain, gap, n = np.full((3, len(own), size), np.nan)
        for at, (one, rows, kept) in enumerate(zip(own, where, shared, strict=True)):
            gain[at, rows], gap[at, rows] = one.gain[kept].ravel(), one.gap[kept].ravel()
            n[at, rows] = one.n[kept].ravel()
        most = np.nan_to_num(n).max(axis=0).astype(int)
        measurable = None
        if all(one.clean.shape[1] > 1 for one in own):
            have_gap = [has_gap(one.clean[kept], one.corrupted[kept]) for one, kept in zip(own, shared, strict=True)]
            measurable = np.repeat(np.all(have_gap, axis=0), len(places))
        return Family(site, tuple(jobs), steps, places, (), of_means(gain, gap, most, labels, measurable), None)
    prompts = tuple(dict.fromkeys(key for job in jobs for key in job.prompts))
    number = {key: at for at, key in enumerate(prompts)}
    gain, gap = np.full((2, len(jobs), size, len(prompts)), np.nan)
    for at, (job, one, rows, kept) in enumerate(zip(jobs, own, where, shared, strict=True)):
        assert one.patched is not None
        rows_and_prompts = np.ix_(rows, np.array([number[key] for key in job.prompts]))
        patched, clean, corrupted = one.patched[kept], one.clean[kept], one.corrupted[kept]
        gain[at][rows_and_prompts] = (patched - corrupted[:, None]).reshape(len(rows), -1)
        gap[at][rows_and_prompts] = np.broadcast_to((clean - corrupted)[:, None], patched.shape).reshape(len(rows), -1)
    return Family(site, tuple(jobs), steps, places, prompts, estimate(gain, gap, labels), gain)


def has_gap(
    clean: Float[np.ndarray, "step prompt"], corrupted: Float[np.ndarray, "step prompt"]
) -> Bool[np.ndarray, " step"]:
    """Whether the gap of a run is distinguishable from zero over its prompts."""
    one = (clean - corrupted)[None]
    return estimate(one, one).has_gap


@dataclass(frozen=True)
class Means:
    """One kind of attribution (logits), mean over runs and prompts, with 95% intervals."""

    kind: str
    steps: tuple[int, ...]
    parts: tuple[tuple[str, int | None, int | None], ...]
    """Component, layer, head."""
    mean: Places
    """All parts of the first checkpoint, then of the next."""
    low: Places
    high: Places


def means(jobs: Sequence[PatchJob], kind: str) -> Means | None:
    """Average a kind of attribution over runs; None unless all have values by prompt and the same parts."""
    own = [job.attribution.get(kind) for job in jobs]
    if not own or any(one is None or own[0] is None or one.parts != own[0].parts for one in own):
        return None
    there = [one for one in own if one is not None]
    steps = tuple(sorted(set.intersection(*(set(one.steps) for one in there))))
    if not steps:
        return None
    prompts = {key: at for at, key in enumerate(dict.fromkeys(key for job in jobs for key in job.prompts))}
    parts = there[0].parts
    values = np.full((len(jobs), len(steps), len(parts), len(prompts)), np.nan)
    for at, (job, one) in enumerate(zip(jobs, there, strict=True)):
        columns = np.array([prompts[key] for key in job.prompts])
        if len(columns) == one.values.shape[2]:
            values[at][:, :, columns] = one.values[np.isin(one.steps, steps)]
    laid = values.reshape(len(jobs), -1, len(prompts))
    return Means(kind, steps, parts, *mean_interval(laid, [job.setting for job in jobs]))


def _numbers(one: Site, steps: Sequence[int], places: Sequence[Place]) -> Int[np.ndarray, " place"]:
    """Indices of a run's places in a family, checkpoint by checkpoint."""
    step, place = {key: at for at, key in enumerate(steps)}, {key: at for at, key in enumerate(places)}
    columns = np.array([place[key] for key in one.places])
    return np.concatenate([step[key] * len(places) + columns for key in one.steps if key in step])


def groups(patches: pd.DataFrame, runs: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], list[str]]]:
    """Group patch jobs by setting, patching and corruption, so that runs differ only in their seed; diverged runs are
    left out (`frames.sound`)."""
    of = patches.merge(runs[["run_id", "setting", "status"]], on="run_id", suffixes=("_of_job", ""))
    keys = ["setting", "patching", "corruption"]
    for key, rows in of.groupby(keys, sort=False, dropna=False, observed=True):
        ids = list(sound(rows)["patch_id"])
        yield tuple("" if pd.isna(word) else str(word) for word in key), ids  # type: ignore[misc]
