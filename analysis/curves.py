"""Line plots over checkpoints: metrics of runs, the logit lens, attribution of layers, and measures."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from ..counting import counted
from ..series.logged import SPLIT as TRAINER
from ..training.outcome import THRESHOLDS
from . import evidence, missing, plotting, spikes
from .frames import Frames, sound
from .plotting import Picture
from .summaries import band

STUDENT = "band: 95% interval of the mean over seeds, on these prompts (Student's t)"

STOPPED = "cross: last value of a run that diverged"

NAMES = {
    "win_rate": "win rate",
    "accuracy": "accuracy",
    "loss": "loss",
    "logit_diff_first": "LD against first subject",
    "logit_diff_second": "LD against second",
    "logit_diff": "LD",
    "preferred": "right answers preferred",
}
SHARES = ("win_rate", "accuracy", "preferred")
LOGIT_DIFF = "logit_diff"
"""Prefix of logit differences; the task names what the answer is compared with."""
SPLITS = {
    "heldout": "held-out prompts",
    "train": "training prompts",
    "two_name": "prompts of the two-name task",
    "without_bos": "held-out prompts without BOS",
}

POINTS = {"resid_pre": 0.0, "resid_mid": 0.5, "resid_post": 1.0}
"""Where the residual stream is read, as a fraction of its layer: `resid_mid` is between attention and MLP."""

MEASURES = {
    "position_r2": ("linear probe of position", "held-out R²", (None, 1)),
    "position_r2_without_bos": ("probe of position without BOS", "held-out R²", (None, 1)),
    "previous_token": ("attention to the previous token", "mean attention", (0, 1)),
    "diagonal": ("attention to the token itself", "mean attention", (0, 1)),
    "ablated_loss": ("replaced by its mean", "loss (nats)", (0, None)),
}
"""Measures: title, label of the axis, and limits of the axis."""

PLACE = ["layer", "component", "head"]

SERIES = "series"
"""Shown in place of a schedule for series, whose schedule is unknown."""

PASSED = "layers (.5: after attention, before the MLP)"


def training(frames: Frames, metrics: list[str], split: str = "heldout") -> Picture:
    """Draw metrics of runs over checkpoints: a row per metric, a plot per schedule and one for series, a colour for
    everything else that differs apart from the seed.

    Bands are 95% intervals: of the mean over several runs, or Wilson's over prompts for a single run's win rate.
    """
    measured = frames.metrics[frames.metrics["split"] == split].merge(_styles(frames), on="run_id")
    shown = measured[measured["metric"].isin(metrics)]
    panels, palette = _panels(shown), _palette(shown)

    single = "; of a single run: Wilson, over prompts" if "win_rate" in metrics else ""
    # Accuracy is over all scored tokens.
    tokens = f"{_counted(shown['n'])} tokens; " if metrics == ["accuracy"] else ""
    learned = [f"{THRESHOLDS[metric]:g}" for metric in dict.fromkeys(metrics) if metric in SHARES]
    dotted = f"; dotted: {' and '.join(learned)}, from which the task counts as learned" if learned else ""
    note = tokens + STUDENT + single + dotted + _stopped(shown) + missing.note(frames, shown["run_id"])
    below = plotting.source(list(shown["run_id"]), [] if tokens else list(shown["n"]), note)
    title = f"{' and '.join(NAMES.get(metric, metric) for metric in metrics)} on {SPLITS.get(split, split)}"
    size = len(metrics), max(1, len(panels))
    numbers: list[pd.DataFrame] = []
    with plotting.grid(*size, title[0].upper() + title[1:], below, height=1.9) as (figure, axes):
        for row, (line, metric) in enumerate(zip(axes, metrics, strict=True)):
            for axis, panel in zip(line, panels, strict=False):
                axis.sharey(line[0])
                for colour, shade in palette.items():
                    runs = measured[(measured["panel"] == panel) & (measured["colour"] == colour)]
                    bands = missing.broken(_measured(runs, metric), missing.steps(frames, runs["run_id"]))
                    if len(bands):
                        _line(axis, bands, shade, str(colour))
                        ended = _crosses(axis, runs[runs["metric"] == metric], shade)
                        numbers += [part.assign(metric=metric, plot=panel, of=colour) for part in (bands, ended)]
                if metric in SHARES:
                    axis.axhline(THRESHOLDS[metric], color="0.5", linestyle=":", linewidth=1)
                    axis.set_ylim(0, 1.02)
                plotting.step_axis(axis, shown["step"])
                axis.set_title(panel if row == 0 else "")
                axis.set_xlabel("checkpoint (step)" if row == len(metrics) - 1 else "")
            line[0].set_ylabel(NAMES.get(metric, metric) + _unit(metric))
        _coloured(axes[0][-1], palette)
    figure.numbers = plotting.together(numbers)
    return figure


def _unit(metric: str) -> str:
    return " (logits)" if metric.startswith(LOGIT_DIFF) else " (nats)" if metric == "loss" else ""


def losses(frames: Frames) -> Picture:
    """Draw the training loss of every batch on a log axis, a line per run, with its spikes; otherwise as `training`."""
    about = _styles(frames)
    rows = frames.metrics[(frames.metrics["split"] == "batch") & (frames.metrics["metric"] == "loss")]
    rows, peaks = rows.merge(about, on="run_id"), spikes.of_runs(rows).merge(about, on="run_id")
    panels, palette = _panels(rows), _palette(rows)
    note = (
        f"one line per run; triangle: spike, a loss {spikes.THRESHOLD:g} robust standard deviations and "
        f"{spikes.LEAST:g} times above the median of the {2 * spikes.HALF_WINDOW + 1} steps around it; "
        f"spikes found, and expected from {spikes.NOISE}: {_spike_counts(rows)}"
    )
    below = plotting.source(list(rows["run_id"]), list(rows["n"]), note + _stopped(rows, of_means=False))
    with plotting.grid(1, max(1, len(panels)), "Training loss of every batch", below, height=2.2) as (figure, axes):
        for axis, panel in zip(axes[0], panels, strict=False):
            axis.sharey(axes[0][0])
            for colour, shade in palette.items():
                line, top = (every[(every["panel"] == panel) & (every["colour"] == colour)] for every in (rows, peaks))
                for _, run in line.groupby("run_id", sort=False):
                    axis.plot(run["step"], run["value"], color=shade, linewidth=0.5, alpha=0.8)
                axis.plot(top["step"], top["value"], "v", color=shade, markersize=3.5, markeredgecolor="0.2", mew=0.4)
                _crosses(axis, line, shade)
            axis.set(title=panel, xlabel="step")
            _logarithmic(axis)
        axes[0][0].set_ylabel("loss (nats)")
        _coloured(axes[0][-1], palette)
    keys = ["run_id", "step"]
    is_peak = pd.MultiIndex.from_frame(rows[keys]).isin(pd.MultiIndex.from_frame(peaks[keys]))
    figure.numbers = rows[[*keys, "value"]].assign(spike=is_peak)
    return figure


def _spike_counts(rows: pd.DataFrame) -> str:
    """Total spikes per schedule, found and expected from noise."""
    of_schedules = [(schedule, spikes.counts(some)) for schedule, some in rows.groupby("schedule")]
    return ", ".join(
        f"{schedule} {counts['found'].sum()} and {counts['expected'].sum():.1f}" for schedule, counts in of_schedules
    )


def logged(frames: Frames) -> Picture:
    """Draw the losses that each series' own trainer logged on a log axis, a line per run; evaluation losses dashed."""
    rows = frames.metrics[(frames.metrics["split"] == TRAINER) & frames.metrics["metric"].str.endswith("loss")]
    rows = rows.merge(_styles(frames), on="run_id")
    panels, palette = _panels(rows), _palette(rows)
    note = "one line per run: the loss on its own data since the last log; dashed: on its evaluation data"
    below = plotting.source(list(rows["run_id"]), [], note)
    with plotting.grid(1, max(1, len(panels)), "Loss logged by the trainer", below, height=2.2) as (
        figure,
        axes,
    ):
        for axis, panel in zip(axes[0], panels, strict=False):
            axis.sharey(axes[0][0])
            own = rows[rows["panel"] == panel]
            for (_, metric, colour), line in own.groupby(["run_id", "metric", "colour"], sort=False):
                style = "-" if metric == "loss" else "--"
                axis.plot(line["step"], line["value"], style, color=palette[colour], linewidth=0.8)
            axis.set(title=panel, xlabel="step")
            _logarithmic(axis)
        axes[0][0].set_ylabel("loss (nats)")
        _coloured(axes[0][-1], palette)
    figure.numbers = rows[["run_id", "metric", "step", "value"]]
    return figure


