"""The canvas of every figure: size, fonts, title and caption, in seaborn's style.

The user's matplotlib settings (`text.usetex`, style sheets, a matplotlibrc, `savefig.*`) neither affect figures nor are
changed.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text

COLUMN, PAGE = 3.35, 6.9
"""Inches: widths of figures, a column or the page of a two-column paper."""

DIVERGING = "RdBu_r"
"""Blue below zero, red above: distinguishable with all common forms of colour blindness."""

DIFFERING = "PRGn"
"""Purple below zero, green above, for differences: not to be mistaken for the values themselves."""

MISSING = "0.82"
"""Grey of a cell without a value."""

TEXT = {
    **{"font.size": 7, "axes.titlesize": 7.5, "axes.labelsize": 7.5, "xtick.labelsize": 6.5, "ytick.labelsize": 6.5},
    **{"legend.fontsize": 6.5, "legend.title_fontsize": 6.5, "figure.titlesize": 8.5, "figure.titleweight": "bold"},
    **{"xtick.major.pad": 1.5, "ytick.major.pad": 1.5, "axes.titlepad": 3, "axes.labelpad": 2},
    **{"axes.titley": 1.0},  # the default, which matplotlib would find by measuring every tick label
}
"""Font sizes in points, as printed: figures are made at their final size."""

SCREEN = 150
"""Dots per inch in a notebook."""

FOOTNOTE = 6
"""Font size of the footnote, in points."""

HEADING = 0.14
"""Inches per extra line of the title."""

BLANK = "\u2007"
"""A space as wide as a digit."""

EDGE = 0.12
"""Inches left as a margin where title and footnote are removed."""

PALE = "0.92"
"""Grey of grid lines in figures for a paper."""


@dataclass(frozen=True)
class Source:
    """The data behind a figure; as text, the figure's caption."""

    runs: tuple[str, ...]
    """Run ids."""
    prompts: tuple[int, ...]
    """Numbers of prompts per value; empty if the note gives them."""
    note: str = ""
    """The rest of the caption: what marks, bands and greys mean."""

    def __str__(self) -> str:
        counted = f"{'/'.join(map(str, self.prompts))} prompts; " if self.prompts else ""
        named = ", ".join(self.runs[:3]) + (f" and {len(self.runs) - 3} more" if len(self.runs) > 3 else "")
        runs = "runs" if len(self.runs) > 1 else "run"
        return f"{counted}{runs} {named}{'; ' + self.note if self.note else ''}"


class Picture(Figure):
    """A figure with its title, source and numbers."""

    title: str
    source: Source
    numbers: pd.DataFrame
    """The values drawn: a row per point, band or cell, with its interval if it has one."""
    setting: str = ""
    """Named below the title if there are several settings."""
    moment: Annotation | None = None
    """In an animation, the line below the title that changes; separate, so that the title is drawn only once."""
    heading: Text
    extra_lines: int = 0
    """Lines of the title beyond the first, for which the figure was made taller."""
    footnote: Text
    text_height: float
    """Inches of its height for title and footnote."""

    def of_setting(self, setting: str) -> None:
        """Name the setting below the title."""
        self.setting = setting
        self.entitle()

    def with_moment(self) -> Annotation:
        """Add an empty `moment` below the title."""
        with settings():
            self.moment = Annotation(
                "", (0.5, 0), xycoords=self.heading, ha="center", va="bottom", in_layout=False,
                fontproperties=self.heading.get_fontproperties(), color=self.heading.get_color(),
            )  # fmt: skip
        self.add_artist(self.moment)
        self.entitle()
        return self.moment

    def entitle(self) -> None:
        """Write the title and the setting, and leave a line for `moment`."""
        width = round(14 * self.get_figwidth())
        parts = [textwrap.fill(one, width=width) for one in (self.title, self.setting) if one]
        text = "\n".join([*parts, *([BLANK] if self.moment else [])])
        self.heading.set_text(text)
        extra_lines = text.count("\n") if self.setting or self.moment else 0
        added = HEADING * (extra_lines - self.extra_lines)
        self.extra_lines = extra_lines
        self.set_figheight(self.get_figheight() + added)
        self.text_height += added

    def lay_out(self) -> None:
        """Place all artists once, so that nothing moves between formats or checkpoints."""
        engine = self.get_layout_engine()
        if engine is not None:
            engine.execute(self)
            self.set_layout_engine("none")

    def bare(self) -> None:
        """Remove title and footnote and make lines of grids and frames light, for a paper with captions of its own."""
        for text in (self.heading, self.footnote):
            text.set(visible=False, in_layout=False)
        self.set_figheight(self.get_figheight() - self.text_height + EDGE)
        for axis in self.axes:
            axis.tick_params(which="both", grid_color=PALE, grid_linewidth=0.4)
            for border in axis.spines.values():
                border.set(color="0.6", linewidth=0.5)
            if legend := axis.get_legend():
                legend.get_frame().set(edgecolor=PALE, linewidth=0.4)

    def _repr_png_(self) -> bytes:
        """Show the figure in a notebook, which by itself only shows figures of pyplot."""
        content = io.BytesIO()
        with settings():
            self.savefig(content, format="png", dpi=SCREEN)
        return content.getvalue()


