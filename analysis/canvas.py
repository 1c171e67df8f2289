"""Paper for static figures: seaborn's look on a figure of its own, matplotlib's settings left as they are."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib
import numpy as np
import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DIVERGING = "RdBu_r"
"""Blue below zero, red above: told apart in all common forms of colour blindness."""

MISSING = "0.82"
"""The grey of a cell without a value."""


@contextmanager
def grid(
    rows: int, columns: int, title: str, source: str, width: float = 3.2, height: float = 2.5
) -> Iterator[tuple[Figure, np.ndarray]]:
    """A figure of `rows` × `columns` plots of `width` × `height` inches each, and the array of its axes.

    `source` stands small below: what the figure was made from. The figure belongs to no pyplot window.
    """
    as_written = matplotlib.rc_context({"text.parse_math": False})  # a run's name may hold a dollar sign
    with sns.axes_style("whitegrid"), sns.plotting_context("paper"), as_written:
        figure = Figure(figsize=(width * columns + 0.8, height * rows + 0.9), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, fontsize=10, fontweight="bold")
        lines = textwrap.fill(source, width=round(17 * figure.get_figwidth()))  # characters of this size an inch
        figure.supxlabel(lines, fontsize=7, color="0.4")
        yield figure, figure.subplots(rows, columns, squeeze=False)


def source(run_ids: Sequence[str], prompts: Sequence[int], more: str = "") -> str:
    """One line for below a figure: how many prompts and which runs it shows."""
    counted = "/".join(str(n) for n in sorted(set(prompts)))
    ids = list(dict.fromkeys(run_ids))
    named = ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
    return f"{counted} prompts; {'runs' if len(ids) > 1 else 'run'} {named}{'; ' + more if more else ''}"
