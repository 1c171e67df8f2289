"""Which steps of a fine-tune are checkpoints."""

from __future__ import annotations

from collections.abc import Iterable

MOST = 100_000
"""More checkpoints are a mistyped number, and would fill the memory where they are listed."""


def checkpoint_steps(last: int, every: int, more: Iterable[int]) -> list[int]:
    """The checkpoint steps of a run of `last` steps: 0, every `every`, those of `more` within it, and the last.

    Raises:
        ValueError: there are more than MOST.
    """
    if last // every > MOST:
        raise ValueError(
            f"checkpoint.every={every}: with train.steps={last} that is a checkpoint {last // every} times, and "
            f"{MOST} is the most; give a larger one"
        )
    return sorted({0, last, *range(0, last, every), *(step for step in more if step <= last)})
