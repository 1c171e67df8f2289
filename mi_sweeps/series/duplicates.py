"""Finds checkpoints of a series with the same weights, and which of them is at the right step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mi_sweeps.series.geometry import Geometry
from mi_sweeps.series.order import Distances, misplaced

NEARER = 1.5
"""Copied weights belong to the step whose neighbours are this many times nearer than those of the other steps. It is
above the sqrt(2) that a drop in learning rate causes (see `order.RATIO`)."""


KEPT = 0.5
"""A correlation at which checkpoints are certainly related."""


@dataclass(frozen=True)
class Unusable:
    """Why a checkpoint is not usable."""

    reason: str
    """Continues "its weights …"."""
    kind: Literal["copy", "order", "descent"]


def examine(steps: Sequence[int], contents: Sequence[str], geometry: Geometry | None) -> dict[int, Unusable]:
    """Finds what is wrong with the weights, by index of the checkpoint in the series.

    Args:
        steps: of the checkpoints, in increasing order.
        contents: a key for each checkpoint's weights; equal weights have equal keys.
        geometry: None if the weights could not be read.
    """
    copies = {key: [place for place, one in enumerate(contents) if one == key] for key in contents}
    trusted = [places[0] for places in copies.values() if len(places) == 1]
    out: dict[int, Unusable] = {}
    if geometry is not None:
        for place in [trusted[one] for one in strangers(geometry.of(trusted))]:
            out[place] = Unusable(
                "are from another run: unrelated to those before and after, which are related", "descent"
            )
        trusted = [place for place in trusted if place not in out]
        found = [
            ([trusted[place] for place in one.members], [trusted[place] for place in one.instead])
            for one in misplaced(geometry.of(trusted).distances, geometry.floor)
        ]
        wrong = {place for members, instead in found for place in (*members, *instead)}
        trusted = [place for place in trusted if place not in wrong]
        for members, instead in found:
            for place in (*members, *instead):
                others = instead if place in members else members
                out[place] = Unusable(_leap(steps, geometry.distances, trusted, place, others), "order")
    for places in copies.values():
        if len(places) > 1:
            out |= _copies(steps, places, geometry, trusted)
    return out


def strangers(geometry: Geometry) -> list[int]:
    """Finds checkpoints that are unrelated to those before and after, which are related to each other."""
    related, last = geometry.correlations, len(geometry.correlations) - 1
    breaks = [place for place in range(last) if abs(related[place, place + 1]) <= geometry.chance]
    found: set[int] = set()
    for start, stop in zip(breaks, breaks[1:], strict=False):
        if related[start, stop + 1] >= KEPT and stop - start <= (last + 1) / 2:
            found |= set(range(start + 1, stop + 1))
    return sorted(found)


def spans(steps: Sequence[int]) -> str:
    """Steps in words: `0, 1, 2, 4 and 12 more up to 53000`."""
    if len(steps) == 1:
        return f"step {steps[0]}"
    if len(steps) <= 5:
        return f"steps {', '.join(map(str, steps[:-1]))} and {steps[-1]}"
    return f"steps {', '.join(map(str, steps[:3]))} and {len(steps) - 3} more up to {steps[-1]}"


def _copies(
    steps: Sequence[int], places: list[int], geometry: Geometry | None, trusted: Sequence[int]
) -> dict[int, Unusable]:
    """The findings for checkpoints with the same weights: all but the one at the right step."""
    neighbours = _neighbours(places)
    home = _home(neighbours, places[0], geometry, trusted)
    everywhere = f"are the same at {spans([steps[place] for place in places])}"
    if home is None:
        nearest = "" if geometry is None else _nearest(steps, geometry.distances, trusted, places[0])
        return {
            place: Unusable(f"{everywhere}; which step they belong to is unknown{nearest}", "copy") for place in places
        }
    out = {
        place: Unusable(f"{everywhere}; they belong to step {steps[home[0]]}", "copy")
        for place in places
        if place not in home
    }
    if len(home) > 1 and any(steps[later] - steps[place] > 1 for place, later in zip(home, home[1:], strict=False)):
        why = "either nothing was learned in between, or one is a copy of another"
        return {place: Unusable(f"{everywhere}; {why}", "copy") for place in places}
    for place in home[1:]:
        out[place] = Unusable(f"{everywhere}; nothing was learned since step {steps[home[0]]}", "copy")
    return out


def _home(runs: list[list[int]], weights: int, geometry: Geometry | None, trusted: Sequence[int]) -> list[int] | None:
    """The run of neighbours, among several with the same weights, that is at the right steps; None if undecided."""
    if geometry is None or len(trusted) < 2:
        return runs[0] if len(runs) == 1 else None
    distances = geometry.distances
    near = []
    for run in runs:
        beside = [*[place for place in trusted if place < run[0]][-1:], *[p for p in trusted if p > run[-1]][:1]]
        near.append(min(distances[weights, place] for place in beside))
    order = np.argsort(near)
    best = runs[order[0]]
    if len(runs) > 1 and near[order[1]] <= NEARER * near[order[0]]:
        return None
    # Even there they may be out of order.
    whole = sorted([*trusted, best[0]])
    moved = distances.copy()
    moved[best[0]], moved[:, best[0]] = distances[weights], distances[:, weights]
    found = misplaced(moved[np.ix_(whole, whole)], geometry.floor)
    wrong = {whole[place] for one in found for place in (*one.members, *one.instead)}
    return None if best[0] in wrong else best


def _neighbours(places: Sequence[int]) -> list[list[int]]:
    """Splits indices into runs of consecutive ones."""
    runs: list[list[int]] = []
    for place in places:
        if runs and place == runs[-1][-1] + 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs


def _leap(steps: Sequence[int], distances: Distances, trusted: Sequence[int], place: int, others: Sequence[int]) -> str:
    """The reason for a checkpoint out of order."""
    or_others = ""
    if others:
        or_others = f", or else those of {spans([steps[one] for one in others])} are"
    return f"are out of order{or_others}{_nearest(steps, distances, trusted, place)}"


def _nearest(steps: Sequence[int], distances: Distances, trusted: Sequence[int], place: int) -> str:
    """The distances of a checkpoint's weights from trusted neighbours and from the nearest trusted checkpoint."""
    rest = [one for one in trusted if one != place]
    if not rest:
        return ""
    beside = [*[one for one in rest if one < place][-1:], *[one for one in rest if one > place][:1]]
    nearest = min(rest, key=lambda one: distances[place, one])
    apart = ", ".join(f"{distances[place, one]:.2g} from step {steps[one]}" for one in sorted({*beside, nearest}))
    return f"; nearest is step {steps[nearest]} (relative distances: {apart})"
