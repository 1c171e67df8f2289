"""Which steps of a fine-tune are checkpoints."""

from __future__ import annotations

from collections.abc import Iterable


def checkpoint_steps(last: int, every: int, more: Iterable[int]) -> list[int]:
    """The checkpoint steps of a run of `last` steps: 0, every `every`, those of `more` within it, and the last."""
    return sorted({0, last, *range(0, last, every), *(step for step in more if step <= last)})
