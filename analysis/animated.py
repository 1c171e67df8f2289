"""Pictures that move over the checkpoints: axes and colours stay, so that only what the model learned changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist

from ..tasks import COMPARED_SUBJECTS
from . import missing, plotting
from .curves import PASSED, lens_means
from .dynamics import HEAD, depth_palette, name, points, square
from .examples import Tokens
from .frames import Frames
from .heatmaps import (
    COMPARED,
    DIFFERENCE,
    END,
    FEW,
    corruptions,
    draw,
    head_means,
    high,
    largest,
    places_of,
    scale_bar,
    second_less_first,
    site_cells,
    tokens_of,
    unmarked,
)
from .plotting import Picture, Source
from .summaries import with_approximate

NAMED_HEADS = 4
"""Heads of each scatter plot that are named: of those that matter at some checkpoint, the farthest out."""


@dataclass(frozen=True)
class Film:
    """A picture, and what puts a checkpoint's values into it."""

    picture: Picture
    steps: tuple[int, ...]
    """The checkpoints in order."""
    show: Callable[[int], None]
    moving: tuple[Artist, ...]
    """What changes, in the order in which it is drawn; all else stays."""


def heatmap(frames: Frames, site: str) -> Film:
    """Recovered by patching a site: a heatmap a corruption, and the second's less the first's. All have one scale."""
    axis = "head" if (frames.patching["head"].notna() & (_site(frames) == site)).any() else "position"
    values, notes = {}, []
    for corruption in corruptions(frames):
        cells, told = site_cells(frames, corruption, axis)
        if site in cells.index.unique("site"):
            values[corruption] = cells.loc[site]
            notes.append(told)
    rows = frames.patching[_site(frames) == site]
    few = f"; {FEW}" if any(cells["few"].any() for cells in values.values()) else ""
    compared = f"; of differences: {COMPARED}" if DIFFERENCE in values else ""
    note = f"mean over runs of each run's recovered; one scale for all checkpoints; {notes[0]}{compared}{few}"
    below = _source(frames, rows, note)
    tokens = {corruption: tokens_of(frames, corruption) for corruption in values} if axis == "position" else {}
    return _heatmaps(frames, values, f"Recovered by patching {site}", below, "recovered", END, tokens)


def attribution(frames: Frames) -> Film:
    """Logit difference that each head writes itself: heatmaps as of a site."""
    rows = missing.left_out(frames, frames.attribution[frames.attribution["kind"] == "head"])
    means = head_means(rows)
    each = {corruption: means.loc[corruption] for corruption in pd.unique(rows["corruption"])}
    if {*COMPARED_SUBJECTS} <= set(each):
        each[DIFFERENCE] = each[COMPARED_SUBJECTS[1]] - each[COMPARED_SUBJECTS[0]]
    values = {corruption: unmarked(own) for corruption, own in each.items()}
    below = _source(frames, rows, "mean over runs; one scale for all checkpoints")
    end = largest(pd.concat([own for corruption, own in each.items() if corruption != DIFFERENCE]))
    return _heatmaps(frames, values, "Logit difference from each head", below, "logits", end, {})


def lens(frames: Frames) -> Film:
    """The logit lens through the layers; grey is the first checkpoint."""
    rows = missing.left_out(frames, frames.attribution[frames.attribution["kind"] == "lens"])
    lines = {
        corruption: {"residual stream": lens_means(own).unstack()} for corruption, own in rows.groupby("corruption")
    }
    below = _source(frames, rows, "mean over runs; grey: the first checkpoint")
    return _lines(frames, lines, "Logit lens: logit difference of the residual stream", below, PASSED)


def layers(frames: Frames) -> Film:
    """Logit difference written by each layer's attention and MLP; grey is the first checkpoint."""
    parts = frames.attribution[(frames.attribution["kind"] == "layer") & frames.attribution["layer"].notna()]
    rows = missing.left_out(frames, parts)
    lines = {
        corruption: {
            component: part.groupby(["step", "layer"])["logit_diff"].mean().unstack()
            for component, part in own.groupby("component")
        }
        for corruption, own in rows.groupby("corruption")
    }
    below = _source(frames, rows, "mean over runs; grey: the first checkpoint")
    return _lines(frames, lines, "Logit difference from each layer", below, "layer")


