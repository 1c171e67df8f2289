"""Shares of the difference between two checkpoints that single pieces account for, from the table `cross`.

For run s and prompt i, a piece of checkpoint `source` patched into checkpoint `into` has the gain g = mixed - into and
the gap r = from - into (logits). Its share, mean g / mean r, is the same ratio as recovered (`estimates`) and has the
same interval: Fieller's, over prompts and seeds. It is undefined where the logit differences of the two checkpoints
cannot be distinguished.

Shapley values also depend on randomly drawn orders. All runs have the same orders, so the variance due to the draw is
added, with one degree of freedom less than there are pairs of orders.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from .. import measured
from ..columns import typed
from ..folder import OutputFolder, Patch
from ..frames import Frames
from .estimates import Estimate, Places, estimate, interval
from .families import PatchJob, groups
from .tables import GROUP
from .verdicts import Judged, critical_values_of, judge

KINDS = ("activation", "weights", "shapley")
COMPONENT = {"component": "string", "layer": "Int64", "head": "Int64"}
SHARES = {
    **GROUP,
    **{"into_step": "int64", "source_step": "int64", "kind": "string", **COMPONENT},
    **{"share": "float64", "low": "float64", "high": "float64"},
    **{"low_these_runs": "float64", "high_these_runs": "float64"},
    **{"simultaneous_low": "float64", "simultaneous_high": "float64"},
    **{"verdict": "string", "verdict_these_runs": "string", "gain": "float64", "gap": "float64"},
    **{"n": "int64", "runs": "int64"},
}
"""One row per piece and pair of checkpoints, for a group of runs that differ only in their seed."""

Piece = tuple[int, int, str, int | None, int | None]
"""The steps `into` and `source`, component, layer, head."""


@dataclass(frozen=True)
class Shares:
    """All pieces of one kind in some runs, patched from later checkpoints into earlier ones, or from earlier into
    later."""

    kind: str
    forward: bool
    """Whether pieces come from the later checkpoint."""
    pieces: tuple[Piece, ...]
    estimate: Estimate
    """Its `recovered` is the share, its `gap` the difference between the checkpoints."""
    drawn: Places | None
    """Variance of the share due to the drawn orders; None where nothing is drawn."""
    pairs: int
    """Of drawn orders."""

    @property
    def seeds(self) -> bool:
        """Whether there are enough seeds for intervals over seeds."""
        return self.estimate.has_seeds

    @cached_property
    def here(self) -> Estimate:
        """The estimate with the variance of drawn orders instead of that of seeds."""
        nothing = np.zeros(len(self.pieces))
        if self.drawn is None:
            return replace(self.estimate, seed_variance=nothing, seed_freedom=np.ones(len(self.pieces)))
        freedom = np.full(len(self.pieces), self.pairs - 1.0)
        return replace(self.estimate, seed_variance=self.drawn, seed_freedom=freedom)

    @cached_property
    def everywhere(self) -> Estimate:
        """The estimate with the variances of seeds and of drawn orders, with Satterthwaite's degrees of freedom."""
        if not self.seeds:
            return self.here
        if self.drawn is None:
            return self.estimate
        seeds, drawn = self.estimate.seed_variance, self.here.seed_variance
        total = seeds + drawn
        with np.errstate(divide="ignore", invalid="ignore"):
            freedom = total**2 / (seeds**2 / self.estimate.seed_freedom + drawn**2 / self.here.seed_freedom)
        return replace(self.estimate, seed_variance=total, seed_freedom=np.where(total > 0, freedom, 1.0))

    @cached_property
    def interval(self) -> tuple[Places, Places]:
        """Pointwise 95% intervals for other prompts, and for other seeds if the runs allow it."""
        return self._interval(self.everywhere, self.seeds)

    @cached_property
    def interval_here(self) -> tuple[Places, Places]:
        """Likewise for other prompts in these runs."""
        return self._interval(self.here, False)

    @cached_property
    def judged(self) -> Judged:
        """Simultaneous verdicts on all pieces, with the scope of `interval`."""
        return self._judge(self.everywhere, self.seeds)

    @cached_property
    def judged_here(self) -> Judged:
        """Likewise for other prompts in these runs."""
        return self._judge(self.here, False)

    def _interval(self, found: Estimate, seeds: bool) -> tuple[Places, Places]:
        return interval(found, seeds=seeds or self.drawn is not None)

    def _judge(self, found: Estimate, seeds: bool) -> Judged:
        return judge(found, critical_values_of(found), self.checkpoint, seeds=seeds or self.drawn is not None)

    @property
    def checkpoint(self) -> Int[np.ndarray, " piece"]:
        """The index of each piece's pair of checkpoints."""
        steps = [piece[:2] for piece in self.pieces]
        number = {pair: at for at, pair in enumerate(dict.fromkeys(steps))}
        return np.array([number[pair] for pair in steps], dtype=int)


def shares(frames: Frames, damaged: list[str] | None = None) -> pd.DataFrame:
    """The table `shares` for all groups; values by prompt are read group by group.

    Args:
        damaged: as for `frames.load`.
    """
    if frames.output is None:
        return typed([], SHARES)
    found = list(tables_of(frames.output, frames.runs, frames.patches, damaged))
    return pd.concat(found, ignore_index=True) if found else typed([], SHARES)


