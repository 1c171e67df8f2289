"""Tables of how heads changed between checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from .. import measured
from ..columns import typed
from ..folder import OutputFolder
from ..frames import Frames, examined_in
from . import tables
from .families import Family
from .tables import GROUP
from .transformations import SITE, Change, Transformation, between

BETWEEN = {**GROUP, "from_step": "int64", "to_step": "int64"}
HEAD_CHANGES = {
    **BETWEEN,
    **{"layer": "Int64", "head": "Int64", "change": "string"},
    **{"from_verdict": "string", "to_verdict": "string", "from_recovered": "float64", "to_recovered": "float64"},
    **{"from_gain": "float64", "to_gain": "float64", "n": "int64", "runs": "int64"},
}
"""One row per head and pair of checkpoints, for a group of runs that differ only in their seed."""
TRANSFORMATIONS = {
    **BETWEEN,
    **{"transformed": "float64", "low": "float64", "high": "float64", "answer": "string", "why": "string"},
    **{"kept": "string", "added": "string", "undecided": "string", "seeds": "boolean", "n": "int64", "runs": "int64"},
}
"""One row per pair of checkpoints. `transformed` is T."""


def crossed_steps(output: OutputFolder, damaged: list[str] | None = None) -> dict[str, set[tuple[int, int]]]:
    """Crossed pairs of checkpoints by run, the earlier one first."""
    found: dict[str, set[tuple[int, int]]] = {}
    for table in measured.each(examined_in(output), "cross", damaged=damaged):
        steps = np.sort(table[["into_step", "source_step"]].drop_duplicates().to_numpy(dtype=int), axis=1)
        own = found.setdefault(str(table["run_id"].iloc[0]), set())
        own |= {(first, last) for first, last in steps.tolist() if first != last}
    return found


def of_family(family: Family, crossed: Mapping[str, Iterable[tuple[int, int]]]) -> Iterator[Transformation]:
    """Yield how a family of heads changed between its first and last checkpoint, and between all crossed pairs."""
    if family.site != SITE or family.gain is None:
        return
    pairs = {pair for job in family.jobs for pair in crossed.get(job.patch.run_id, ())}
    for first, last in sorted(pairs | {(family.steps[0], family.steps[-1])}):
        if first != last and {first, last} <= set(family.steps):
            yield between(family.jobs, first, last)


def of_frames(
    frames: Frames, damaged: list[str] | None = None
) -> Iterator[tuple[tuple[str, str, str], Transformation]]:
    """Yield the changes by setting, patching and corruption."""
    if frames.output is not None:
        crossed = crossed_steps(frames.output, damaged)
        for key, family in tables.of_frames(frames, damaged):
            yield from ((key, one) for one in of_family(family, crossed))


def transformations(frames: Frames, damaged: list[str] | None = None) -> pd.DataFrame:
    """Make the table for all groups; values by prompt are read group by group.

    Args:
        damaged: as for `frames.load`.
    """
    return _together([row(key, one) for key, one in of_frames(frames, damaged)], TRANSFORMATIONS)


def head_changes(frames: Frames, damaged: list[str] | None = None) -> pd.DataFrame:
    """Make the table of single heads; otherwise as `transformations`."""
    return _together([head_rows(key, one) for key, one in of_frames(frames, damaged)], HEAD_CHANGES)


def _together(parts: Sequence[pd.DataFrame], columns: dict[str, str]) -> pd.DataFrame:
    return pd.concat(parts, ignore_index=True) if parts else typed([], columns)


def row(key: tuple[str, str, str], found: Transformation) -> pd.DataFrame:
    """The row of `transformations`."""
    first, last = found.family.steps
    values = {
        **dict(zip(GROUP, key, strict=True)), "from_step": first, "to_step": last,
        "transformed": found.value, "low": found.low, "high": found.high,
        "answer": found.answer.value, "why": found.why or None,
        "kept": " ".join(found.kept), "added": " ".join(found.named(Change.GAINED, Change.LEFT_OVER, Change.REVERSED)),
        "undecided": " ".join(found.undecided), "seeds": found.family.seeds,
        "n": int(found.family.estimate.n.max()), "runs": len(found.family.jobs),
    }  # fmt: skip
    return typed([values], TRANSFORMATIONS)


def head_rows(key: tuple[str, str, str], found: Transformation) -> pd.DataFrame:
    """The rows of `head_changes`."""
    both = found.family
    layer, head, _ = zip(*both.places, strict=True)
    before, after = both.grid(both.judged.words)
    recovered, gain = both.grid(both.estimate.recovered), both.grid(both.estimate.gain)
    n, runs = both.grid(both.estimate.n), both.grid(both.estimate.runs)
    return typed(
        pd.DataFrame(
            {
                **dict(zip(GROUP, key, strict=True)), "from_step": both.steps[0], "to_step": both.steps[1],
                "layer": layer, "head": head, "change": [change.value for change in found.changes],
                "from_verdict": before, "to_verdict": after,
                "from_recovered": recovered[0], "to_recovered": recovered[1],
                "from_gain": gain[0], "to_gain": gain[1], "n": n.min(axis=0), "runs": runs.min(axis=0),
            }
        ),
        HEAD_CHANGES,
    )  # fmt: skip
