"""Draws how faithful circuits are: by size, and the circuit of each checkpoint in every other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pandas as pd

from . import circuits, missing, plotting
from .frames import Frames, sound
from .heatmap import colour_bar
from .inference.circuits import FAITHFUL
from .plotting import Picture, Source
from .summaries import spread

LABEL = "faithfulness F"
MOST = 3.0
"""Largest F that is drawn."""


def pictures(frames: Frames) -> Iterator[tuple[str, tuple[str, str, str], Callable[[], Picture]]]:
    """Yield kind, (setting, patching, corruption) and drawing function of each picture."""
    output = frames.output
    if output is None or not any(patch.has(step, "circuits") for patch in output.patches for step in patch.steps()):
        return
    table = circuits.faithfulness(frames, [])  # loading the frames has named damaged files
    examined = frames.patches.drop(columns="status").merge(frames.runs[["run_id", "setting", "status"]], on="run_id")
    keys = ["setting", "patching", "corruption"]
    for key, rows in table.groupby(keys, sort=False, observed=True):
        setting, patching, corruption = map(str, key)
        own = (examined[keys].fillna("").astype(object) == list(key)).all(axis=1)
        runs = list(sound(examined[own])["run_id"])
        source = plotting.source(runs, list(rows["n"]), missing.note(frames, runs))
        group = setting, patching, corruption
        yield "circuits", group, partial(by_size, rows, corruption, source)
        if (rows["kind"] == "exchange").any():
            yield "exchange", group, partial(exchange, rows, corruption, source)


def by_size(rows: pd.DataFrame, corruption: str, source: Source, checkpoints: int = 4) -> Picture:
    """Draw F over the share of nodes kept, a plot per checkpoint, with random sets of the same sizes."""
    own = rows[(rows["kind"] == "circuit") & (rows["order"] == "absolute")]
    steps = spread(sorted(own["step"].unique()), checkpoints)
    scope = "these and other seeds" if (own["runs"] > 1).any() else "this run"
    note = (
        f"judged on other prompts than circuits were found on; band: 95% interval, {scope}; grey: from the median to "
        f"the 95th percentile of random sets of the same size; dotted: within {FAITHFUL} of 1"
    )
    below = Source(source.runs, source.prompts, note + source.note)
    title = f"Circuits by size, {corruption} corruption"
    with plotting.grid(1, max(1, len(steps)), title, below, 2.0, page=True) as (figure, axes):
        for axis, step in zip(axes[0], steps, strict=False):
            line = own[own["step"] == step].sort_values("size")
            axis.axhline(1 - FAITHFUL, color="0.6", linewidth=0.6, linestyle=":")
            axis.axhline(1 + FAITHFUL, color="0.6", linewidth=0.6, linestyle=":")
            if line["value"].notna().any():
                axis.fill_between(line["size"], line["null_median"], line["null_high"], color="0.8", linewidth=0)
                axis.fill_between(line["size"], line["low"], line["high"], color="C0", alpha=0.25, linewidth=0)
                axis.plot(line["size"], line["value"], color="C0", marker="o", markersize=2.5, linewidth=0.9)
            else:
                axis.text(0.5, 0.5, "no measurable gap", transform=axis.transAxes, ha="center", va="center")
            axis.set_xscale("log")
            axis.set_xticks(line["size"], [f"{size:g}" for size in line["size"]])
            axis.minorticks_off()
            axis.set(title=f"checkpoint {step}", xlabel="nodes kept (%)", ylim=(-0.5, MOST))
        axes[0][0].set_ylabel(LABEL)
    shown = own[own["step"].isin(steps)].sort_values(["step", "size"])
    figure.numbers = shown[["step", "size", "value", "low", "high", "null_median", "null_high"]]
    return figure


def exchange(rows: pd.DataFrame, corruption: str, source: Source) -> Picture:
    """Draw F of the circuit of each checkpoint (row) in every other (column)."""
    own = rows[rows["kind"] == "exchange"]
    values, verdicts = (own.pivot(index="source_step", columns="step", values=name) for name in ("value", "verdict"))
    note = (
        f"circuits of {own['size'].iloc[0]:g}% of the nodes; white: F = 1; bold: faithful (within {FAITHFUL} of 1, at "
        "all places at once); grey: no measurable gap"
    )
    below = Source(source.runs, source.prompts, note + source.note)
    title = f"The circuit of one checkpoint in another, {corruption} corruption"
    with plotting.grid(1, 1, title, below, 2.6) as (figure, axes):
        axis = axes[0][0]
        axis.grid(visible=False)
        axis.set_facecolor(plotting.MISSING)
        shown = values.to_numpy(dtype=float)
        image = axis.imshow(shown, cmap=plotting.DIVERGING, vmin=0, vmax=2, aspect="auto")
        for (row, column), value in np.ndenumerate(shown):
            if np.isfinite(value):
                is_faithful = verdicts.iat[row, column] == "faithful"
                colour = "white" if abs(value - 1) > 0.7 else "black"
                weight = "bold" if is_faithful else "normal"
                axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontweight=weight)
        axis.set_xticks(range(len(values.columns)), [f"{step}" for step in values.columns])
        axis.set_yticks(range(len(values.index)), [f"{step}" for step in values.index])
        axis.set(xlabel="judged at checkpoint", ylabel="circuit of checkpoint")
        colour_bar(figure, image, [axis], LABEL, clipped=bool(((shown < 0) | (shown > 2)).any()))
    figure.numbers = own[["source_step", "step", "value", "verdict"]]
    return figure
