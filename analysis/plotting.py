"""Paper for figures: seaborn's look on a figure of its own. The user's settings of matplotlib (`text.usetex`, style
sheets, a matplotlibrc, `savefig.*`) change none, and are left as they are."""

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
"""Inches: the width of a column and of a page in the usual two-column papers; a figure has the one or the other."""

DIVERGING = "RdBu_r"
"""Blue below zero, red above: told apart in all common forms of colour blindness."""

DIFFERING = "PRGn"
"""Purple below zero, green above: what is of two pictures is not taken for one of them."""

MISSING = "0.82"
"""The grey of a cell without a value."""

TEXT = {
    **{"font.size": 7, "axes.titlesize": 7.5, "axes.labelsize": 7.5, "xtick.labelsize": 6.5, "ytick.labelsize": 6.5},
    **{"legend.fontsize": 6.5, "legend.title_fontsize": 6.5, "figure.titlesize": 8.5, "figure.titleweight": "bold"},
    **{"xtick.major.pad": 1.5, "ytick.major.pad": 1.5, "axes.titlepad": 3, "axes.labelpad": 2},
    **{"axes.titley": 1.0},  # where it would be anyway, after a look at every tick
}
"""Points, as they are read in print: figures are not scaled."""

SCREEN = 150
"""Dots an inch in a notebook."""

FOOTNOTE = 6
"""Points of what stands below a figure."""

HEADING = 0.14
"""Inches that a further line of a title needs."""

BLANK = "\u2007"
"""A space that is as wide as a digit."""

EDGE = 0.12
"""Inches that stay where title and footnote are taken away."""

PALE = "0.92"
"""The grey of a paper's grids."""


@dataclass(frozen=True)
class Source:
    """What a figure was made from."""

    runs: tuple[str, ...]
    """Run ids."""
    prompts: tuple[int, ...]
    """How many prompts a value is of; several numbers where that differs, none where the note tells."""
    note: str = ""
    """What bands and greys mean."""

    def __str__(self) -> str:
        counted = f"{'/'.join(map(str, self.prompts))} prompts; " if self.prompts else ""
        named = ", ".join(self.runs[:3]) + (f" and {len(self.runs) - 3} more" if len(self.runs) > 3 else "")
        runs = "runs" if len(self.runs) > 1 else "run"
        return f"{counted}{runs} {named}{'; ' + self.note if self.note else ''}"


class Picture(Figure):
    """A figure that knows its title, what it was made from, and its numbers."""

    title: str
    source: Source
    numbers: pd.DataFrame
    """What is drawn: a row a point, band or cell, with its uncertainty where there is any."""
    setting: str = ""
    """Whose it is, where there are several settings."""
    moment: Annotation | None = None
    """A line below the heading for words that change, so that the heading need not be drawn again with them."""
    heading: Text
    further: int = 0
    """Lines of the heading for which it became higher."""
    footnote: Text
    aside: float
    """Inches of its height that title and footnote have."""

    def of_setting(self, setting: str) -> None:
        """Names the setting below the title."""
        self.setting = setting
        self.entitle()

    def with_moment(self) -> Annotation:
        """Makes room for its `moment`, which is yet empty."""
        with settings():
            self.moment = Annotation(
                "", (0.5, 0), xycoords=self.heading, ha="center", va="bottom", in_layout=False,
                fontproperties=self.heading.get_fontproperties(), color=self.heading.get_color(),
            )  # fmt: skip
        self.add_artist(self.moment)
        self.entitle()
        return self.moment

    def entitle(self) -> None:
        """Writes the title above, the setting below it, and an empty line for what changes."""
        width = round(14 * self.get_figwidth())
        parts = [textwrap.fill(one, width=width) for one in (self.title, self.setting) if one]
        text = "\n".join([*parts, *([BLANK] if self.moment else [])])
        self.heading.set_text(text)
        further = text.count("\n") if self.setting or self.moment else 0
        more, self.further = HEADING * (further - self.further), further
        self.set_figheight(self.get_figheight() + more)
        self.aside += more

    def lay_out(self) -> None:
        """Gives all its places, once: nothing moves by itself from one format, or checkpoint, to the next."""
        engine = self.get_layout_engine()
        if engine is not None:
            engine.execute(self)
            self.set_layout_engine("none")

    def bare(self) -> None:
        """Takes title and footnote away, and makes grids light: as a paper wants it, which has captions of its own."""
        for text in (self.heading, self.footnote):
            text.set(visible=False, in_layout=False)
        self.set_figheight(self.get_figheight() - self.aside + EDGE)
        for axis in self.axes:
            axis.tick_params(which="both", grid_color=PALE, grid_linewidth=0.4)
            for border in axis.spines.values():
                border.set(color="0.6", linewidth=0.5)

    def _repr_png_(self) -> bytes:
        """How a notebook shows it, which knows figures of pyplot only."""
        content = io.BytesIO()
        with settings():
            self.savefig(content, format="png", dpi=SCREEN)
        return content.getvalue()


