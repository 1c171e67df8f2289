"""Long lines: broken between words on a terminal, left whole elsewhere.

rich's own wrapping would also break commands in backquotes, which are meant to be copied.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

WIDE = 400
"""Assumed width if the output is not a terminal, wide enough for any table."""
INDENT = 2
"""Extra indentation of continued lines."""
WORDS = re.compile(r"(?:`[^`]*`|[^\s`]|`)+")
"""What is never broken: words, and commands in backquotes."""


class Lines(Console):
    """A console whose `soft_wrap` breaks lines between words on a terminal, and nowhere else."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As `rich.console.Console.print`."""
        if options.get("soft_wrap") and self.is_terminal:
            objects = tuple(
                self._broken(one, bool(options.get("markup"))) if isinstance(one, str | Text) else one
                for one in objects
            )
        super().print(*objects, **options)

    def _broken(self, given: str | Text, markup: bool) -> Text:
        text = self.render_str(given, markup=markup, emoji=False, highlight=False) if isinstance(given, str) else given
        return Text("\n").join(
            Text(" " * indent) + line[start:end]
            for line in text.split("\n", allow_blank=True)
            for start, end, indent in _pieces(line.plain, self.width)
        )


def at_words(line: str, width: int) -> Iterator[str]:
    """Breaks a line into lines of at most `width` columns; continued lines are indented. A wider word stays whole: the
    terminal wraps it, and it can still be copied."""
    return (" " * indent + line[start:end] for start, end, indent in _pieces(line, width))


def _pieces(line: str, width: int) -> Iterator[tuple[int, int, int]]:
    """Yields the start, end and indentation of each piece of a line."""
    if cell_len(line) <= width:
        yield 0, len(line), 0
        return
    deeper = len(line) - len(line.lstrip()) + INDENT
    start, end, indent = 0, 0, 0
    for word in WORDS.finditer(line):
        if end and indent + cell_len(line[start : word.end()]) > width:
            yield start, end, indent
            start, indent = word.start(), deeper
        end = word.end()
    yield start, end, indent
