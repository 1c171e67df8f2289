"""Matches heads of different runs by their role: which head of one run does what a head of another does.

A head's *signature* is what patching it recovers, by site (z, v, pattern) and corruption at all checkpoints, and where
it looks: its attention in clean prompts minus uniform attention. Heads of two runs, whose models may differ in size,
are paired by the linear assignment (`scipy.optimize`) with the largest total similarity, the coefficient of identity of
Zegers & ten Berge (1985, Psychometrika 50),

    s(x, y) = 2 x·y / (x·x + y·y),

which is 1 only for signatures of equal shape *and* size. It is averaged over effects and attention if both are known.
The signatures of the two runs come from different halves of the prompts, so that the noise of shared prompts does not
make them similar; both assignments of halves are averaged.

*Null.* Signatures consist of blocks: a site under a corruption, or a query with all its keys, at all checkpoints. In
each draw every block of the second run is permuted among its heads, so that a block keeps its curves but what a head
does at one site is unrelated to what it does at another; then heads are assigned again. p is the share of draws in
which the head finds a partner at least as similar, and a pair is *matched* if p is below 5% with Holm's correction over
the first run's heads. So a match means that the whole signature recurs, not only that both runs have a largest head;
with a single block nothing is matched. If few heads have a role the null is conservative, because permuting creates
more of them.

A head has no role unless both halves of the prompts show an effect beyond DELTA, wherever it looks: the rest is noise
and not compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import optimize

from ..inference.holm import holm
from ..inference.verdicts import DELTA

DRAWS = 499
SEED = 0

LOOKS = "looks"
"""Prefix of the names of attention blocks."""

Block = tuple[str, ...]
"""The name of a block: a site and a corruption; or LOOKS, a query and its possible keys."""


@dataclass(frozen=True)
class Signatures:
    """The heads' signatures in a run, on two disjoint halves of the prompts."""

    heads: tuple[tuple[int, int], ...]
    blocks: Mapping[Block, Float[np.ndarray, "half head part"]]
    """Recovered, or shares of attention. NaN: not defined."""


@dataclass(frozen=True)
class Match:
    """A head of the first run and its partner in the second; None if the second run has fewer heads with a role."""

    head: tuple[int, int]
    partner: tuple[int, int] | None
    similarity: float
    p: float
    is_matched: bool


def match(first: Signatures, second: Signatures, draws: int = DRAWS) -> list[Match]:
    """The heads of `first` that have a role, each with its partner in `second`."""
    blocks = [block for block in first.blocks if block in second.blocks]
    if not blocks:
        return []
    own, others = ([of.blocks[block] for block in blocks] for of in (first, second))
    # Values that are undefined in one of the runs are not compared.
    compared = [
        np.isfinite(a).all(axis=(0, 1)) & np.isfinite(b).all(axis=(0, 1)) for a, b in zip(own, others, strict=True)
    ]
    own, others = ([block[..., use] for block, use in zip(of, compared, strict=True)] for of in (own, others))
    if not sum(use.any() for use, block in zip(compared, blocks, strict=True) if block[0] != LOOKS):
        return []
    of_effects = np.array([block[0] != LOOKS for block in blocks])
    ours, theirs = _has_role(own)[of_effects].any(axis=0), _has_role(others)[of_effects]
    own = [block[:, ours] for block in own]
    # Each half of the prompts of one run against the other half in the other.
    shared = np.stack([np.stack([a[0] @ b[1].T, a[1] @ b[0].T]) for a, b in zip(own, others, strict=True)])
    size = np.stack([(block**2).sum(axis=2) for block in own])
    sizes = np.stack([(block[::-1] ** 2).sum(axis=2) for block in others])
    parts = [part for part in (of_effects, ~of_effects) if part.any()]

    def assigned(deal: Int[np.ndarray, "block other"]) -> tuple[np.ndarray, np.ndarray]:
        to = np.take_along_axis(shared, deal[:, None, None], 3)
        other = np.take_along_axis(sizes, deal[:, None], 2)
        with np.errstate(invalid="ignore", divide="ignore"):
            each = [
                2 * to[part].sum(axis=0) / (size[part].sum(axis=0)[:, :, None] + other[part].sum(axis=0)[:, None])
                for part in parts
            ]
        alike = np.mean(np.nan_to_num(each), axis=(0, 1))
        return _assign(alike, np.asarray(np.take_along_axis(theirs, deal[of_effects], 1).any(axis=0)))

    count = others[0].shape[1]
    partner, similarity = assigned(np.tile(np.arange(count), (len(blocks), 1)))
    random = np.random.default_rng(SEED)
    as_alike = np.zeros(len(partner))
    for _ in range(draws):
        deal = np.stack([random.permutation(count) for _ in blocks])
        as_alike += assigned(deal)[1] >= similarity - 1e-9
    p = np.where(partner >= 0, (as_alike + 1) / (draws + 1), 1.0)
    matched = holm(p)
    return [
        Match(
            first.heads[head], second.heads[other] if other >= 0 else None,
            float(alike) if other >= 0 else float("nan"), float(chance), bool(is_matched),
        )
        for head, other, alike, chance, is_matched in zip(
            np.flatnonzero(ours), partner, similarity, p, matched, strict=True
        )
    ]  # fmt: skip


def _assign(
    alike: Float[np.ndarray, "head other"], has_role: Bool[np.ndarray, " other"]
) -> tuple[Int[np.ndarray, " head"], Float[np.ndarray, " head"]]:
    """The partner of each head among the others that have a role (-1 if none is left), and their similarity (then
    -1)."""
    partner, found = np.full(len(alike), -1), np.full(len(alike), -1.0)
    theirs = np.flatnonzero(has_role)
    rows, columns = optimize.linear_sum_assignment(alike[:, theirs], maximize=True)
    partner[rows], found[rows] = theirs[columns], alike[rows, theirs[columns]]
    return partner, found


def _has_role(blocks: Sequence[Float[np.ndarray, "half head part"]]) -> Bool[np.ndarray, "block head"]:
    """Whether both halves of the prompts show an effect of the head in some block."""
    return np.stack([(np.abs(block) > DELTA).all(axis=0).any(axis=1) for block in blocks])
