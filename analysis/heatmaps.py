"""Recovered by site as heatmaps: layer × head, layer × position, and direct paths from head to head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.image import AxesImage

from ..circuits.recovered import FLOOR
from . import canvas
from .canvas import Picture, Source
from .frames import SOURCE, Frames
from .summaries import APPROXIMATE, recovered, with_approximate

HEAD_SITES = ("z", "q", "k", "v", "pattern")
MOST = 1.5
"""Where the colour scale ends at most: small denominators give fractions that would drown all others."""
POSITION_SITES = ("resid_pre", "attn_out", "mlp_out")
INPUTS = ("q", "k", "v", "logits")
DIFFERENCE = "difference"
"""What stands for a corruption's name where the first is subtracted from the second."""
GREY = f"mean over runs of each run's recovered; grey: clean and corrupted differ by less than {FLOOR} logits"
NAMED = 16
"""Heads on an axis that each have their name; of more, only layers are named."""


def heads(frames: Frames, corruption: str, sites: Sequence[str] = HEAD_SITES, checkpoints: int = 4) -> Picture:
    """Recovered by patching each head: a row of layer × head heatmaps a site, a column a checkpoint.

    Corruption `difference` is the second's recovered less the first's. At most so many `checkpoints`, and no more than
    a page is wide.
    """
    return _sites(frames, corruption, sites, checkpoints, "head")


def positions(frames: Frames, corruption: str, sites: Sequence[str] = POSITION_SITES, checkpoints: int = 4) -> Picture:
    """Recovered by patching each position: a row of layer × position heatmaps a site; otherwise as `heads`."""
    return _sites(frames, corruption, sites, checkpoints, "position")


def attribution(frames: Frames, checkpoints: int = 4) -> Picture:
    """Logit difference that each head writes itself: a row of layer × head heatmaps a corruption, a column a
    checkpoint."""
    rows = frames.attribution[frames.attribution["kind"] == "head"]
    means = head_means(rows)
    below = canvas.source(list(rows["run_id"]), list(rows["n"]), "mean over runs")
    title = "Logit difference from each head, by corruption"
    labels = {name: name for name in pd.unique(rows["corruption"])}
    return _grid(means, labels, title, below, "logits", checkpoints, shared=True)


def head_means(rows: pd.DataFrame) -> pd.Series:
    """Logit difference from each head, mean over runs, by corruption, step, layer and head."""
    return rows.groupby(["corruption", "step", "layer", "head"])["logit_diff"].mean()


def site_means(frames: Frames, corruption: str, axis: str) -> pd.Series:
    """Recovered by patching, mean over runs, by site, step, layer and `axis` (head or position, in their order).

    Of corruption `difference`: the second's less the first's, where both are.
    """
    if corruption == DIFFERENCE:
        first, second = (site_means(frames, name, axis) for name in ("first", "second"))
        both = second.index.intersection(first.index, sort=False)
        return second.loc[both] - first.loc[both]
    rows = with_approximate(frames.patching[frames.patching["corruption"] == corruption])
    rows = rows[rows[axis].notna()]
    if axis == "position":  # as in the prompt, not in the alphabet
        rows = rows.assign(position=pd.Categorical(rows["position"], pd.unique(rows["position"])))
    return rows.assign(recovered=recovered(rows)).groupby(
        ["site", "step", "layer", axis], observed=True, sort=True
    )["recovered"].mean()  # fmt: skip


def corruptions(frames: Frames) -> list[str]:
    """The corruptions that were patched under, and `difference` where first and second are both there."""
    there = list(pd.unique(frames.patching["corruption"]))
    return [*there, DIFFERENCE] if {"first", "second"} <= set(there) else there


def rows_of(frames: Frames, corruption: str) -> pd.DataFrame:
    """The rows of the patching table that a corruption's picture is made from."""
    names = ("first", "second") if corruption == DIFFERENCE else (corruption,)
    return frames.patching[frames.patching["corruption"].isin(names)]


def paths(frames: Frames, corruption: str) -> Picture:
    """Recovered by patching direct paths at the last checkpoint: source head × receiver head, a plot an input; paths to
    the logits are one column.

    Cells are empty where there is no path, because the source is not in an earlier layer or was not asked for.
    """
    rows = frames.paths[frames.paths["corruption"] == corruption]
    rows = rows[rows["step"] == rows["step"].max()]
    source, receiver = list(SOURCE), ["layer", "head"]
    rows = rows.assign(**{name: rows[name].fillna(-1) for name in receiver})  # The logits are no head.
    means = rows.assign(recovered=recovered(rows)).groupby(["site", *source, *receiver])["recovered"].mean()
    inputs = [name for name in INPUTS if (rows["site"] == name).any()]
    end = scale_end(means)

    grey = f"white: no path; grey: clean and corrupted differ by less than {FLOOR} logits"
    below = canvas.source(list(rows["run_id"]), list(rows["n"]), f"mean over runs of each run's recovered; {grey}")
    title = f"Recovered by direct paths, {corruption} corruption, checkpoint {rows['step'].max()}"
    with canvas.grid(1, max(1, len(inputs)), title, below, 2.6) as (figure, axes):
        if inputs:
            axes[0][0].get_gridspec().set_width_ratios([0.15 if name == "logits" else 1 for name in inputs])
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
            _name_heads(plot, "y", list(table.index))
            plot.set_title(f"to {name}", fontsize=8)
            if name == "logits":
                plot.set_xticks([0], [name], fontsize=6)
                continue
            _name_heads(plot, "x", list(table.columns))
            plot.set_xlabel("receiver" + (" (key/value head)" if name != "q" else ""))
        axes[0][0].set_ylabel("source")
        figure.colorbar(image, ax=list(axes[0]), label="recovered", shrink=0.9, pad=0.01, extend=_beyond(means, end))
    return figure


