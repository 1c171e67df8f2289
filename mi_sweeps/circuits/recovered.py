"""How much of a change in logits a patch brings back."""

from __future__ import annotations

FLOOR = 0.1
"""Logits. Where clean and corrupted differ by less, a recovered fraction says nothing and is left out."""


def recovered(patched: float, clean: float, corrupted: float) -> float | None:
    """(patched - corrupted) / (clean - corrupted), of logit differences; None where the denominator is below FLOOR.

    0: the patch changes nothing; 1: it brings back the clean logit difference.
    """
    gap = clean - corrupted
    return (patched - corrupted) / gap if abs(gap) >= FLOOR else None