@contextmanager
def settings(**own: Any) -> Iterator[None]:
    """Use matplotlib's defaults with these settings. Wrap everything that draws or saves.

    Text is not parsed as mathematics, because names of runs may contain a dollar sign.
    """
    defaults = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
    with matplotlib.rc_context(defaults | {"text.parse_math": False} | own):
        yield


@contextmanager
def grid(
    rows: int, columns: int, title: str, source: Source, height: float = 2.0, page: bool | None = None
) -> Iterator[tuple[Picture, np.ndarray]]:
    """A figure of `rows` × `columns` plots, each `height` inches high, and the array of its axes.

    The figure belongs to no pyplot window.

    Args:
        source: written below as a footnote.
        page: whether the figure is as wide as the page, not a column; by default if it has several columns.
    """
    is_wide = columns > 1 if page is None else page
    with settings(), sns.axes_style("whitegrid"), sns.plotting_context("paper"), matplotlib.rc_context(TEXT):
        width = PAGE if is_wide else COLUMN
        lines = textwrap.fill(str(source), width=round(20 * width))  # characters per inch
        text_height = 0.5 + 0.1 * lines.count("\n")
        figure = Picture(figsize=(width, height * rows + text_height), layout="constrained")
        figure.title, figure.source, figure.text_height = title, source, text_height
        figure.numbers = pd.DataFrame()
        FigureCanvasAgg(figure)
        figure.heading = figure.suptitle("")
        figure.entitle()
        figure.footnote = figure.supxlabel(lines, fontsize=FOOTNOTE, color="0.35", x=0.01, ha="left")
        yield figure, figure.subplots(rows, columns, squeeze=False)


def together(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate the numbers of a figure's parts; empty ones are left out."""
    filled = [part for part in parts if len(part)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()


def ordered(count: int) -> list[tuple[float, float, float]]:
    """Colours for ordered things, such as checkpoints or layers: from light to dark, also when printed in grey."""
    colours = sns.color_palette("viridis_r", as_cmap=True)
    return [tuple(colours(at)[:3]) for at in np.linspace(1, 0.1, count)[::-1]]


def step_axis(axis: Axes, steps: Iterable[int], most: int = 7) -> None:
    """Scale the x axis as log(step + 1) if checkpoints span more than three orders of magnitude.

    Args:
        most: steps to label at most, about.
    """
    every = sorted({int(step) for step in steps})
    positive = [step for step in every if step > 0]
    if not positive or positive[-1] <= 1000 * positive[0]:
        return
    axis.set_xscale("function", functions=(np.log1p, np.expm1))
    ticks = every[:1]
    for step in every:
        if np.log1p(step) - np.log1p(ticks[-1]) > np.log1p(every[-1]) / most:
            ticks.append(step)
    low, high = np.log1p(every[0]), np.log1p(every[-1])
    margin = 0.03 * (high - low)
    axis.set_xlim(np.expm1(low - margin), np.expm1(high + margin))
    axis.set_xticks(ticks, [f"{step}" for step in ticks])
    axis.minorticks_off()


def source(run_ids: Sequence[str], prompts: Sequence[int], note: str = "") -> Source:
    """The source of a figure, from the run ids and numbers of prompts of the rows behind it."""
    return Source(tuple(map(str, dict.fromkeys(run_ids))), tuple(sorted({int(n) for n in prompts})), note)
