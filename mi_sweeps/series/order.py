"""Finds checkpoints that are not in training order, from the distances between their weights.

Training does not go away and come back. Where the weights leap far from one checkpoint to the next and then return,
the checkpoints in between are out of order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RATIO = 2.0
"""How many times longer than the direct way a leap must be. When training only jitters the weights, the distance to a
checkpoint after a drop in learning rate is sqrt(2) times shorter than to a neighbour. docs/audit.md shows what this
finds."""

Distances = NDArray[np.float64]
Segment = tuple[int, int]
TINY = 1e-200


@dataclass(frozen=True)
class Misplaced:
    """Neighbouring checkpoints that are out of order, by index."""

    members: tuple[int, ...]
    instead: tuple[int, ...] = ()
    """Checkpoints that could be the misplaced ones instead; the distances do not decide."""


def misplaced(distances: Distances, floor: float = 0.0) -> list[Misplaced]:
    """Finds the checkpoints that are out of order; the others are consistent with each other.

    Args:
        distances: symmetric, between checkpoints in the order of their steps.
        floor: distances below this are rounding noise.
    """
    active, found = list(range(len(distances))), []
    while len(active) > 2:
        part = distances[np.ix_(active, active)]
        segments = _suspects(part, floor)
        if not segments:
            break
        segment, out = _fewest(part, floor, segments)
        inside = set(range(segment[0], segment[1] + 1))
        others = [
            other
            for other in {*segments, (0, segment[0] - 1), (segment[1] + 1, len(active) - 1)} - {segment}
            if 0 < _length(other) <= _length(segment)
            # Alternatives that leave no more checkpoints out of order, and none of this segment.
            and len(left := _out(part, floor, other)) <= len(out)
            and not inside & left
        ]
        first, last = segment
        members = tuple(active[first : last + 1])
        instead = tuple(sorted({active[place] for start, stop in others for place in range(start, stop + 1)}))
        found.append(Misplaced(members, instead))
        active = [place for place in active if place not in {*members, *instead}]
    return [one if one.instead else _without_fitting(one, active, distances, floor) for one in found]


def _without_fitting(one: Misplaced, active: list[int], distances: Distances, floor: float) -> Misplaced:
    """Removes members that fit among the remaining checkpoints after all."""
    members = []
    for place in one.members:
        whole = sorted([*active, place])
        if len(one.members) == 1 or _suspects(distances[np.ix_(whole, whole)], floor):
            members.append(place)
        else:
            active.append(place)
            active.sort()
    return Misplaced(tuple(members))


def _fewest(distances: Distances, floor: float, segments: Mapping[Segment, float]) -> tuple[Segment, set[int]]:
    """The segment that leaves the fewest checkpoints out of order, and these; ties go to the shortest and clearest."""
    best: tuple[int, int, float, Segment, set[int]] | None = None
    for segment in sorted(segments, key=_length):
        length = _length(segment)
        if best and length > best[0]:
            break
        out = _out(distances, floor, segment)
        if best is None or (len(out), length, -segments[segment]) < best[:3]:
            best = len(out), length, -segments[segment], segment, out
    assert best
    return best[3:]


def _suspects(distances: Distances, floor: float) -> dict[Segment, float]:
    """Segments of checkpoints that the weights leap to and from, with the ratio of the leap to the direct way past the
    segment, or, if larger, to the distance at which each member has a near checkpoint elsewhere in the series."""
    count = len(distances)
    steps = np.concatenate([[np.inf], np.diagonal(distances, 1), [np.inf]])  # Before each checkpoint, and at the end.
    leaps = np.minimum(steps[:-1, None], steps[None, 1:])  # [first, last] checkpoint of the segment.
    direct = np.full((count, count), np.inf)
    direct[1:-1, 1:-1] = np.triu(distances[:-2, 2:])
    apart = distances + np.diag(np.full(count, np.inf))
    nearest = apart.min(1)
    near = np.maximum(nearest[:, None], nearest[None, :])
    with np.errstate(divide="ignore", invalid="ignore"):
        without = np.triu(leaps / np.where(direct > 0, direct, TINY))
        possible = (leaps > floor) & (np.maximum(without, leaps / np.maximum(near, TINY)) > RATIO)
    possible = np.triu(possible)
    found: dict[Segment, float] = {}
    for segment in zip(*(places.tolist() for places in np.nonzero(possible)), strict=True):
        first, last = segment
        if _length(segment) > count / 2:
            continue
        members = distances[first : last + 1]
        elsewhere = np.concatenate([members[:, : max(first - 1, 0)], members[:, last + 2 :]], axis=1)
        home = elsewhere.min(1, initial=np.inf).max()
        ratio = max(without[segment], leaps[segment] / max(home, TINY))
        if ratio > RATIO:
            found[segment] = float(ratio)
    return found


def _out(distances: Distances, floor: float, segment: Segment) -> set[int]:
    """The checkpoints out of order if a segment is: the segment, and those still suspected without it."""
    taken = set(range(segment[0], segment[1] + 1))
    rest = [place for place in range(len(distances)) if place not in taken]
    if len(rest) < 3:
        return taken
    segments: list[Segment] = []  # Those that contain no shorter one.
    for start, stop in sorted(_suspects(distances[np.ix_(rest, rest)], floor), key=_length):
        if not any(start <= first and last <= stop for first, last in segments):
            segments.append((start, stop))
    return taken | {rest[place] for start, stop in segments for place in range(start, stop + 1)}


def _length(segment: Segment) -> int:
    return segment[1] - segment[0] + 1
