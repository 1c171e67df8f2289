"""What a small finished sweep, the pilot, shows of how much prompts and seeds differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from ..errors import UserError
from . import folder
from .frames import tabulate
from .inference.estimates import LEVEL
from .inference.families import PatchJob, groups, jobs
from .prompts import Site

SHARE = 0.1
"""Largest standard error of a gap, relative to the gap, for comparing step 0."""


@dataclass(frozen=True)
class Spread:
    """How much one head's recovered varies."""

    name: str
    recovered: float
    prompts: float
    """Standard deviation over prompts of e = (gain - recovered · gap) / mean gap, in one run."""
    seeds: float
    """Standard deviation of recovered between seeds; NaN for one seed."""


@dataclass(frozen=True)
class Gap:
    """The gap at one checkpoint, in logits."""

    step: int | None
    mean: float
    deviation: float
    """Standard deviation over prompts."""
    n: int
    """Number of prompts."""

    @property
    def needed(self) -> tuple[int, int, int] | None:
        """Prompts needed for a relative standard error of SHARE, with their 95% interval; None for a gap that is not
        distinguishable from zero."""
        half = stats.t.ppf(0.5 + LEVEL / 2, self.n - 1) * self.deviation / math.sqrt(self.n)
        if abs(self.mean) <= half:
            return None
        ends = (abs(self.mean), abs(self.mean) + half, abs(self.mean) - half)
        mean, low, high = (max(2, math.ceil((self.deviation / (SHARE * gap)) ** 2)) for gap in ends)
        return mean, low, high


@dataclass(frozen=True)
class Pilot:
    """Estimates from a group of runs that differ only in their seed."""

    name: str
    step: int
    n: int
    runs: int
    places: int
    """Heads × checkpoints."""
    spreads: tuple[Spread, ...]
    gaps: tuple[Gap, ...]
    """At the first and the last checkpoint, and at `step`."""
    influence: Float[np.ndarray, "place prompt"]
    """Of each prompt on recovered, mean over runs: all heads of the first checkpoint, then of the next."""
    at: int
    """Where the heads of `step` begin in it."""
    flips: dict[tuple[int, int], float]
    """For two neighbouring checkpoints, the share of prompts whose logit difference changes sign."""


def pilots(
    output: folder.OutputFolder, site: str = "z", step: int | None = None, damaged: list[str] | None = None
) -> Iterator[Pilot]:
    """Yield a pilot for each setting and corruption with values of heads by prompt.

    Args:
        step: checkpoint of the heads; None for the last.

    Raises:
        UserError: there is no such checkpoint, or no patched heads.
    """
    frames = tabulate(output, most=0, damaged=damaged)
    some, steps = False, set()
    for (setting, patching, corruption), patch_ids in groups(frames.patches, frames.runs):
        own = [job for job in jobs(output, frames.runs, patch_ids, damaged) if site in job.sites]
        own = [job for job in own if job.sites[site].patched is not None]
        common = sorted(set.intersection(*(set(job.sites[site].steps) for job in own))) if own else []
        steps |= set(common)
        if common and (step is None or step in common):
            some = True
            yield _pilot(f"{setting}, {corruption} corruption, patching {patching}", own, site, common, step)
    if steps and not some:
        raise UserError(
            f"--step={step}: no such checkpoint was patched; there are {', '.join(map(str, sorted(steps)))}"
        )
    if not some:
        raise UserError(
            f"{output.path}: no patch job of heads (site {site}) tells prompts apart; run a small sweep first, for "
            "example `mi-sweeps run seed=0,1,2 patching=heads`"
        )


def _pilot(name: str, own: Sequence[PatchJob], site: str, common: Sequence[int], step: int | None) -> Pilot:
    found = [job.sites[site] for job in own]
    step = common[-1] if step is None else step
    n = found[0].clean.shape[1]
    if n < 2:
        raise UserError(f"{name}: a single prompt says nothing about others; patch more (patching.prompts=48)")
    heads = [place for place in found[0].places if place[1] is not None]
    of_runs = [influences(one, step) for one in found]
    recovered = np.array([of_run[0] for of_run in of_runs])
    over_prompts = np.sqrt(np.mean([of_run[1].var(axis=-1, ddof=1) for of_run in of_runs], axis=0))
    between = recovered.std(axis=0, ddof=1) if len(found) > 1 else np.full(len(heads), np.nan)
    spreads = [
        Spread(f"{layer}.{head}", *map(float, values))
        for (layer, head, _), *values in zip(heads, recovered.mean(axis=0), over_prompts, between, strict=True)
    ]
    won = [np.array([(one.clean[one.steps.index(at)] > 0) for at in common]) for one in found]
    flips = {
        (before, after): float(np.mean([of_run[at] != of_run[at + 1] for of_run in won]))
        for at, (before, after) in enumerate(zip(common, common[1:], strict=False))
    }
    gaps = tuple(_gap(found, at) for at in sorted({common[0], step, common[-1]}))
    every = np.concatenate([np.mean([influences(one, at)[1] for one in found], axis=0) for at in common])
    every = np.nan_to_num(every, posinf=0.0, neginf=0.0)  # from a gap that is exactly zero
    at = common.index(step) * len(heads)
    return Pilot(name, step, n, len(found), len(every), tuple(spreads), gaps, every, at, flips)


def influences(one: Site, step: int) -> tuple[Float[np.ndarray, " head"], Float[np.ndarray, "head prompt"]]:
    """Recovered of each head of a run, and the influence of each prompt: e = (gain - recovered · gap) / mean gap."""
    assert one.patched is not None
    at = one.steps.index(step)
    gap = one.clean[at] - one.corrupted[at]
    gain = one.patched[at] - one.corrupted[at]
    recovered = gain.mean(axis=1) / gap.mean()
    return recovered, (gain - recovered[:, None] * gap) / gap.mean()


def _gap(found: Sequence[Site], step: int) -> Gap:
    gaps = np.array([one.clean[one.steps.index(step)] - one.corrupted[one.steps.index(step)] for one in found])
    return Gap(step, float(gaps.mean()), float(np.sqrt(gaps.var(axis=1, ddof=1).mean())), gaps.shape[1])
