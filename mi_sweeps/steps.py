"""The checkpoint steps of a fine-tune."""

from __future__ import annotations

from collections.abc import Iterable

MOST = 100_000
"""Most checkpoints of a run: more must be a typing error, and listing them would fill the memory."""


def checkpoint_steps(last: int, every: int, more: Iterable[int]) -> list[int]:
    """Returns the checkpoint steps of a run of `last` steps: 0, every `every` steps, those in `more`, and the last.

    Raises:
        ValueError: there are more than MOST.
    """
    if last // every > MOST:
        raise ValueError(
            f"checkpoint.every={every}: with train.steps={last} that gives {last // every} checkpoints, but at most "
            f"{MOST} are allowed; give a larger number"
        )
    return sorted({0, last, *range(0, last, every), *(step for step in more if step <= last)})
