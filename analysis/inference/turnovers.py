"""Simulated circuits with a known share of gain from heads that mattered before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ..folder import Patch
from ..prompts import Site
from .families import Family, PatchJob, family
from .transformations import SITE, Answer, transformation
from .verdicts import DELTA

WORLDS = {
    "kept": ([0.5, 0.3, 0.1, 0.07], [0.6, 0.3, 0.12, 0.08]),
    "half": ([0.45, 0.0, 0.08, 0.0], [0.45, 0.4, 0.08, 0.07]),
    "new": ([0.3, 0.0, 0.0, 0.02], [0.15, 0.5, 0.3, 0.07]),
}
"""Recovered by the heads that matter at the first and the second checkpoint; twelve others never matter."""
NULL = 12


def simulated(
    random: np.random.Generator, recovered: Float[np.ndarray, "2 head"], prompts: int, runs: int, noise: float = 0.3
) -> Family:
    """Simulated patch jobs with gaps of 2 and of 8 logits, which vary by 1 between prompts. `noise` is the standard
    deviation (logits) of each prompt's gain; runs share half of its variance."""
    gap = np.array([2.0, 8.0])[:, None] + random.standard_normal(prompts)
    shape = (*recovered.shape, prompts)
    shared, jobs = random.standard_normal(shape), []
    for run in range(runs):
        own = random.standard_normal(shape)
        patched = recovered[..., None] * gap[:, None] + noise * (shared + own) / np.sqrt(2)
        about = {"prompts": [{"clean": f"{number}"} for number in range(prompts)]}
        places = tuple((0, head, None) for head in range(recovered.shape[1]))
        room, n = np.broadcast_to(gap.mean(axis=1)[:, None], recovered.shape), np.full(recovered.shape, prompts)
        site = Site((0, 8), places, gap, np.zeros_like(gap), patched, patched.mean(axis=2), room, n)
        jobs.append(PatchJob(Patch(f"{run}", f"{run}", "", Path(), about, {}), "", {"seed": f"{run}"}, {SITE: site}))
    return family(SITE, jobs)


def simulations(draws: int) -> Iterator[str]:
    """How often each answer is given in each world, and how often the interval covers T."""
    yield f"{draws} draws each; T of heads that recover more than {DELTA}"
    for name, (before, after) in WORLDS.items():
        recovered = np.array([[*before, *[0.0] * NULL], [*after, *[0.0] * NULL]])
        matters = recovered > DELTA
        truth = recovered[1, matters.all(axis=0)].sum() / recovered[1, matters[1]].sum()
        for prompts, runs in ((12, 1), (48, 3), (192, 1)):
            random = np.random.default_rng(0)
            found = [transformation(simulated(random, recovered, prompts, runs)) for _ in range(draws)]
            answers = Counter(one.answer for one in found)
            shares = ", ".join(f"{answer.value} {answers[answer] / draws:.0%}" for answer in Answer)
            # Without an answer there is no interval, so nothing can be wrong.
            held = np.mean([np.isnan(one.low) or one.low - 1e-9 <= truth <= one.high + 1e-9 for one in found])
            yield f"{name}, T {truth:.2f}, {prompts} prompts, {runs} runs: {shares}; interval holds T {held:.0%}"