@contextmanager
def settings(**own: Any) -> Iterator[None]:
    """matplotlib as it comes, but for some settings; around everything that draws or saves. It sets text as it is:
    a run's name may hold a dollar sign."""
    defaults = {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
    with matplotlib.rc_context(defaults | {"text.parse_math": False} | own):
        yield


@contextmanager
def grid(
    rows: int, columns: int, title: str, source: Source, height: float = 2.0, page: bool | None = None
) -> Iterator[tuple[Picture, np.ndarray]]:
    """A figure of `rows` × `columns` plots, each `height` inches high, and the array of its axes.

    As wide as a page, or as a column for a single column of plots, unless `page` says so. `source` stands small
    below: what the figure was made from. The figure belongs to no pyplot window.
    """
    wide = columns > 1 if page is None else page
    with settings(), sns.axes_style("whitegrid"), sns.plotting_context("paper"), matplotlib.rc_context(TEXT):
        width = PAGE if wide else COLUMN
        lines = textwrap.fill(str(source), width=round(20 * width))  # characters of this size an inch
        aside = 0.5 + 0.1 * lines.count("\n")
        figure = Picture(figsize=(width, height * rows + aside), layout="constrained")
        figure.title, figure.source, figure.aside = title, source, aside
        figure.numbers = pd.DataFrame()
        FigureCanvasAgg(figure)
        figure.heading = figure.suptitle("")
        figure.entitle()
        figure.footnote = figure.supxlabel(lines, fontsize=FOOTNOTE, color="0.35", x=0.01, ha="left")
        yield figure, figure.subplots(rows, columns, squeeze=False)


def together(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """The numbers of a figure's parts, one below the other."""
    there = [part for part in parts if len(part)]
    return pd.concat(there, ignore_index=True) if there else pd.DataFrame()


def ordered(count: int) -> list[tuple[float, float, float]]:
    """Colours for what has an order, as checkpoints and layers have: light to dark, in grey too."""
    colours = sns.color_palette("viridis_r", as_cmap=True)
    return [tuple(colours(place)[:3]) for place in np.linspace(1, 0.1, count)[::-1]]


def step_axis(axis: Axes, steps: Iterable[int], most: int = 7) -> None:
    """Where checkpoints span more than three orders of magnitude the axis is that of log(step + 1), with some of the
    steps themselves written on it."""
    there = sorted({int(step) for step in steps})
    positive = [step for step in there if step > 0]
    if not positive or positive[-1] <= 1000 * positive[0]:
        return
    axis.set_xscale("function", functions=(np.log1p, np.expm1))
    ticks = there[:1]
    for step in there:
        if np.log1p(step) - np.log1p(ticks[-1]) > np.log1p(there[-1]) / most:
            ticks.append(step)
    low, high = np.log1p(there[0]), np.log1p(there[-1])
    margin = 0.03 * (high - low)
    axis.set_xlim(np.expm1(low - margin), np.expm1(high + margin))
    axis.set_xticks(ticks, [f"{step}" for step in ticks])
    axis.minorticks_off()


def source(run_ids: Sequence[str], prompts: Sequence[int], note: str = "") -> Source:
    """What a figure shows, of the columns of the rows that it was made from."""
    return Source(tuple(map(str, dict.fromkeys(run_ids))), tuple(sorted({int(n) for n in prompts})), note)
