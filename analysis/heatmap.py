"""One heatmap on its axes: cells with verdict marks, axis labels, size and colour bar."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import ListedColormap
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from . import plotting
from .examples import Tokens
from .plotting import Picture

MARKS = {"matters": "o", "undecided": "o", "more": "+", "less": "_"}
"""Markers by verdict or comparison; the others (small, alike, undefined) have none."""
MAX_CELL, MIN_HEIGHT, MAX_HEIGHT = 0.2, 0.65, 2.6
"""Inches: the side of the largest cell, and the lowest and tallest heatmap."""
MAX_HEAD_LABELS = 16
"""An axis of more (layer, head) pairs labels only the layers."""
MAX_LAYER_LABELS = 16


@dataclass(frozen=True)
class Heatmap:
    """A heatmap whose cells can be replaced by those of any checkpoint."""

    rows: Sequence[object]
    columns: Sequence[object]
    limit: float
    image: AxesImage
    undefined: AxesImage
    """Grey cells: measured, but without a value."""
    marks: Mapping[str, PathCollection]
    hatching: Line2D
    hatch_lines: int
    """Hatch lines that start on each side of a cell."""

    @property
    def artists(self) -> tuple[Artist, ...]:
        """Everything that changes between checkpoints, in drawing order."""
        return self.undefined, self.image, self.hatching, *self.marks.values()

    def show(self, cells: pd.DataFrame) -> None:
        """Replace the cells. A row and column without a cell stays white.

        Args:
            cells: `value`, `verdict` and `few` by row and column.
        """
        self.put({name: array[0] for name, array in self.arrays(pd.concat({0: cells}), [0]).items()})

    def arrays(self, cells: pd.DataFrame, steps: Sequence[int]) -> dict[str, np.ndarray]:
        """Cells of several checkpoints as arrays [step, row, column] for `put`; an extra last step has no cells.

        Args:
            cells: `value`, `verdict` and `few` by step, row and column.
        """
        shape = len(steps) + 1, max(1, len(self.rows)), max(1, len(self.columns))
        levels = enumerate((steps, self.rows, self.columns))
        numbers = [({label: at for at, label in enumerate(labels)}, level) for level, labels in levels]
        where = tuple(
            np.array([of_label[label] for label in cells.index.get_level_values(level)], int)
            for of_label, level in numbers
        )
        arrays = {"value": np.full(shape, np.nan), "verdict": np.full(shape, "", object)}
        arrays |= {name: np.zeros(shape, bool) for name in ("few", "measured")}
        arrays["value"][where] = cells["value"].to_numpy("float64", na_value=np.nan)
        arrays["verdict"][where] = cells["verdict"].astype(object).fillna("").to_numpy()
        arrays["few"][where] = cells["few"].fillna(False).astype(bool)
        arrays["measured"][where] = cells["few"].notna()
        return arrays

    def put(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Replace the cells by one step of `arrays`. Artists with nothing to draw are hidden."""
        values = arrays["value"]
        self.image.set_data(np.ma.masked_invalid(values))
        undefined = arrays["measured"] & np.isnan(values)
        self.undefined.set_data(np.ma.masked_invalid(np.where(undefined, 1.0, np.nan)))
        self.undefined.set_visible(bool(undefined.any()))
        is_dark = np.abs(np.nan_to_num(values)) > 0.6 * self.limit
        for verdict, mark in self.marks.items():
            row, column = np.nonzero(arrays["verdict"] == verdict)
            mark.set_offsets(np.column_stack([column, row]))
            mark.set_color(["white" if dark else "0.1" for dark in is_dark[row, column]])
            mark.set_visible(len(row) > 0)
        # Lines rather than a hatched patch, which takes as long to draw as the rest of an animation's frame.
        start = (np.arange(-self.hatch_lines, self.hatch_lines) + 0.5) / self.hatch_lines  # none through a mark
        gap = np.full(len(start), np.nan)
        x = np.stack([np.maximum(0, -start), np.minimum(1, 1 - start), gap], axis=1).ravel()
        corners = np.argwhere(arrays["few"]) - 0.5
        self.hatching.set_data((corners[:, 1:] + x).ravel(), (corners[:, :1] + x + np.repeat(start, 3)).ravel())
        self.hatching.set_visible(len(corners) > 0)


def empty_heatmap(
    axes: Axes, rows: Sequence[object], columns: Sequence[object], limit: float, size: tuple[float, float],
    colours: str = plotting.DIVERGING,
) -> Heatmap:  # fmt: skip
    """Draw a heatmap without cells or labels.

    Args:
        limit: the colour scale goes from `-limit` to `limit`.
        size: width and height in inches, from which marks get their size.
    """
    shape = max(1, len(rows)), max(1, len(columns))
    empty = np.full(shape, np.nan)
    # Not seaborn's heatmap, which lays out the whole figure again for every plot.
    image = axes.imshow(
        empty, cmap=colours, vmin=-limit, vmax=limit, origin="lower", aspect="equal", interpolation="nearest"
    )
    undefined = axes.imshow(
        empty, cmap=ListedColormap([plotting.MISSING]), vmin=0, vmax=1, zorder=-1, origin="lower", aspect="equal",
        interpolation="nearest",
    )  # fmt: skip
    cell = 72 * min(size[0] / shape[1], size[1] / shape[0])  # points
    dot = min(max(0.45 * cell, 1.2), 4.0)
    diameters = {"matters": dot, "undecided": max(1.0, 0.35 * dot)}
    marks = {
        verdict: axes.scatter(
            [], [], marker=marker, s=diameters.get(verdict, 1.4 * dot) ** 2, linewidths=0.8 if marker in "+_" else 0
        )
        for verdict, marker in MARKS.items()
    }  # fmt: skip
    (hatching,) = axes.plot([], [], color="0.35", linewidth=0.9, solid_capstyle="butt", zorder=0.5)  # below marks
    hatch_lines = max(2, round(cell / 3.5))
    axes.set(xlim=(-0.5, shape[1] - 0.5), ylim=(-0.5, shape[0] - 0.5), facecolor="white")
    axes.grid(False)
    return Heatmap(rows, columns, limit, image, undefined, marks, hatching, hatch_lines)


