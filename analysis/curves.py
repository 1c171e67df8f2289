"""Lines over checkpoints: what training measured, the logit lens, and the logit difference that each layer writes."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes

from . import canvas
from .canvas import Picture
from .frames import Frames
from .summaries import band

STUDENT = "band: 95% interval of the mean over runs (Student's t)"

NAMES = {
    "win_rate": "win rate",
    "logit_diff_first": "LD against first subject",
    "logit_diff_second": "LD against second",
}
UNITS = {"win_rate": "", "loss": " (nats)", "logit_diff_first": " (logits)", "logit_diff_second": " (logits)"}
SPLITS = {"train": "training prompts", "heldout": "held-out prompts", "two_name": "prompts of the two-name task"}

POINTS = {"resid_pre": 0.0, "resid_mid": 0.5, "resid_post": 1.0}
"""Where the residual stream is read, in layers from a layer's beginning: `resid_mid` is between attention and MLP."""

PASSED = "layers passed (.5: attention, not yet MLP)"


def win_rate(frames: Frames, split: str = "heldout", colour: str = "lr", facet: str = "schedule") -> Picture:
    """Win rate over checkpoints: a colour for each value of `colour`, a plot for each value of `facet`.

    The band of several runs is the 95% interval of their mean; that of a single run is its Wilson interval
    over prompts. `colour` and `facet` are columns of `runs`.
    """
    return training(frames, ["win_rate"], split, colour, facet)


def training(
    frames: Frames, metrics: list[str], split: str = "heldout", colour: str = "lr", facet: str = "schedule"
) -> Picture:
    """What training measured over checkpoints: a row of plots a metric, otherwise as `win_rate`."""
    measured = frames.metrics[frames.metrics["split"] == split]
    measured = measured.merge(frames.runs[["run_id", colour, facet]], on="run_id")
    shown = measured[measured["metric"].isin(metrics)]
    facets, colours = (sorted(shown[name].dropna().unique()) for name in (facet, colour))
    palette = dict(zip(colours, canvas.ordered(len(colours)), strict=True))

    single = "; of a single run: Wilson, over prompts" if "win_rate" in metrics else ""
    below = canvas.source(list(shown["run_id"]), list(shown["n"]), STUDENT + single)
    title = f"{' and '.join(NAMES.get(metric, metric) for metric in metrics)} on {SPLITS.get(split, split)}"
    size = len(metrics), max(1, len(facets))
    with canvas.grid(*size, title[0].upper() + title[1:], below, height=1.9) as (figure, axes):
        for row, (line, metric) in enumerate(zip(axes, metrics, strict=True)):
            for axis, value in zip(line, facets, strict=False):
                for name in colours:
                    runs = measured[(measured[facet] == value) & (measured[colour] == name)]
                    bands = _measured(runs, metric)
                    if len(bands):
                        _line(axis, bands, palette[name], f"{name:g}" if isinstance(name, float) else str(name))
                if metric == "win_rate":
                    axis.axhline(0.9, color="0.5", linestyle=":", linewidth=1)
                    axis.set_ylim(0, 1.02)
                elif axis is not line[0]:
                    axis.sharey(line[0])
                axis.set_title(f"{facet} {value}" if row == 0 else "")
                axis.set_xlabel("checkpoint (step)" if row == len(metrics) - 1 else "")
            line[0].set_ylabel(NAMES.get(metric, metric) + UNITS.get(metric, ""))
        if len(colours):
            axes[0][-1].legend(title=colour, loc="best")
    return figure