def measures(frames: Frames) -> Picture:
    """Draw the measures over checkpoints: a plot per measure, a line per component or head of each layer."""
    # Measures do not depend on the corruption, but each corruption's patch job has them.
    rows = frames.measures.drop_duplicates(["run_id", "step", "measure", *PLACE])
    absent = missing.steps(frames, rows["run_id"])
    names = list(pd.unique(rows["measure"]))
    below = plotting.source(
        list(rows["run_id"]),
        [],
        f"{_counted(rows['n'])} tokens of clean held-out prompts; {STUDENT}{missing.note(frames, rows['run_id'])}",
    )
    size = (math.ceil(len(names) / 2) or 1, min(2, len(names)) or 1)
    numbers: list[pd.DataFrame] = []
    with plotting.grid(*size, "Measures of the clean run", below, height=2.0, page=True) as (figure, axes):
        for axis, measure in zip(axes.flat, names, strict=False):
            title, value, ends = MEASURES.get(measure, (measure, measure, (None, None)))
            places = list(rows[rows["measure"] == measure].groupby(PLACE, sort=False, dropna=False))
            for (place, lines), shade in zip(places, plotting.ordered(len(places)), strict=True):
                bands = missing.broken(band(lines, ["step"]), absent)
                bands = bands.assign(low=bands["low"].clip(*ends), high=bands["high"].clip(*ends))
                _line(axis, bands, shade, _named(*place))
                numbers.append(bands.assign(measure=measure, **dict(zip(PLACE, place, strict=True))))
            plotting.step_axis(axis, rows["step"])
            axis.set(title=title[0].upper() + title[1:], xlabel="checkpoint (step)", ylabel=value)
            _keyed(axis, "")
        for axis in axes.flat[len(names) :]:
            axis.remove()
    figure.numbers = plotting.together(numbers)
    return figure


