"""Tests whether another task is still done after training, and by the same heads.

A patch job on another task's prompts (`patching.also`) examines the same prompts at every checkpoint. Each checkpoint
is compared with the first one (step 0, unless a series lacks it), prompt by prompt:

- the win rate of each run, by McNemar's exact test with Holm's correction over all runs of the group and their
  checkpoints, and by the interval of its difference (Tango's, Bonferroni over the run's checkpoints);
- the fraction that patching each head recovers, by the simultaneous interval of the difference.

*Kept* requires that the interval lies within ±DELTA (two one-sided tests); the mere absence of a difference is not
enough. A head is *lost* if it mattered, its recovered fraction is shown to differ, and it is now small. If the whole
task is lost there is hardly a gap, and a fraction means nothing; so a head is also lost if its gain as a share of the
*first* checkpoint's gap is shown to differ and to be small. Any other head whose fraction is shown to differ has
*changed*; for the rest one cannot tell. Both kinds of share are judged for all heads and checkpoints at once: the
chance that any verdict is wrong is 5% for each kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import Any

import numpy as np
import pandas as pd

from ..columns import typed
from ..folder import OutputFolder
from ..frames import Frames
from ..prompts import Site
from .differences import Comparison, difference
from .estimates import LEVEL
from .families import Family, PatchJob, families, family, groups, jobs
from .holm import holm
from .tables import GROUP
from .verdicts import DELTA, Verdict
from .wins import change

_Changed = Callable[[Site, int], Site]

RETENTION = {
    **GROUP,
    **{"task": "string", "run_id": "string", "since": "int64", "step": "int64", "what": "string"},
    **{"site": "string", "layer": "Int64", "head": "Int64"},
    **{"before": "float64", "after": "float64", "difference": "float64", "low": "float64", "high": "float64"},
    **{"p": "float64", "verdict": "string", "n": "int64", "runs": "int64"},
}
"""Where `what` is `win rate`, one row per run and checkpoint after the first (`since`); where it is `head`, one per
head and checkpoint of a group of runs. `difference` is `after` - `before` with its pointwise 95% interval; only win
rates have a `p`."""


class Retained(Enum):
    """Verdicts on a win rate or a head."""

    KEPT = "kept"
    """Differs by less than DELTA from the first checkpoint."""
    LOST = "lost"
    """A win rate that is lower than at the first checkpoint; a head that mattered then and is small now."""
    GAINED = "gained"
    """A win rate that is higher than at the first checkpoint."""
    CHANGED = "changed"
    """A head whose recovered fraction has changed."""
    CANNOT_TELL = "cannot tell"


def retention(frames: Frames, damaged: list[str] | None = None) -> pd.DataFrame:
    """The retention of other tasks for all groups of runs; empty if no other task was measured.

    Args:
        damaged: as for `frames.load`.
    """
    parts = list(of_output(frames.output, frames.runs, frames.patches, damaged)) if frames.output else []
    return pd.concat(parts, ignore_index=True) if parts else typed([], RETENTION)


def of_output(
    output: OutputFolder, runs: pd.DataFrame, patches: pd.DataFrame, damaged: list[str] | None = None
) -> Iterator[pd.DataFrame]:
    """As `retention`, group by group."""
    other = {patch.patch_id: task for patch in output.patches if (task := task_of(patch.about))}
    for key, patch_ids in groups(patches[patches["patch_id"].isin(other)], runs):
        own = jobs(output, runs, patch_ids, damaged)
        of = dict(zip(GROUP, key, strict=True)) | {"task": other[patch_ids[0]]}
        yield typed(win_rates(own).assign(**of), RETENTION)
        for one in families(own):
            if one.places[0][1] is not None:
                yield typed(heads(one).assign(**of), RETENTION)


def task_of(about: Mapping[str, Any]) -> str | None:
    """The other task whose prompts a patch job uses, by its patch.json; None for the run's own prompts."""
    task = about.get("config", {}).get("patching", {}).get("task")
    return str(task.get("name")) if task else None