def tables_of(
    output: OutputFolder, runs: pd.DataFrame, patches: pd.DataFrame, damaged: list[str] | None = None
) -> Iterator[pd.DataFrame]:
    """The same, one frame for each group, kind and direction."""
    return (rows(key, one) for key, one in of_output(output, runs, patches, damaged))


def of_output(
    output: OutputFolder, runs: pd.DataFrame, patches: pd.DataFrame, damaged: list[str] | None = None
) -> Iterator[tuple[tuple[str, str, str], Shares]]:
    """The pieces of each setting, patching and corruption: of each kind, in both directions."""
    by_id = {patch.patch_id: patch for patch in output.patches}
    for key, patch_ids in groups(patches, runs):
        table = measured.read(output, "cross", ["by_prompt"], damaged, patch_ids)
        if len(table):
            yield from ((key, one) for one in of_table(table, [by_id[one] for one in patch_ids]))


def of_table(table: pd.DataFrame, patches: Sequence[Patch]) -> Iterator[Shares]:
    """Of rows of `cross` with what their prompts have, and of the patch jobs that made them.

    Only what all of them have: a mean is then never over others from piece to piece.
    """
    there = set(table["patch_id"])
    jobs = [PatchJob(patch, "", {}, {}) for patch in patches if patch.patch_id in there]
    prompts = {key: at for at, key in enumerate(dict.fromkeys(key for job in jobs for key in job.prompts))}
    columns = [np.array([prompts[key] for key in job.prompts]) for job in jobs]
    found = [_values(table[table["patch_id"] == job.patch.patch_id]) for job in jobs]
    sought = dict.fromkeys((kind, piece) for _, pieces, _ in found for kind, piece in pieces)
    shared = [one for one in sought if all(one in pieces for _, pieces, _ in found)]
    drawn = [_pairs(job.patch) for job in jobs]
    for kind, forward in dict.fromkeys((kind, piece[1] > piece[0]) for kind, piece in shared):
        chosen = [piece for other, piece in shared if other == kind and (piece[1] > piece[0]) == forward]
        gain, gap = np.full((2, len(jobs), len(chosen), len(prompts)), np.nan)
        error = np.full((len(jobs), len(chosen)), np.nan)
        for at, ((own, pieces, errors), where) in enumerate(zip(found, columns, strict=True)):
            for number, piece in enumerate(chosen):
                into, source = own[piece[0]], own[piece[1]]
                gain[at, number, where], gap[at, number, where] = pieces[kind, piece] - into, source - into
                error[at, number] = errors[kind, piece]
        estimated = estimate(gain, gap)
        spread = None
        if kind == "shapley":
            # The orders are the same in all runs, so averaging over runs does not reduce this error.
            with np.errstate(divide="ignore", invalid="ignore"):
                spread = (error.mean(axis=0) / estimated.gap) ** 2
        yield Shares(kind, bool(forward), tuple(chosen), estimated, spread, min(drawn))


def _values(
    table: pd.DataFrame,
) -> tuple[
    dict[int, np.ndarray], dict[tuple[str, Piece], Float[np.ndarray, " prompt"]], dict[tuple[str, Piece], float]
]:
    """Reads from one patch job each checkpoint's own values, those with each piece patched, and the error due to drawn
    orders."""
    own, pieces, errors = {}, {}, {}
    for row in table.itertuples():
        into, source = int(row.into_step), int(row.source_step)
        values = np.asarray(row.by_prompt, dtype=float)
        if row.kind == "own":
            own[into] = values
            continue
        layer, head = (None if pd.isna(value) else int(value) for value in (row.layer, row.head))
        piece = (into, source, str(row.component), layer, head)
        pieces[str(row.kind), piece] = values
        errors[str(row.kind), piece] = float(row.standard_error)
    return own, pieces, errors


def _pairs(patch: Patch) -> int:
    """The number of pairs of orders that a patch job drew."""
    asked: Any = patch.about.get("config", {}).get("patching", {}).get("cross") or {}
    return int(asked.get("permutations", 2)) // 2


def rows(key: tuple[str, str, str], found: Shares) -> pd.DataFrame:
    """The rows of one kind and direction."""
    low, high = found.interval
    low_here, high_here = found.interval_here
    into, source, component, layer, head = zip(*found.pieces, strict=True)
    judged, here, values = found.judged, found.judged_here, found.estimate
    return typed(
        pd.DataFrame(
            {
                **dict(zip(GROUP, key, strict=True)), "into_step": into, "source_step": source, "kind": found.kind,
                "component": component, "layer": layer, "head": head, "share": values.recovered,
                "low": low, "high": high, "low_these_runs": low_here, "high_these_runs": high_here,
                "simultaneous_low": judged.low, "simultaneous_high": judged.high,
                "verdict": judged.words, "verdict_these_runs": here.words,
                "gain": values.gain, "gap": values.gap, "n": values.n, "runs": values.runs,
            }
        ),
        SHARES,
    )  # fmt: skip