def _named(layer: object, component: str, head: object) -> str:
    if not pd.isna(head):
        return f"{layer}.{head}"
    return component if pd.isna(layer) else f"{component} {layer}"


def lens(frames: Frames) -> Picture:
    """Draw the logit lens: logit difference of the residual stream through the layers, a line per checkpoint.

    The first and the last checkpoint have bands.
    """
    rows = missing.left_out(frames, frames.attribution[frames.attribution["kind"] == "lens"])
    corruptions, steps = list(pd.unique(rows["corruption"])), sorted(rows["step"].unique())
    palette = dict(zip(steps, plotting.ordered(len(steps)), strict=True))
    found = {corruption: evidence.of_attribution(frames, corruption, "lens") for corruption in corruptions}
    scope = _joined(note for _, note in found.values())
    note = f"mean over runs; light: early, dark: late checkpoints; band of the first and the last: {scope}"
    note += missing.note(frames, rows["run_id"])
    below = plotting.source(list(rows["run_id"]), list(rows["n"]), note)
    title = "Logit lens: logit difference of the residual stream"
    with plotting.grid(1, max(1, len(corruptions)), title, below, height=2.2) as (figure, axes):
        for axis, (corruption, (bands, _)) in zip(axes[0], found.items(), strict=False):
            axis.sharey(axes[0][0])  # before lines are drawn, which it would cut
            of_steps = dict(iter(bands.assign(point=points(bands)).sort_values("point").groupby("step")))
            for step in (step for step in steps if step in of_steps):
                line = of_steps[step]
                axis.plot(line["point"], line["mean"], color=palette[step], linewidth=0.9, label=f"{step}")
                if step in (min(of_steps), max(of_steps)):
                    ends = line["low"].astype(float), line["high"].astype(float)
                    axis.fill_between(line["point"], *ends, color=palette[step], alpha=0.25, linewidth=0)
            axis.axhline(0, color="0.5", linewidth=0.8)
            axis.set(title=f"{corruption} corruption", xlabel=PASSED)
            axis.xaxis.get_major_locator().set_params(integer=True)
        axes[0][0].set_ylabel("logit difference (logits)")
        _keyed(axes[0][-1], "checkpoint")
    each = [bands.assign(corruption=name, point=points(bands)) for name, (bands, _) in found.items()]
    figure.numbers = plotting.together(bands[bands["step"].isin(steps)] for bands in each)
    return figure


