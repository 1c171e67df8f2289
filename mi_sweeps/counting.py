"""Nouns after numbers."""

from __future__ import annotations


def plural(noun: str, count: int) -> str:
    """Returns the form of a noun after a count: run, runs."""
    return noun if count == 1 or noun.endswith("s") else f"{noun}s"


def counted(count: int, noun: str) -> str:
    """Formats a count with its noun: "1 run", "3 runs"."""
    return f"{count} {plural(noun, count)}"
