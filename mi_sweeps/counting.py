"""Numbers with their nouns."""

from __future__ import annotations


def plural(noun: str, count: int) -> str:
    """The form of a noun that follows a count: run, runs."""
    return noun if count == 1 or noun.endswith("s") else f"{noun}s"


def counted(count: int, noun: str) -> str:
    """A count with its noun: "1 run", "3 runs"."""
    return f"{count} {plural(noun, count)}"
