"""What the heads of one run do, read from its patch jobs."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from ..inference.estimates import estimate
from ..inference.families import Job
from .roles import Block, Signatures

SITES = ("z", "v", "pattern")


def signatures(jobs: Sequence[Job], steps: Sequence[int]) -> Signatures | None:
    """Of one run, from its patch jobs under some corruptions, at these checkpoints; None where tables do not tell
    prompts apart, or have none of SITES. Under grouped-query attention v has key/value heads, and is left out."""
    blocks: dict[Block, np.ndarray] = {}
    heads: tuple[tuple[int, int], ...] = ()
    for job in jobs:
        half = of_halves(job)
        for site in SITES:
            one = job.sites.get(site)
            if one is None or one.patched is None or not set(steps) <= set(one.steps):
                continue
            own = tuple((layer, head) for layer, head, _ in one.places if head is not None)
            heads = heads or own
            if own != heads:
                continue
            at = [one.steps.index(step) for step in steps]
            gap = (one.clean - one.corrupted)[at]
            gain = one.patched[at] - one.corrupted[at][:, None]
            blocks[site, job.patch.corruption] = np.stack([_recovered(gain, gap, chosen) for chosen in half])
    return Signatures(heads, blocks) if blocks else None


def _recovered(
    gain: Float[np.ndarray, "step head prompt"],
    gap: Float[np.ndarray, "step prompt"],
    chosen: Bool[np.ndarray, " prompt"],
) -> Float[np.ndarray, "head step"]:
    steps, heads, _ = gain.shape
    room = np.broadcast_to(gap[:, None], gain.shape)
    gain, room = (values[..., chosen].reshape(1, steps * heads, -1) for values in (gain, room))
    return estimate(gain, room).recovered.reshape(steps, heads).T


def of_halves(job: Job) -> Bool[np.ndarray, "half prompt"]:
    """Which half each prompt of a job is in: the same one in every job that has it, in no order."""
    side = np.array([zlib.crc32(f"{text}{number}".encode()) % 2 for text, number in job.prompts])
    return side == np.arange(2)[:, None]
