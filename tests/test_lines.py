"""Long lines on a terminal and elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.text import Text

from mi_sweeps.lines import Lines, at_words

LINE = "  the work goes on: `mi-sweeps wait demo output=/tmp/x` waits again, `mi-sweeps cancel demo` ends it"


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_line_is_broken_between_words_and_never_within_a_command(width):
    lines = list(at_words(LINE, width))
    assert " ".join(line.strip() for line in lines) == LINE.strip()
    assert max(map(len, lines)) <= width
    assert sum("`mi-sweeps wait demo output=/tmp/x`" in line for line in lines) == 1
    assert lines[0].startswith("  the") and all(line.startswith("    ") for line in lines[1:])


def test_a_word_that_is_wider_than_the_terminal_is_copied_as_one():
    assert list(at_words("tables: /a/very/long/folder", 10)) == ["tables:", "  /a/very/long/folder"]


@pytest.mark.parametrize(("terminal", "printed"), [(True, "one two\n  three\n[x] four\n"), (False, None)])
def test_a_console_breaks_lines_on_a_terminal_only(terminal, printed):
    for given in ("one two three\n[x] four", Text("one two three\n[x] four")):
        console = Lines(file=io.StringIO(), width=8, force_terminal=terminal, color_system=None, markup=False)
        console.print(given, soft_wrap=True)
        assert console.file.getvalue() == (printed or "one two three\n[x] four\n")
