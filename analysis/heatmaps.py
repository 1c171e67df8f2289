"""Recovered by site as heatmaps: layer × head, layer × position, and direct paths from head to head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from . import canvas
from .frames import APPROXIMATE, FLOOR, SOURCE, Frames, recovered, with_approximate

HEAD_SITES = ("z", "q", "k", "v", "pattern")
MOST = 1.5
"""Where the colour scale ends at most: small denominators give fractions that would drown all others."""
POSITION_SITES = ("resid_pre", "attn_out", "mlp_out")
INPUTS = ("q", "k", "v")
NAMED = 16
"""Heads on an axis that each have their name; of more, only layers are named."""


def heads(frames: Frames, corruption: str, sites: Sequence[str] = HEAD_SITES, checkpoints: int = 4) -> Figure:
    """Recovered by patching each head: a row of layer × head heatmaps a site, a column a checkpoint."""
    return _sites(frames, corruption, sites, checkpoints, "head")


def positions(frames: Frames, corruption: str, sites: Sequence[str] = POSITION_SITES, checkpoints: int = 4) -> Figure:
    """Recovered by patching each position: a row of layer × position heatmaps a site, a column a step."""
    return _sites(frames, corruption, sites, checkpoints, "position")


def paths(frames: Frames, corruption: str) -> Figure:
    """Recovered by patching direct paths at the last checkpoint: source head × receiver head, a plot an input.

    Cells are empty where there is no path, because the source is not in an earlier layer or was not asked for.
    """
    rows = frames.paths[frames.paths["corruption"] == corruption]
    rows = rows[rows["step"] == rows["step"].max()]
    source, receiver = list(SOURCE), ["layer", "head"]
    means = rows.assign(recovered=recovered(rows)).groupby(["site", *source, *receiver])["recovered"].mean()
    inputs = [name for name in INPUTS if (rows["site"] == name).any()]
    end = _end(means)

    grey = f"white: no path; grey: clean and corrupted differ by less than {FLOOR} logits"
    below = canvas.source(list(rows["run_id"]), list(rows["n"]), f"mean over runs of each run's recovered; {grey}")
    title = f"Recovered by direct paths, {corruption} corruption, checkpoint {rows['step'].max()}"
    with canvas.grid(1, max(1, len(inputs)), title, below, 3.4, 3.2) as (figure, axes):
        for plot, name in zip(axes[0], inputs, strict=False):
            own = means.loc[name]
            table = own.unstack(receiver).sort_index().sort_index(axis=1)
            there = own.notna().groupby(level=[*source, *receiver]).size().unstack(receiver)
            missing = there.reindex_like(table).notna() & table.isna()
            plot.imshow(
                np.where(missing, 1.0, np.nan), cmap=ListedColormap([canvas.MISSING]), origin="lower", aspect="auto",
                interpolation="nearest",
            )  # fmt: skip
            image = _image(plot, table, end)
            plot.set_facecolor("white")
            _name_heads(plot, "x", list(table.columns))
            _name_heads(plot, "y", list(table.index))
            plot.set_title(f"to {name}", fontsize=8)
            plot.set_xlabel("receiver" + (" (key/value head)" if name != "q" else ""))
        axes[0][0].set_ylabel("source")
        figure.colorbar(image, ax=list(axes[0]), label="recovered", shrink=0.9, pad=0.01, extend=_beyond(means, end))
    return figure


def spread(steps: Sequence[int], count: int) -> list[int]:
    """`count` of the steps, evenly apart, with the first and the last."""
    ordered = sorted(set(steps))
    chosen = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return [ordered[index] for index in chosen]


def _sites(frames: Frames, corruption: str, sites: Sequence[str], checkpoints: int, axis: str) -> Figure:
    rows = frames.patching[frames.patching["corruption"] == corruption]
    rows = with_approximate(rows)
    rows = rows.assign(recovered=recovered(rows))
    present = [name for site in sites for name in (site, site + APPROXIMATE) if (rows["site"] == name).any()]
    rows = rows[rows["site"].isin(present)]
    steps = spread(list(rows["step"]), checkpoints)
    there = pd.unique(rows[axis].dropna())
    order = list(there) if axis == "position" else sorted(there)
    means = rows.groupby(["site", "step", "layer", axis], observed=True)["recovered"].mean()

    grey = f"grey: clean and corrupted differ by less than {FLOOR} logits"
    more = f"mean over runs of each run's recovered; {grey}"
    below = canvas.source(list(rows["run_id"]), list(rows["n"]), more)
    size = (max(1, len(present)), max(1, len(steps)))
    words = 0.5 if axis == "position" else 0  # inches for names below the plot
    width, height = 0.6 + 0.17 * len(order), 0.7 + 0.14 * rows["layer"].nunique() + words
    title = f"Recovered by patching, {corruption} corruption"
    with canvas.grid(*size, title, below, max(width, 1.9), max(height, 1.5)) as (figure, axes):
        for line, site in zip(axes, present, strict=False):
            # One scale for the site's every checkpoint, also for those that are not shown.
            end = _end(means.loc[site])
            # Heads that share their keys and values have fewer of these.
            own = rows[rows["site"] == site]
            places = [place for place in order if place in set(own[axis])]
            for plot, step in zip(line, steps, strict=False):
                table = means.loc[site, step].unstack(axis).reindex(columns=places).sort_index()
                image = _image(plot, table, end)
                plot.set_xticks(range(len(places)), [str(name) for name in places], fontsize=6)
                plot.set_yticks(range(len(table)), [str(layer) for layer in table.index], fontsize=6)
                gap = "\n" if site.endswith(APPROXIMATE) else " "  # such a name takes the whole width
                plot.set_title(f"{site},{gap}checkpoint {step}", fontsize=8)
                if axis == "position":
                    plot.tick_params(axis="x", rotation=90)
            line[0].set_ylabel("layer")
            beyond = _beyond(means.loc[site], end)
            figure.colorbar(image, ax=list(line), label="recovered", shrink=0.9, pad=0.01, extend=beyond)
        for plot in axes[-1]:
            plot.set_xlabel(axis)
    return figure


def _end(values: pd.Series) -> float:
    """Where the colour scale ends, both ways."""
    there = values.dropna().abs()
    return min(there.max() if len(there) else 1.0, MOST) or 1.0


def _beyond(values: pd.Series, end: float) -> str:
    """Whether the scale's ends stand for larger values as well."""
    return "both" if (values.dropna().abs() > end).any() else "neither"