def scatter(frames: Frames, across: str, up: str = "z") -> Film:
    """Recovered by patching `up` against that by `across`, a point a head, in the colour of its layer."""
    found = points(frames, across, up)
    rows = found.rows
    palette = depth_palette(sorted(found.heads["layer"].unique()))
    limits = square(found.heads)
    below = _source(frames, rows, f"mean over runs; dotted: equal; {found.note}")
    title = f"Recovered by patching {up} against {across}"
    moved = []
    with plotting.grid(1, max(1, len(found.corruptions)), title, below, height=3, page=True) as (figure, axes):
        for axis, corruption in zip(axes[0], found.corruptions, strict=False):
            own = found.heads[found.heads["corruption"] == corruption].set_index(["step", *HEAD])
            heads = list(own.index.droplevel("step").unique())
            colours = np.array([palette[layer] for layer, _ in heads])
            dots = axis.scatter([0] * len(heads), [0] * len(heads), edgecolors=colours, s=16, linewidths=0.8)
            far = np.hypot(own["across"], own["up"])[own["matters"]].groupby(HEAD).max().nlargest(NAMED_HEADS).index
            words = {
                head: axis.annotate(name(*head), (0, 0), (4, 0), textcoords="offset points", fontsize=6, va="center")
                for head in far
            }
            axis.axline((0, 0), slope=1, color="0.6", linewidth=0.8, linestyle=":")
            axis.set(xlim=limits, ylim=limits, aspect="equal")
            axis.set(title=f"{corruption} corruption", xlabel=f"recovered by {across}")
            moved.append((own, heads, colours, dots, words))
        axes[0][0].set_ylabel(f"recovered by {up}")
        for layer, colour in palette.items():
            axes[0][-1].scatter([], [], color=colour, s=16, label=f"{layer}")
        axes[0][-1].legend(title="layer", loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0)

    def show(step: int) -> None:
        for own, heads, colours, dots, words in moved:
            here = own[own.index.get_level_values("step") == step].droplevel("step")
            at = here.reindex(heads)
            places, matters = at[["across", "up"]].to_numpy("float64"), (at["matters"] == True).to_numpy()  # noqa: E712
            dots.set_offsets(places)
            dots.set_facecolors([(*colour, float(filled)) for colour, filled in zip(colours, matters, strict=True)])
            for head, word in words.items():
                word.xy = tuple(np.nan_to_num(places[heads.index(head)]))
                word.set_visible(bool(matters[heads.index(head)]))

    moving = [artist for _, _, _, dots, words in moved for artist in (dots, *words.values())]
    return film(frames, figure, list(found.heads["step"]), show, moving)


def _source(frames: Frames, rows: pd.DataFrame, note: str) -> Source:
    return plotting.source(list(rows["run_id"]), list(rows["n"]), note + missing.told(frames, rows["run_id"]))


def _heatmaps(
    frames: Frames, values: dict[str, pd.DataFrame], title: str, below: Source, label: str, end: float,
    tokens: dict[str, Tokens],
) -> Film:  # fmt: skip
    """A heatmap for each of some tables of cells by step, layer and place; colours from `-end` to `end`, and those of a
    difference by its own largest value."""
    together = pd.concat(values.values())
    places = places_of(together)
    words = any(isinstance(place, str) for place in places)
    size = (len(values), 1) if words else (1, len(values))  # names of positions need room
    steps = sorted(together.index.unique("step"))
    deep = together.index.get_level_values("layer").nunique()
    height = high(deep, len(places), (plotting.PAGE - 1.2) / size[1])
    ends = {name: largest(own["recovered"]) if name == DIFFERENCE else end for name, own in values.items()}
    drawn = {}
    with plotting.grid(*size, title, below, height + 0.4, page=True) as (figure, axes):
        for plot, corruption in zip(axes.flat, values, strict=True):
            room, own = ((plotting.PAGE - 1.2) / size[1], height), tokens.get(corruption)
            colours = plotting.DIFFERING if corruption == DIFFERENCE else plotting.DIVERGING
            below_it, left_of_it = plot in axes[-1], plot in axes[:, 0]
            drawn[corruption] = draw(plot, together, places, ends[corruption], room, own, colours, below_it)
            plot.set_title(second_less_first(corruption))
            plot.set_xlabel("head" if below_it and not words else "")
            plot.set_ylabel("layer" if left_of_it else "")
        plots = [one.image.axes for name, one in drawn.items() if name != DIFFERENCE]
        scale_bar(figure, drawn[next(iter(drawn))].image, plots, label, "both" if end == END else "neither")
        if DIFFERENCE in drawn:
            scale_bar(figure, drawn[DIFFERENCE].image, [drawn[DIFFERENCE].image.axes], "difference", "neither")

    laid = {corruption: one.lay(values[corruption], steps) for corruption, one in drawn.items()}

    def show(step: int) -> None:
        at = steps.index(step) if step in steps else -1
        for corruption, one in drawn.items():
            one.put({name: of_steps[at] for name, of_steps in laid[corruption].items()})

    borders = [border for one in drawn.values() for border in one.image.axes.spines.values()]
    artists = [artist for one in drawn.values() for artist in one.artists]
    return film(frames, figure, steps, show, [*artists, *borders])


