"""How many values of patch jobs fit on the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np

Count = TypeVar("Count")


class HasSteps(Protocol):
    """Something with checkpoints."""

    @property
    def steps(self) -> Sequence[int]:
        """The checkpoints."""


One = TypeVar("One", bound=HasSteps)


def fitting(
    jobs: Sequence[One],
    room: float,
    choices: Sequence[tuple[Count, int | None]],
    size: Callable[[One, Count, int], int],
) -> tuple[Count, int, int]:
    """Return how many items and checkpoints to show for how many jobs: the first choice that fits for all jobs, or the
    last choice for as many jobs as fit.

    Args:
        room: bytes.
        choices: items per job and number of checkpoints; None: all.
        size: bytes of a job with a choice.
    """
    for count, some in choices:
        steps = some or max(len(job.steps) for job in jobs)
        sizes = np.cumsum([size(job, count, steps) for job in jobs])
        if sizes[-1] <= room:
            return count, steps, len(jobs)
    return count, steps, int(np.searchsorted(sizes, room, side="right"))