def points(rows: pd.DataFrame) -> pd.Series:
    """Position of each row of the lens, in layers (POINTS)."""
    return rows["layer"].astype("float64") + rows["component"].map(POINTS).astype("float64")


def _joined(notes: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(notes))


def lens_means(rows: pd.DataFrame) -> pd.Series:
    """Logit differences of the lens, mean over runs, by step and point in layers (POINTS)."""
    return rows.assign(point=points(rows)).groupby(["step", "point"])["logit_diff"].mean()


def layers(frames: Frames) -> Picture:
    """Draw the logit difference from each layer's attention (above) and MLP (below) over checkpoints."""
    rows = frames.attribution[(frames.attribution["kind"] == "layer") & frames.attribution["layer"].notna()]
    corruptions, components = list(pd.unique(rows["corruption"])), list(pd.unique(rows["component"]))
    depth = sorted(rows["layer"].unique())
    palette = dict(zip(depth, plotting.ordered(len(depth)), strict=True))
    found = {corruption: evidence.of_attribution(frames, corruption, "layer") for corruption in corruptions}
    note = f"band: {_joined(note for _, note in found.values())}{missing.note(frames, rows['run_id'])}"
    below, absent = plotting.source(list(rows["run_id"]), list(rows["n"]), note), missing.steps(frames, rows["run_id"])
    size = (max(1, len(components)), max(1, len(corruptions)))
    with plotting.grid(*size, "Logit difference from each layer", below, height=1.8) as (figure, axes):
        for row, (line, component) in enumerate(zip(axes, components, strict=False)):
            for axis, corruption in zip(line, corruptions, strict=False):
                axis.sharey(line[0])
                bands, _ = found[corruption]
                bands = bands[bands["component"] == component]
                for layer in depth:
                    _line(axis, missing.broken(bands[bands["layer"] == layer], absent), palette[layer], f"{layer}")
                axis.axhline(0, color="0.5", linewidth=0.8)
                plotting.step_axis(axis, rows["step"])
                axis.set(title=f"{component}, {corruption} corruption")
                axis.set_xlabel("checkpoint (step)" if row == len(components) - 1 else "")
            line[0].set_ylabel("logit difference (logits)")
        _keyed(axes[0][-1], "layer")
    each = [bands.assign(corruption=name) for name, (bands, _) in found.items()]
    figure.numbers = plotting.together(
        bands[bands["layer"].isin(depth) & ~bands["step"].isin(absent)] for bands in each
    )
    return figure


def _styles(frames: Frames) -> pd.DataFrame:
    """Schedule, status, plot and colour of each run.

    The colour is the learning rate if nothing else but the seed differs among runs of one schedule, otherwise
    everything that differs. Series, whose training is unknown, have a plot and colours of their own.
    """
    runs, is_own = frames.runs, frames.runs["schedule"].notna()
    about = runs[["run_id", "schedule", "status"]].assign(
        panel=("schedule " + runs["schedule"]).fillna(SERIES), colour=runs["lr"].astype(object)
    )
    several = runs.loc[~is_own, "setting"].nunique() > 1
    about.loc[~is_own, "colour"] = runs.loc[~is_own, "setting"] if several else SERIES
    if (runs[is_own].groupby(["lr", "schedule"], dropna=False)["setting"].nunique() > 1).any():
        about.loc[is_own, "colour"] = [
            ", ".join(part for part in str(setting).split(", ") if part != f"schedule {schedule}")
            for setting, schedule in zip(runs.loc[is_own, "setting"], runs.loc[is_own, "schedule"], strict=True)
        ]
    return about


