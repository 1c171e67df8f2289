"""Lines that are longer than a terminal is wide: broken between words, and whole where something else reads them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

WIDE = 400
"""Columns of what is no terminal: so many that no table is squeezed."""
INDENT = 2
"""By so much what goes on is further in than the beginning of its line."""
WORDS = re.compile(r"(?:`[^`]*`|[^\s`]|`)+")
"""What stays together: words, and commands in backquotes, which are there to be copied."""


class Lines(Console):
    """A console of which `soft_wrap` means: on a terminal broken between words, and elsewhere not at all."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As of rich."""
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
    """A line as several that are no wider, of which the later ones are indented. A word that is wider stays whole: the
    terminal goes on with it in the next line, and it is copied as one."""
    return (" " * indent + line[start:end] for start, end, indent in _pieces(line, width))


def _pieces(line: str, width: int) -> Iterator[tuple[int, int, int]]:
    """Where each of the several lines begins and ends in the one, and how far it is indented."""
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
