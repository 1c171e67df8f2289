"""Reads the effects and the attention of one run's heads from its patch jobs."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from .. import measured
from ..folder import Patch
from ..inference.estimates import estimate
from ..inference.families import PatchJob
from .roles import LOOKS, Block, Signatures

SITES = ("z", "v", "pattern")


def signatures(
    jobs: Sequence[PatchJob], steps: Sequence[int], patches: Sequence[Patch] = (), damaged: list[str] | None = None
) -> Signatures | None:
    """The signatures of one run's heads at these checkpoints, from its patch jobs under some corruptions; None without
    values by prompt or any of SITES. With grouped-query attention v has key/value heads, and is left out.

    Args:
        patches: the run's patch jobs; the first one with the table `looks` is used.
        damaged: as for `frames.load`.
    """
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
    return Signatures(heads, blocks | _looks(patches, steps, heads, damaged)) if blocks else None


def _recovered(
    gain: Float[np.ndarray, "step head prompt"],
    gap: Float[np.ndarray, "step prompt"],
    chosen: Bool[np.ndarray, " prompt"],
) -> Float[np.ndarray, "head step"]:
    steps, heads, _ = gain.shape
    room = np.broadcast_to(gap[:, None], gain.shape)
    gain, room = (values[..., chosen].reshape(1, steps * heads, -1) for values in (gain, room))
    return estimate(gain, room).recovered.reshape(steps, heads).T


def _looks(
    patches: Sequence[Patch], steps: Sequence[int], heads: Sequence[tuple[int, int]], damaged: list[str] | None
) -> dict[Block, np.ndarray]:
    """Attention in clean prompts minus uniform attention: a block for each query, with all keys and checkpoints. Empty
    if no patch job has it for all heads and checkpoints."""
    for patch in patches:
        if not patch.about.get("prompts") or not all(patch.table(step, "looks").exists() for step in steps):
            continue
        half = of_halves(PatchJob(patch, "", {}, {}))
        courses: dict[tuple[str, str], list[np.ndarray]] = {}
        for rows in measured.each([(patch, step) for step in steps], "looks", ("by_prompt",), damaged):
            for (query, key), own in rows[rows["side"] == "clean"].groupby(["query", "key"], observed=True):
                own = own.set_index(["layer", "head"]).reindex(list(heads))
                values = own["by_prompt"].tolist()
                if not all(isinstance(one, np.ndarray) and len(one) == half.shape[1] for one in values):
                    continue
                at = np.stack(values) - own["uniform"].to_numpy(dtype=float)[:, None]
                there = half[:, None] & ~np.isnan(at)
                with np.errstate(invalid="ignore"):
                    mean = np.where(there, at, 0.0).sum(axis=2) / there.sum(axis=2)
                courses.setdefault((query, key), []).append(mean)
        whole = {names: np.stack(each, axis=2) for names, each in courses.items() if len(each) == len(steps)}
        queries = dict.fromkeys(query for query, _ in whole)
        return {
            (LOOKS, query, *(key for of, key in whole if of == query)): np.concatenate(
                [values for (of, _), values in whole.items() if of == query], axis=2
            )
            for query in queries
        }
    return {}


def of_halves(job: PatchJob) -> Bool[np.ndarray, "half prompt"]:
    """Assigns each prompt of a job to a random half, the same in every job that has it."""
    side = np.array([zlib.crc32(f"{text}{number}".encode()) % 2 for text, number in job.prompts])
    return side == np.arange(2)[:, None]