def _panels(rows: pd.DataFrame) -> list[str]:
    return sorted(rows["panel"].unique(), key=lambda panel: (panel == SERIES, panel))


def _counted(n: pd.Series) -> str:
    return "/".join(map(str, sorted(set(n))))


def _logarithmic(axis: Axes) -> None:
    axis.set_yscale("log")
    axis.yaxis.set(
        major_locator=LogLocator(subs=(1, 2, 5)), major_formatter=StrMethodFormatter("{x:g}"),
        minor_formatter=NullFormatter(),
    )  # fmt: skip


def _palette(rows: pd.DataFrame) -> dict[Any, tuple[float, float, float]]:
    colours = sorted(rows["colour"].dropna().unique(), key=lambda colour: (isinstance(colour, str), colour))
    return dict(zip(colours, plotting.ordered(len(colours)), strict=True))


def _coloured(axis: Axes, palette: dict[Any, tuple[float, float, float]]) -> None:
    """Draw the legend of colours, beside the plot if names are long."""
    rates = all(isinstance(colour, float) for colour in palette)
    handles = [
        Line2D([], [], color=shade, label=colour if isinstance(colour, str) else f"{'' if rates else 'lr '}{colour:g}")
        for colour, shade in palette.items()
    ]
    if handles and rates:
        axis.legend(handles=handles, title="lr", loc="best")
    elif handles and list(palette) != [SERIES]:  # named by the plot's title
        axis.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0)


def _keyed(axis: Axes, title: str) -> None:
    """Draw the legend beside the plot, with about a dozen lines at most."""
    handles, names = axis.get_legend_handles_labels()
    every = math.ceil(len(names) / 12) or 1
    chosen = sorted({*range(0, len(names), every), *range(len(names))[-1:]})
    axis.legend(
        [handles[at] for at in chosen], [names[at] for at in chosen],
        title=title, loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0,
    )  # fmt: skip


def _measured(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Band of a metric: over runs if there are several that did not diverge, over prompts for one run's win rate."""
    runs = sound(runs)
    rows = runs[runs["metric"] == metric]
    share = metric in SHARES
    if rows["run_id"].nunique() == 1 and metric == "win_rate":
        ends = runs[runs["metric"].isin((metric, "win_rate_low", "win_rate_high"))]
        wide = ends.pivot(index="step", columns="metric", values="value").reset_index()
        return wide.rename(columns={"win_rate": "mean", "win_rate_low": "low", "win_rate_high": "high"})
    bands = band(rows, ["step"], "value")
    return bands.assign(low=bands["low"].clip(lower=0), high=bands["high"].clip(upper=1)) if share else bands


def _stopped(rows: pd.DataFrame, of_means: bool = True) -> str:
    """Explain crosses, and count the runs left out of means."""
    if not (rows["status"] == "diverged").any():
        return ""
    lines = rows.groupby(["panel", "colour"], dropna=False)
    left_out = sum(own["run_id"].nunique() - sound(own)["run_id"].nunique() for _, own in lines)
    without = f", {counted(left_out, 'diverged run')} left out of means" if left_out and of_means else ""
    return f"; {STOPPED}{without}"


def _crosses(axis: Axes, rows: pd.DataFrame, colour: object) -> pd.DataFrame:
    """Mark the last value of each diverged run, and return these values in the columns of a line."""
    of_diverged = rows[(rows["status"] == "diverged") & np.isfinite(rows["value"])]
    ended = of_diverged.sort_values("step").groupby("run_id").tail(1)
    if len(ended):
        axis.plot(ended["step"], ended["value"], "x", color=colour, markersize=5, mew=1.5)
    return ended[["step", "value", "run_id"]].rename(columns={"value": "mean", "run_id": "diverged"})


def _line(axis: Axes, bands: pd.DataFrame, colour: object, label: str) -> None:
    ordered = bands.sort_values("step")
    axis.plot(ordered["step"], ordered["mean"], color=colour, label=label, marker=".", markersize=3, linewidth=1.2)
    axis.fill_between(ordered["step"], ordered["low"], ordered["high"], color=colour, alpha=0.14, linewidth=0)
