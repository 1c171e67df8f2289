"""Lines over checkpoints: win rate, logit lens, and the logit difference that each layer writes."""

from __future__ import annotations

import math

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import canvas
from .frames import Frames, band

STUDENT = "band: 95% interval of the mean over runs (Student's t)"


def win_rate(frames: Frames, split: str = "heldout", colour: str = "lr", facet: str = "schedule") -> Figure:
    """Win rate over checkpoints: a colour for each value of `colour`, a plot for each value of `facet`.

    The band of several runs is the 95% interval of their mean; that of a single run is its Wilson interval
    over prompts. `colour` and `facet` are columns of `runs`.
    """
    metrics = frames.metrics[frames.metrics["split"] == split]
    values = metrics[metrics["metric"].isin(("win_rate", "win_rate_low", "win_rate_high"))]
    wide = values.pivot(index=["run_id", "step", "n"], columns="metric", values="value").reset_index()
    wide = wide.merge(frames.runs[["run_id", colour, facet]], on="run_id")
    facets, colours = (sorted(wide[name].dropna().unique()) for name in (facet, colour))
    palette = dict(zip(colours, sns.color_palette("viridis_r", len(colours) + 1)[1:], strict=True))

    below = canvas.source(list(wide["run_id"]), list(wide["n"]), f"{STUDENT}; of a single run: Wilson, over prompts")
    with canvas.grid(1, max(1, len(facets)), f"Win rate on {split.replace('heldout', 'held-out')} prompts", below) as (
        figure,
        axes,
    ):
        for axis, value in zip(axes[0], facets, strict=False):
            for name in colours:
                runs = wide[(wide[facet] == value) & (wide[colour] == name)]
                if len(runs):
                    _line(
                        axis,
                        _share(runs),
                        palette[name],
                        f"{name:g}" if isinstance(name, float) else str(name),
                    )
            axis.axhline(0.9, color="0.5", linestyle=":", linewidth=1)
            axis.set(title=f"{facet} {value}", xlabel="checkpoint (step)", ylim=(0, 1.02))
            axis.set_ylabel("win rate" if axis is axes[0][0] else "")
        if len(colours):
            axes[0][-1].legend(title=colour, loc="lower right", fontsize=7, title_fontsize=7)
    return figure


def lens(frames: Frames) -> Figure:
    """Logit lens: logit difference of the residual stream from layer to layer, a line for each checkpoint."""
    rows = frames.attribution[frames.attribution["kind"] == "lens"]
    rows = rows.assign(point=rows["component"] + " " + rows["layer"].astype("string"))
    corruptions, steps = list(pd.unique(rows["corruption"])), sorted(rows["step"].unique())
    palette = dict(zip(steps, sns.color_palette("viridis_r", len(steps)), strict=True))
    below = canvas.source(list(rows["run_id"]), list(rows["n"]), "mean over runs")
    title = "Logit lens: logit difference of the residual stream"
    with canvas.grid(1, max(1, len(corruptions)), title, below, width=4) as (figure, axes):
        for axis, corruption in zip(axes[0], corruptions, strict=False):
            means = rows[rows["corruption"] == corruption].groupby(["step", "point"], sort=False)["logit_diff"].mean()
            for step in steps:
                if step in means.index:
                    line = means.loc[step]
                    axis.plot(line.index, line.to_numpy(), color=palette[step], linewidth=1, label=f"{step}")
            axis.axhline(0, color="0.5", linewidth=0.8)
            axis.set(title=f"{corruption} corruption", xlabel="")
            axis.tick_params(axis="x", rotation=60, labelsize=6)
        axes[0][0].set_ylabel("logit difference (logits)")
        axes[0][-1].legend(title="checkpoint", fontsize=6, title_fontsize=6, ncols=math.ceil(len(steps) / 8) or 1)
    return figure


def layers(frames: Frames) -> Figure:
    """Logit difference written by each layer's attention (above) and MLP (below) over checkpoints."""
    rows = frames.attribution[(frames.attribution["kind"] == "layer") & frames.attribution["layer"].notna()]
    corruptions, components = list(pd.unique(rows["corruption"])), list(pd.unique(rows["component"]))
    depth = sorted(rows["layer"].unique())
    palette = dict(zip(depth, sns.color_palette("viridis_r", len(depth)), strict=True))
    below = canvas.source(list(rows["run_id"]), list(rows["n"]), STUDENT)
    size = (max(1, len(components)), max(1, len(corruptions)))
    with canvas.grid(*size, "Logit difference from each layer", below) as (figure, axes):
        for line, component in zip(axes, components, strict=False):
            for axis, corruption in zip(line, corruptions, strict=False):
                axis.sharey(line[0])
                chosen = rows[(rows["component"] == component) & (rows["corruption"] == corruption)]
                bands = band(chosen, ["layer", "step"], "logit_diff")
                for layer in depth:
                    _line(axis, bands[bands["layer"] == layer], palette[layer], f"{layer}")
                axis.axhline(0, color="0.5", linewidth=0.8)
                axis.set(title=f"{component}, {corruption} corruption", xlabel="checkpoint (step)")
            line[0].set_ylabel("logit difference (logits)")
        axes[0][-1].legend(title="layer", fontsize=6, title_fontsize=6, ncols=math.ceil(len(depth) / 8) or 1)
    return figure


def _share(runs: pd.DataFrame) -> pd.DataFrame:
    """The band of a share: over runs where there are several, over prompts where there is one."""
    if runs["run_id"].nunique() == 1:
        return runs.rename(columns={"win_rate": "mean", "win_rate_low": "low", "win_rate_high": "high"})
    bands = band(runs, ["step"], "win_rate")
    return bands.assign(low=bands["low"].clip(lower=0), high=bands["high"].clip(upper=1))


def _line(axis: Axes, bands: pd.DataFrame, colour: object, label: str) -> None:
    ordered = bands.sort_values("step")
    axis.plot(ordered["step"], ordered["mean"], color=colour, label=label, marker=".", markersize=4, linewidth=1.4)
    axis.fill_between(ordered["step"], ordered["low"], ordered["high"], color=colour, alpha=0.18, linewidth=0)