def lens(frames: Frames) -> Picture:
    """Logit lens: logit difference of the residual stream through the layers, a line for each checkpoint."""
    rows = frames.attribution[frames.attribution["kind"] == "lens"]
    corruptions, steps = list(pd.unique(rows["corruption"])), sorted(rows["step"].unique())
    palette = dict(zip(steps, canvas.ordered(len(steps)), strict=True))
    below = canvas.source(list(rows["run_id"]), list(rows["n"]), "mean over runs; light: early, dark: late checkpoints")
    title = "Logit lens: logit difference of the residual stream"
    with canvas.grid(1, max(1, len(corruptions)), title, below, height=2.2) as (figure, axes):
        for axis, corruption in zip(axes[0], corruptions, strict=False):
            means = lens_means(rows[rows["corruption"] == corruption])
            for step in steps:
                if step in means.index:
                    line = means.loc[step]
                    axis.plot(line.index, line.to_numpy(), color=palette[step], linewidth=0.9, label=f"{step}")
            axis.axhline(0, color="0.5", linewidth=0.8)
            axis.set(title=f"{corruption} corruption", xlabel=PASSED)
            axis.xaxis.get_major_locator().set_params(integer=True)
        axes[0][0].set_ylabel("logit difference (logits)")
        for axis in axes[0][1:]:
            axis.sharey(axes[0][0])
        _keyed(axes[0][-1], "checkpoint")
    return figure


def lens_means(rows: pd.DataFrame) -> pd.Series:
    """Logit differences of the lens, mean over runs, by step and point in layers (POINTS)."""
    points = rows["layer"].astype("float64") + rows["component"].map(POINTS).astype("float64")
    return rows.assign(point=points).groupby(["step", "point"])["logit_diff"].mean()


def layers(frames: Frames) -> Picture:
    """Logit difference written by each layer's attention (above) and MLP (below) over checkpoints."""
    rows = frames.attribution[(frames.attribution["kind"] == "layer") & frames.attribution["layer"].notna()]
    corruptions, components = list(pd.unique(rows["corruption"])), list(pd.unique(rows["component"]))
    depth = sorted(rows["layer"].unique())
    palette = dict(zip(depth, canvas.ordered(len(depth)), strict=True))
    below = canvas.source(list(rows["run_id"]), list(rows["n"]), STUDENT)
    size = (max(1, len(components)), max(1, len(corruptions)))
    with canvas.grid(*size, "Logit difference from each layer", below, height=1.8) as (figure, axes):
        for row, (line, component) in enumerate(zip(axes, components, strict=False)):
            for axis, corruption in zip(line, corruptions, strict=False):
                axis.sharey(line[0])
                chosen = rows[(rows["component"] == component) & (rows["corruption"] == corruption)]
                bands = band(chosen, ["layer", "step"], "logit_diff")
                for layer in depth:
                    _line(axis, bands[bands["layer"] == layer], palette[layer], f"{layer}")
                axis.axhline(0, color="0.5", linewidth=0.8)
                axis.set(title=f"{component}, {corruption} corruption")
                axis.set_xlabel("checkpoint (step)" if row == len(components) - 1 else "")
            line[0].set_ylabel("logit difference (logits)")
        _keyed(axes[0][-1], "layer")
    return figure


def _keyed(axis: Axes, title: str) -> None:
    """A key beside the plot, of about ten of its lines where there are many."""
    handles, names = axis.get_legend_handles_labels()
    every = math.ceil(len(names) / 10) or 1
    chosen = sorted({*range(0, len(names), every), *range(len(names))[-1:]})
    axis.legend(
        [handles[at] for at in chosen], [names[at] for at in chosen],
        title=title, loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0,
    )  # fmt: skip


def _measured(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The band of a metric: over runs where there are several; of one run's win rate over prompts."""
    rows = runs[runs["metric"] == metric]
    share = metric == "win_rate"
    if rows["run_id"].nunique() == 1 and share:
        ends = runs[runs["metric"].isin((metric, "win_rate_low", "win_rate_high"))]
        wide = ends.pivot(index="step", columns="metric", values="value").reset_index()
        return wide.rename(columns={"win_rate": "mean", "win_rate_low": "low", "win_rate_high": "high"})
    bands = band(rows, ["step"], "value")
    return bands.assign(low=bands["low"].clip(lower=0), high=bands["high"].clip(upper=1)) if share else bands


def _line(axis: Axes, bands: pd.DataFrame, colour: object, label: str) -> None:
    ordered = bands.sort_values("step")
    axis.plot(ordered["step"], ordered["mean"], color=colour, label=label, marker=".", markersize=3, linewidth=1.2)
    axis.fill_between(ordered["step"], ordered["low"], ordered["high"], color=colour, alpha=0.14, linewidth=0)