def layer_heatmap(
    axes: Axes, cells: pd.DataFrame, columns: Sequence[object], limit: float, size: tuple[float, float],
    tokens: Tokens | None = None, colours: str = plotting.DIVERGING, label_x: bool = True, label_y: bool = True,
) -> Heatmap:  # fmt: skip
    """Draw a heatmap of layer × head or layer × position, without its cells yet; otherwise as `empty_heatmap`.

    Args:
        cells: those of all checkpoints, which tell the layers.
        columns: heads, or positions by their role.
        tokens: an example prompt's tokens, written beside the roles; those that the corruption changes are bold.
    """
    layers = sorted(cells.index.unique("layer"))
    heatmap = empty_heatmap(axes, layers, columns, limit, size, colours)
    axes.tick_params(axis="both", length=0)
    if label_x:
        _label_columns(axes, columns, size[0], tokens or {})
    if label_y:
        every = max(1, math.ceil(len(layers) / MAX_LAYER_LABELS))
        axes.set_yticks(range(0, len(layers), every), [str(layer) for layer in layers[::every]], fontsize=6)
    # An axis without labels would still take time to lay out.
    axes.xaxis.set_visible(label_x)
    axes.yaxis.set_visible(label_y)
    return heatmap


def _label_columns(axes: Axes, columns: Sequence[object], width: float, tokens: Tokens) -> None:
    labels = {str(name): _position_label(str(name), tokens.get(str(name))) for name in columns}
    every = max(1, math.ceil(len(labels) * 0.072 / width))
    are_positions = any(isinstance(name, str) for name in columns)
    axes.set_xticks(
        range(0, len(labels), every), list(labels.values())[::every], fontsize=5 if are_positions else 6
    )  # fmt: skip
    if are_positions:
        axes.tick_params(axis="x", rotation=90)
        for tick, role in zip(axes.get_xticklabels(), list(labels)[::every], strict=True):
            clean, corrupted = tokens.get(role, ("", ""))
            tick.set_fontweight("bold" if clean != corrupted else "normal")


def _position_label(role: str, pair: tuple[str, str] | None) -> str:
    """A role with its token in an example prompt: "end · to", or "subject 1 · Emily → Sarah" if it is changed."""
    if pair is None:
        return role
    clean, corrupted = (token.strip()[:14] or repr(token)[1:-1] for token in pair)
    return f"{role} · {clean}" if pair[0] == pair[1] else f"{role} · {clean} → {corrupted}"


def label_heads(axes: Axes, axis: str, heads: Sequence[tuple[int, int]]) -> None:
    """Label an axis ("x" or "y") of (layer, head) pairs sorted by layer, with a line between layers.

    Each head is named, or only the layers if there are more than MAX_HEAD_LABELS.
    """
    layers = np.array([layer for layer, _ in heads])
    line, set_ticks = (axes.axvline, axes.set_xticks) if axis == "x" else (axes.axhline, axes.set_yticks)
    for at in np.flatnonzero(np.diff(layers)):
        line(at + 0.5, color="0.85", linewidth=0.4)
    if len(heads) <= MAX_HEAD_LABELS:
        set_ticks(range(len(heads)), [f"{layer}.{head}" for layer, head in heads], fontsize=6)
    else:
        middles = [np.flatnonzero(layers == layer).mean() for layer in np.unique(layers)]
        set_ticks(middles, [f"L{layer}" for layer in np.unique(layers)], fontsize=6)
    if axis == "x":
        axes.tick_params(axis="x", rotation=90)


def columns_of(cells: pd.DataFrame) -> list[object]:
    """The columns of a heatmap: heads in ascending order, or positions in the order of the prompt."""
    columns = list(dict.fromkeys(cells.index.get_level_values(-1)))
    return columns if any(isinstance(column, str) for column in columns) else sorted(columns)


def heatmap_height(layers: int, columns: int, width: float) -> float:
    """Height in inches of a heatmap with square cells and a label beside it in a column of `width` inches."""
    cell = min((width - 0.15) / max(1, columns), MAX_CELL)
    return min(max(layers * cell, MIN_HEIGHT), MAX_HEIGHT)


def largest_magnitude(values: pd.Series) -> float:
    """The largest absolute value; 1 if there is no value other than zero."""
    magnitudes = values.dropna().abs()
    return (float(magnitudes.max()) if len(magnitudes) else 1.0) or 1.0


def colour_bar(figure: Picture, image: AxesImage, axes: list[Axes], label: str, clipped: bool = False) -> None:
    """Draw a colour bar beside some plots; its ends are arrows if values beyond them are `clipped`."""
    shrink = min(0.9, MAX_HEIGHT / figure.get_figheight())
    extend = "both" if clipped else "neither"
    bar = figure.colorbar(image, ax=axes, label=label, shrink=shrink, pad=0.01, aspect=18, extend=extend)
    # The default also divides by 2.5, which gives ticks such as 0.0375.
    bar.locator = MaxNLocator(6, steps=[1, 2, 5, 10])
    bar.update_ticks()
