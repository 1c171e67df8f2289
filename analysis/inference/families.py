"""The families that verdicts are of: a site's places at all checkpoints, in a group of runs under one corruption."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from .. import cells
from ..folder import Output, Patch
from ..frames import Site, sites_by_prompt
from .estimates import Estimate, Places, estimate, interval, of_means
from .verdicts import Judged, critical_value, judge, judge_means

Place = tuple[int, int | None, str | None]
"""Layer, head, position."""


@dataclass(frozen=True)
class Job:
    """A patch job with what it found, prompt by prompt."""

    patch: Patch
    cell: str
    """Of its run: what all but the seed comes to."""
    config: dict[str, str]
    """Of its run, by dotted key."""
    sites: dict[str, Site]

    @cached_property
    def prompts(self) -> list[tuple[str, int]]:
        """What tells each of its prompts from all others, in any patch job and under any corruption: its clean text."""
        seen: Counter[str] = Counter()
        keys = []
        for prompt in self.patch.about.get("prompts", []):
            text = str(prompt.get("clean"))
            seen[text] += 1
            keys.append((text, seen[text]))
        sizes = {one.patched.shape[2] for one in self.sites.values() if one.patched is not None}
        # A job that was only just begun may not have told them yet.
        return keys if sizes <= {len(keys)} else [(self.patch.patch_id, at) for at in range(max(sizes))]


@dataclass(frozen=True)
class Family:
    """What patching one site recovers, in some runs under one corruption."""

    site: str
    jobs: tuple[Job, ...]
    steps: tuple[int, ...]
    places: tuple[Place, ...]
    prompts: tuple[tuple[str, int], ...]
    estimate: Estimate
    """Place by place, checkpoint after checkpoint: those of a step are `at` it."""
    gain: Float[np.ndarray, "run place prompt"] | None
    """None where the tables do not tell prompts apart."""

    @property
    def corruption(self) -> str:
        """Under which the runs were patched."""
        return self.jobs[0].patch.corruption

    @property
    def checkpoint(self) -> Int[np.ndarray, " place"]:
        """The number of the checkpoint that each place of the estimate is at."""
        return np.repeat(np.arange(len(self.steps)), len(self.places))

    @property
    def seeds(self) -> bool:
        """Whether something can be said of other seeds."""
        return self.estimate.has_seeds

    @cached_property
    def judged(self) -> Judged:
        """For other prompts, and for other seeds too where the runs allow that."""
        return self._judge(self.seeds)

    @cached_property
    def judged_here(self) -> Judged:
        """For other prompts in these runs."""
        return self._judge(False) if self.seeds else self.judged

    @cached_property
    def critical(self) -> float:
        """Of its verdicts: standard errors over prompts that hold for all places at once."""
        return critical_value(self.estimate)

    def _judge(self, seeds: bool) -> Judged:
        if self.gain is not None:
            return judge(self.estimate, self.critical, self.checkpoint, seeds=seeds)
        nothing = np.full(len(self.estimate.n), np.nan)
        return Judged(judge_means(self.estimate), nothing, nothing, float("nan"), True)

    @cached_property
    def interval(self) -> tuple[Places, Places]:
        """Of 95% at each place alone; scope as `judged`."""
        return interval(self.estimate, seeds=self.seeds)

    @cached_property
    def interval_here(self) -> tuple[Places, Places]:
        """Likewise for other prompts in these runs."""
        return interval(self.estimate, seeds=False)

    def at(self, step: int) -> slice:
        """The places at a checkpoint."""
        start = self.steps.index(step) * len(self.places)
        return slice(start, start + len(self.places))

    def grid(self, values: np.ndarray) -> np.ndarray:
        """Values of all places as [checkpoint, place]."""
        return values.reshape(len(self.steps), len(self.places))


def jobs(output: Output, runs: pd.DataFrame, patch_ids: Iterable[str], damaged: list[str] | None = None) -> list[Job]:
    """Patch jobs with all their tables; those that have none are left out.

    Args:
        runs: `Frames.runs`, which knows the cells.
    """
    wanted, cell = set(patch_ids), dict(zip(runs["run_id"], runs["cell"], strict=True))
    found = [(run, patch) for run in output.runs for patch in run.patches if patch.patch_id in wanted]
    texts = cells.texts([cells.of_run(run.config) for run, _ in found])
    made = [
        Job(patch, str(cell[run.run_id]), text | {"seed": str(run.config.get("seed"))}, sites_by_prompt(patch, damaged))
        for (run, patch), text in zip(found, texts, strict=True)
    ]
    return [job for job in made if job.sites]


def families(jobs: Sequence[Job]) -> Iterator[Family]:
    """One for each site that any of the jobs has patched, all under one corruption."""
    for site in dict.fromkeys(site for job in jobs for site in job.sites):
        yield family(site, [job for job in jobs if site in job.sites])


def family(site: str, jobs: Sequence[Job]) -> Family:
    """The family of a site, over jobs that have all patched it."""
    own = [job.sites[site] for job in jobs]
    steps = tuple(sorted({step for one in own for step in one.steps}))
    places = tuple(dict.fromkeys(place for one in own for place in one.places))
    labels = [job.cell for job in jobs]
    if any(one.patched is None for one in own):
        gain, gap = (_laid([getattr(one, name) for one in own], own, steps, places) for name in ("gain", "gap"))
        n = np.max([np.nan_to_num(_laid([one.n], [one], steps, places)[0]) for one in own], axis=0)
        return Family(site, tuple(jobs), steps, places, (), of_means(gain, gap, n.astype(int), labels), None)
    prompts = tuple(dict.fromkeys(key for job in jobs for key in job.prompts))
    number = {key: at for at, key in enumerate(prompts)}
    gain, gap = np.full((2, len(jobs), len(steps) * len(places), len(prompts)), np.nan)
    for at, (job, one) in enumerate(zip(jobs, own, strict=True)):
        assert one.patched is not None
        rows = [[steps.index(step) * len(places) + places.index(place) for place in one.places] for step in one.steps]
        columns = [number[key] for key in job.prompts]
        where = np.ix_(np.ravel(rows), np.array(columns))
        shape = (len(columns),)
        gain[at][where] = (one.patched - one.corrupted[:, None]).reshape(-1, *shape)
        room = np.where(np.isnan(one.patched), np.nan, (one.clean - one.corrupted)[:, None])
        gap[at][where] = room.reshape(-1, *shape)
    return Family(site, tuple(jobs), steps, places, prompts, estimate(gain, gap, labels), gain)


def _laid(
    values: Iterable[Float[np.ndarray, "step place"]],
    own: Sequence[Site],
    steps: Sequence[int],
    places: Sequence[Place],
) -> Float[np.ndarray, "run place"]:
    laid = np.full((len(own), len(steps), len(places)), np.nan)
    for at, (one, of_run) in enumerate(zip(own, values, strict=True)):
        laid[at][np.ix_([steps.index(step) for step in one.steps], [places.index(place) for place in one.places])] = (
            of_run
        )
    return laid.reshape(len(own), -1)


def groups(patches: pd.DataFrame, runs: pd.DataFrame) -> Iterator[tuple[tuple[str, str, str], list[str]]]:
    """The patch jobs that tables compare, by cell, patching and corruption: those that differ in their seed only."""
    of = patches.merge(runs[["run_id", "cell"]], on="run_id")
    keys = ["cell", "patching", "corruption"]
    for key, rows in of.groupby(keys, sort=False, dropna=False, observed=True):
        yield tuple("" if pd.isna(word) else str(word) for word in key), list(rows["patch_id"])  # type: ignore[misc]