def _lines(frames: Frames, tables: dict[str, dict[str, pd.DataFrame]], title: str, below: Source, across: str) -> Film:
    """Plots of tables step × place: one a corruption, with a line for each of its tables."""
    every = [table for of_corruption in tables.values() for table in of_corruption.values()]
    limits = _limits(pd.concat([table.stack() for table in every]))
    steps = sorted({step for table in every for step in table.index})
    moved = []
    with plotting.grid(1, max(1, len(tables)), title, below, height=2.3, page=True) as (figure, axes):
        for axis, (corruption, of_corruption) in zip(axes[0], tables.items(), strict=True):
            colours = sns.color_palette("colorblind", len(of_corruption))
            for (told, table), colour, marker in zip(of_corruption.items(), colours, "os", strict=False):
                axis.plot(table.columns, table.iloc[0], color="0.75", marker=marker, markersize=3, linewidth=1)
                (line,) = axis.plot(
                    table.columns, table.iloc[0], color=colour, marker=marker, markersize=3.5, linewidth=1.4, label=told
                )
                moved.append((line, table))
            axis.axhline(0, color="0.5", linewidth=0.8)
            axis.set(ylim=limits, title=f"{corruption} corruption", xlabel=across)
            axis.xaxis.get_major_locator().set_params(integer=True)
        axes[0][0].set_ylabel("logit difference (logits)")
        axes[0][-1].legend(loc="upper left")

    def show(step: int) -> None:
        for line, table in moved:
            line.set_ydata(table.reindex([step]).to_numpy("float64", na_value=np.nan)[0])

    return film(frames, figure, steps, show, [line for line, _ in moved])


def film(
    frames: Frames, figure: Picture, steps: Sequence[int], change: Callable[[int], None], moving: Sequence[Artist]
) -> Film:
    """A film that tells below its title the checkpoint, and how well these runs do there. Where one of them has no
    checkpoint nothing is shown for a moment."""
    rates = frames.metrics[frames.metrics["run_id"].isin(figure.source.runs) & (frames.metrics["metric"] == "win_rate")]
    rates = rates[rates["split"] == "heldout"].groupby("step")["value"].mean()
    there = sorted({int(step) for step in steps})
    absent = [step for step in missing.steps(frames, figure.source.runs) if there[0] < step < there[-1]]
    ordered = tuple(sorted({*there, *absent}))
    digits, moment = len(str(max(ordered))), figure.with_moment()

    def show(step: int) -> None:
        change(step)
        known = f", held-out win rate {rates[step]:4.0%}" if step in rates.index else ""
        known = ": not all runs have it" if step in absent and len(figure.source.runs) > 1 else known
        known = ": there is none" if step in absent and len(figure.source.runs) == 1 else known
        # Spaces as wide as a digit: the words stand still.
        moment.set_text(f"checkpoint {step:{digits}}{known}".replace("  ", f" {plotting.BLANK}"))

    show(ordered[-1])
    return Film(figure, ordered, show, (moment, *moving))


def _limits(values: pd.Series) -> tuple[float, float]:
    """Ends of an axis that holds all values, with a margin."""
    there = values.dropna()
    low, high = (float(there.min()), float(there.max())) if len(there) else (0.0, 1.0)
    margin = 0.06 * (high - low) or 0.1
    return min(low, 0.0) - margin, max(high, 0.0) + margin


def _site(frames: Frames) -> pd.Series:
    """The site of each row of the patching table, by the name under which it is shown."""
    return with_approximate(frames.patching)["site"].reindex(frames.patching.index).astype("string").fillna("")