def win_rates(jobs: Sequence[PatchJob]) -> pd.DataFrame:
    """Compares the win rate of each run of a group, at each later checkpoint, with the first.

    The correction is over all of them, or else some of many runs in which nothing changed would be lost.
    """
    found = [
        (job, since, step, len(steps), change(job.wins[since], job.wins[step]))
        for job in jobs
        for since, *steps in [sorted(job.wins) or [0]]
        for step in steps
    ]
    shown = holm(np.array([one.p for *_, one in found]))
    rows = []
    for (job, since, step, many, one), is_shown in zip(found, shown, strict=True):
        low, high = one.interval(1 - (1 - LEVEL) / many)
        verdict = Retained.CANNOT_TELL
        if low > -DELTA and high < DELTA:
            verdict = Retained.KEPT
        elif is_shown:
            verdict = Retained.GAINED if one.difference > 0 else Retained.LOST
        low, high = one.interval()
        rows.append(
            {
                "run_id": job.patch.run_id, "since": since, "step": step, "what": "win rate", "before": one.before,
                "after": one.after, "difference": one.difference, "low": low, "high": high, "p": one.p,
                "verdict": verdict.value, "n": one.n, "runs": 1,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def heads(now: Family) -> pd.DataFrame:
    """Compares the recovered fraction of each head at each later checkpoint with the first; empty without values by
    prompt, or with a single checkpoint."""
    first = _other(now, _at_first)
    found = None if now.is_estimate or len(now.steps) < 2 else difference(first, now)
    if found is None:
        return pd.DataFrame()
    against_first = _other(now, _of_first_gap)
    in_first_gap = difference(first, against_first)
    assert in_first_gap is not None  # the same checkpoints and heads
    shown = [Comparison.MORE.value, Comparison.LESS.value]
    differs, brings_other = np.isin(found.words, shown), np.isin(in_first_gap.words, shown)
    is_small, brings_little = (one.judged.words == Verdict.SMALL.value for one in (now, against_first))
    mattered = first.judged.words == Verdict.MATTERS.value
    verdict = np.select(
        [
            found.words == Comparison.ALIKE.value,
            mattered & (differs & is_small | brings_other & brings_little),
            differs,
        ],
        [Retained.KEPT.value, Retained.LOST.value, Retained.CHANGED.value],
        Retained.CANNOT_TELL.value,
    )
    layer, head, _ = zip(*now.places, strict=True)
    rows = pd.DataFrame(
        {
            "since": now.steps[0], "step": np.repeat(now.steps, len(now.places)), "what": "head", "site": now.site,
            "layer": list(layer) * len(now.steps), "head": list(head) * len(now.steps),
            "before": first.estimate.recovered, "after": now.estimate.recovered, "difference": found.difference,
            "low": found.low, "high": found.high, "verdict": verdict, "n": found.n, "runs": now.estimate.runs,
        }
    )  # fmt: skip
    return rows[rows["step"] != now.steps[0]]


def _other(now: Family, site: _Changed) -> Family:
    """Replaces a family's values at each checkpoint."""
    changed = [
        replace(job, sites={now.site: site(job.sites[now.site], job.sites[now.site].steps.index(now.steps[0]))})
        for job in now.jobs
    ]
    return family(now.site, changed)


def _at_first(one: Site, first: int) -> Site:
    """Repeats the first checkpoint's values at every checkpoint."""
    at = np.full(len(one.steps), first)
    patched = None if one.patched is None else one.patched[at]
    return replace(one, clean=one.clean[at], corrupted=one.corrupted[at], patched=patched, gain=one.gain[at],
                   gap=one.gap[at], n=one.n[at])  # fmt: skip


def _of_first_gap(one: Site, first: int) -> Site:
    """Each checkpoint's gains over the first checkpoint's gap."""
    start = _at_first(one, first)
    patched = None if one.patched is None else one.patched - one.corrupted[:, None] + start.corrupted[:, None]
    return replace(start, patched=patched, gain=one.gain, n=one.n)
