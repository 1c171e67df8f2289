"""Recovered by site as heatmaps: layer × head and layer × position, on one scale for all checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from . import canvas
from .frames import FLOOR, Frames, recovered

HEAD_SITES = ("z", "v", "pattern")
MOST = 1.5
"""Where the colour scale ends at most: small denominators give fractions that would drown all others."""
POSITION_SITES = ("resid_pre", "attn_out", "mlp_out")


def heads(frames: Frames, corruption: str, sites: Sequence[str] = HEAD_SITES, checkpoints: int = 4) -> Figure:
    """Recovered by patching each head: a row of layer × head heatmaps a site, a column a checkpoint."""
    return _sites(frames, corruption, sites, checkpoints, "head")


def positions(frames: Frames, corruption: str, sites: Sequence[str] = POSITION_SITES, checkpoints: int = 4) -> Figure:
    """Recovered by patching each position: a row of layer × position heatmaps a site, a column a step."""
    return _sites(frames, corruption, sites, checkpoints, "position")


def spread(steps: Sequence[int], count: int) -> list[int]:
    """`count` of the steps, evenly apart, with the first and the last."""
    ordered = sorted(set(steps))
    chosen = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return [ordered[index] for index in chosen]


def _sites(frames: Frames, corruption: str, sites: Sequence[str], checkpoints: int, axis: str) -> Figure:
    rows = frames.patching[frames.patching["corruption"] == corruption]
    rows = rows.assign(recovered=recovered(rows))
    present = [site for site in sites if (rows["site"] == site).any()]
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
            values = means.loc[site].dropna().abs()
            largest = values.max() if len(values) else 1.0
            end = min(largest, MOST) or 1.0
            # Heads that share their keys and values have fewer of these.
            own = rows[rows["site"] == site]
            places = [place for place in order if place in set(own[axis])]
            for plot, step in zip(line, steps, strict=False):
                table = means.loc[site, step].unstack(axis).reindex(columns=places).sort_index()
                # Not seaborn's heatmap, which lays out the whole figure anew for every plot.
                image = plot.imshow(
                    table.to_numpy("float64", na_value=np.nan), cmap=canvas.DIVERGING, vmin=-end, vmax=end,
                    origin="lower", aspect="auto", interpolation="nearest",
                )  # fmt: skip
                plot.set_facecolor(canvas.MISSING)
                plot.grid(False)
                plot.set_xticks(range(len(places)), [str(name) for name in places], fontsize=6)
                plot.set_yticks(range(len(table)), [str(layer) for layer in table.index], fontsize=6)
                plot.set_title(f"{site}, checkpoint {step}", fontsize=8)
                if axis == "position":
                    plot.tick_params(axis="x", rotation=90)
            line[0].set_ylabel("layer")
            extend = "both" if largest > end else "neither"
            figure.colorbar(image, ax=list(line), label="recovered", shrink=0.9, pad=0.01, extend=extend)
        for plot in axes[-1]:
            plot.set_xlabel(axis)
    return figure