def spread(steps: Sequence[int], count: int) -> list[int]:
    """`count` of the steps, evenly apart, with the first and the last."""
    ordered = sorted(set(steps))
    chosen = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return [ordered[index] for index in chosen]


def _sites(frames: Frames, corruption: str, sites: Sequence[str], checkpoints: int, axis: str) -> Picture:
    means = site_means(frames, corruption, axis)
    there = set(means.index.unique("site"))
    labels = {name: name for site in sites for name in (site, site + APPROXIMATE) if name in there}
    means = means[means.index.isin(list(labels), level="site")]
    rows = rows_of(frames, corruption)
    shown = rows["site"].isin([name.removesuffix(APPROXIMATE) for name in labels])
    below = canvas.source(list(rows.loc[shown, "run_id"]), list(rows.loc[shown, "n"]), GREY)
    what = "second less first corruption" if corruption == DIFFERENCE else f"{corruption} corruption"
    label = "difference" if corruption == DIFFERENCE else "recovered"
    return _grid(means, labels, f"Recovered by patching, {what}", below, label, checkpoints)


def _grid(
    means: pd.Series, labels: Mapping[str, str], title: str, below: Source, label: str, checkpoints: int,
    shared: bool = False,
) -> Picture:  # fmt: skip
    """Heatmaps of `means`: a row for each of its first level that `labels` names, a column a checkpoint.

    A row has one scale, and `shared` gives one to all: of every checkpoint, also of those that are not shown.
    """
    places = {name: list(dict.fromkeys(means.loc[name].index.get_level_values(-1))) for name in labels}
    most = max(map(len, places.values()), default=1)
    named = any(isinstance(place, str) for of_row in places.values() for place in of_row)
    room = canvas.PAGE - 1.2
    fitting = int(room / (0.075 * most if named else 0.11 * most + 0.15))
    steps = spread(list(means.index.get_level_values("step")), min(checkpoints, max(2, fitting)))
    deep = means.index.get_level_values("layer").nunique()
    size = max(1, len(labels)), max(1, len(steps))
    height = min(max(0.12 * deep, 0.8), 2.6) + (0.1 if named else 0.2)
    with canvas.grid(*size, title, below, height, page=True) as (figure, axes):
        last = list(labels)[-1:]
        for line, (name, told) in zip(axes, labels.items(), strict=False):
            own = means.loc[name]
            end = largest(means) if shared else scale_end(own)
            of_steps = tables(own, places[name])
            empty = pd.DataFrame(np.nan, index=sorted(own.index.unique("layer")), columns=places[name])
            for plot, step in zip(line, steps, strict=False):
                image = draw(plot, of_steps.get(step, empty), end, label_width=room / size[1])
                plot.set_title(f"checkpoint {step}" if plot in axes[0] else "")
                plot.tick_params(
                    labelbottom=name in last or places[name] != places[last[0]], labelleft=plot is line[0]
                )  # fmt: skip
            line[0].set_ylabel(f"{told}\nlayer")
            if not shared:
                _scale(figure, image, list(line), label, _beyond(own, end))
        if shared and labels and steps:
            _scale(figure, image, list(axes.flat), label, "neither")
        for plot in axes[-1]:
            plot.set_xlabel("" if named else "head")
    return figure


def tables(values: pd.Series, places: Sequence[object]) -> dict[int, pd.DataFrame]:
    """Values by step, layer and place as a table layer × place for each step; missing where there is none."""
    layers = sorted(values.index.unique("layer"))
    wide = values.unstack().reindex(columns=list(places))
    return {step: own.droplevel("step").reindex(layers) for step, own in wide.groupby(level="step")}


def draw(plot: Axes, table: pd.DataFrame, end: float, label_width: float) -> AxesImage:
    """A heatmap of layer × head or position, from `-end` to `end`, with names as far as `label_width` inches go."""
    image = _image(plot, table, end)
    names = [str(name) for name in table.columns]
    words = any(isinstance(name, str) for name in table.columns)
    every = max(1, math.ceil(len(names) * 0.072 / label_width))
    plot.set_xticks(range(0, len(names), every), names[::every], fontsize=5 if words else 6)
    plot.tick_params(axis="both", length=0)
    if words:
        plot.tick_params(axis="x", rotation=90)
    every = max(1, math.ceil(len(table) / 16))
    plot.set_yticks(range(0, len(table), every), [str(layer) for layer in table.index[::every]], fontsize=6)
    return image


def scale_end(values: pd.Series) -> float:
    """Where the colour scale of a recovered fraction ends, both ways."""
    return min(largest(values), MOST)


def largest(values: pd.Series) -> float:
    """The largest value without its sign; 1 where there is none, or none but zero."""
    there = values.dropna().abs()
    return (float(there.max()) if len(there) else 1.0) or 1.0


def _scale(figure: Picture, image: AxesImage, plots: list[Axes], label: str, beyond: str) -> None:
    figure.colorbar(image, ax=plots, label=label, shrink=0.9, pad=0.01, aspect=12 * len(plots) ** 0.5, extend=beyond)


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
        ticks(range(len(heads)), [f"{layer}.{head}" for layer, head in heads], fontsize=6)
    else:
        middles = [np.flatnonzero(layers == layer).mean() for layer in np.unique(layers)]
        ticks(middles, [f"L{layer}" for layer in np.unique(layers)], fontsize=6)
    if axis == "x":
        plot.tick_params(axis="x", rotation=90)