def _image(plot: Axes, table: pd.DataFrame, end: float) -> AxesImage:
    # Not seaborn's heatmap, which lays out the whole figure anew for every plot.
    image = plot.imshow(
        table.to_numpy("float64", na_value=np.nan), cmap=canvas.DIVERGING, vmin=-end, vmax=end,
        origin="lower", aspect="auto", interpolation="nearest",
    )  # fmt: skip
    plot.set_facecolor(canvas.MISSING)
    plot.grid(False)
    return image


def _name_heads(plot: Axes, axis: str, heads: Sequence[tuple[int, int]]) -> None:
    """Ticks for (layer, head) in the order of layers: each head, or of many the layers alone, with lines between."""
    layers = np.array([layer for layer, _ in heads])
    begins = [at for at in range(1, len(heads)) if layers[at] != layers[at - 1]]
    line, ticks = (plot.axvline, plot.set_xticks) if axis == "x" else (plot.axhline, plot.set_yticks)
    for at in begins:
        line(at - 0.5, color="0.85", linewidth=0.4)
    if len(heads) <= NAMED:
        ticks(range(len(heads)), [f"L{layer}H{head}" for layer, head in heads], fontsize=6)
    else:
        middles = [np.flatnonzero(layers == layer).mean() for layer in np.unique(layers)]
        ticks(middles, [f"L{layer}" for layer in np.unique(layers)], fontsize=6)
    if axis == "x":
        plot.tick_params(axis="x", rotation=90)
