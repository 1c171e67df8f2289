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
from .inference.families import Job, groups, jobs
from .prompts import Site

SHARE = 0.1
"""Largest standard error of a gap, as a share of it, with which step 0 can be compared."""


@dataclass(frozen=True)
class Spread:
    """How much one head's recovered differs."""

    name: str
    recovered: float
    prompts: float
    """Standard deviation over prompts of e = (gain - recovered · gap) / mean gap, in one run."""
    seeds: float
    """Standard deviation of recovered between seeds; NaN where there is one."""


@dataclass(frozen=True)
class Gap:
    """What clean and corrupted prompts differ by, at one checkpoint (logits)."""

    step: int | None
    mean: float
    deviation: float
    """Over prompts."""
    n: int
    """Prompts that it was measured on."""

    @property
    def needed(self) -> tuple[int, int, int] | None:
        """Prompts with which its standard error is SHARE of it, and both ends of the 95% interval of that; None where
        the gap is not told from zero."""
        half = stats.t.ppf(0.5 + LEVEL / 2, self.n - 1) * self.deviation / math.sqrt(self.n)
        if abs(self.mean) <= half:
            return None
        ends = (abs(self.mean), abs(self.mean) + half, abs(self.mean) - half)
        mean, low, high = (max(2, math.ceil((self.deviation / (SHARE * gap)) ** 2)) for gap in ends)
        return mean, low, high


@dataclass(frozen=True)
class Pilot:
    """What the runs of a group tell, which differ in their seed only."""

    name: str
    step: int
    n: int
    runs: int
    places: int
    """Heads at all checkpoints."""
    spreads: tuple[Spread, ...]
    gaps: tuple[Gap, ...]
    """At the first and the last checkpoint, and at `step`."""
    flips: dict[tuple[int, int], float]
    """Share of prompts that change sides from one checkpoint to the next: whether the answer's logit is above the
    subject's."""


def pilots(
    output: folder.Output, site: str = "z", step: int | None = None, damaged: list[str] | None = None
) -> Iterator[Pilot]:
    """One for each setting and corruption that has patched a site of heads prompt by prompt.

    Args:
        step: the checkpoint whose heads are looked at; None is the last.

    Raises:
        UserError: there is no such checkpoint, or nothing to look at.
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


def _pilot(name: str, own: Sequence[Job], site: str, common: Sequence[int], step: int | None) -> Pilot:
    found = [job.sites[site] for job in own]
    step = common[-1] if step is None else step
    n = found[0].clean.shape[1]
    if n < 2:
        raise UserError(f"{name}: it has one prompt, which tells nothing of others; patch more (patching.prompts=48)")
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
    return Pilot(name, step, n, len(found), len(heads) * len(common), tuple(spreads), gaps, flips)


def influences(one: Site, step: int) -> tuple[Float[np.ndarray, " head"], Float[np.ndarray, "head prompt"]]:
    """What each head of a run recovers, and how far each prompt is from that: e = (gain - recovered gap) / mean gap."""
    assert one.patched is not None
    at = one.steps.index(step)
    gap = one.clean[at] - one.corrupted[at]
    gain = one.patched[at] - one.corrupted[at]
    recovered = gain.mean(axis=1) / gap.mean()
    return recovered, (gain - recovered[:, None] * gap) / gap.mean()


def _gap(found: Sequence[Site], step: int) -> Gap:
    gaps = np.array([one.clean[one.steps.index(step)] - one.corrupted[one.steps.index(step)] for one in found])
    return Gap(step, float(gaps.mean()), float(np.sqrt(gaps.var(axis=1, ddof=1).mean())), gaps.shape[1])
