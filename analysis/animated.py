"""Animations over checkpoints. Axes and colour scales are fixed, so that every change is one in the model."""

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
from .heatmap import colour_bar, columns_of, heatmap_height, largest_magnitude, layer_heatmap
from .heatmaps import (
    COMPARED,
    DIFFERENCE,
    FEW,
    RECOVERED_LIMIT,
    averaged,
    corruptions,
    example_tokens,
    head_means,
    panel_title,
    site_cells,
    untested,
)
from .plotting import Picture, Source
from .summaries import with_approximate

NAMED_HEADS = 4
"""Heads named in each scatter plot: of those that matter at some checkpoint, the farthest from zero."""


@dataclass(frozen=True)
class Film:
    """A picture whose values can be replaced by those of any checkpoint."""

    picture: Picture
    steps: tuple[int, ...]
    """The checkpoints in ascending order."""
    show: Callable[[int], None]
    """Shows a checkpoint."""
    moving: tuple[Artist, ...]
    """The artists that change between checkpoints, in drawing order."""


def heatmap(frames: Frames, site: str) -> Film:
    """Animate recovered by patching a site: a heatmap per corruption, and second − first."""
    axis = "head" if (frames.patching["head"].notna() & (_site(frames) == site)).any() else "position"
    cells, notes = {}, []
    for corruption in corruptions(frames):
        of_sites, note = site_cells(frames, corruption, axis)
        if site in of_sites.index.unique("site"):
            cells[corruption] = of_sites.loc[site]
            notes.append(note)
    rows = frames.patching[_site(frames) == site]
    few = f"; {FEW}" if any(own["few"].any() for own in cells.values()) else ""
    compared = f"; of differences: {COMPARED}" if DIFFERENCE in cells else ""
    note = f"{averaged(rows)}one scale for all checkpoints; {notes[0]}{compared}{few}"
    source = _source(frames, rows, note)
    tokens = {corruption: example_tokens(frames, corruption) for corruption in cells} if axis == "position" else {}
    return _heatmaps(frames, cells, f"Recovered by patching {site}", source, "recovered", RECOVERED_LIMIT, tokens)


def attribution(frames: Frames) -> Film:
    """Animate the logit difference that each head contributes: a heatmap per corruption, and second − first."""
    rows = missing.left_out(frames, frames.attribution[frames.attribution["kind"] == "head"])
    means = head_means(rows)
    each = {corruption: means.loc[corruption] for corruption in pd.unique(rows["corruption"])}
    limit = largest_magnitude(pd.concat(each.values()))
    if {*COMPARED_SUBJECTS} <= set(each):
        each[DIFFERENCE] = each[COMPARED_SUBJECTS[1]] - each[COMPARED_SUBJECTS[0]]
    cells = {corruption: untested(own) for corruption, own in each.items()}
    source = _source(frames, rows, f"{averaged(rows)}one scale for all checkpoints")
    return _heatmaps(frames, cells, "Logit difference from each head", source, "logits", limit, {})


def lens(frames: Frames) -> Film:
    """Animate the logit lens through the layers; the first checkpoint stays in grey."""
    rows = missing.left_out(frames, frames.attribution[frames.attribution["kind"] == "lens"])
    lines = {
        corruption: {"residual stream": lens_means(own).unstack()} for corruption, own in rows.groupby("corruption")
    }
    source = _source(frames, rows, f"{averaged(rows)}grey: the first checkpoint")
    return _lines(frames, lines, "Logit lens: logit difference of the residual stream", source, PASSED)


def layers(frames: Frames) -> Film:
    """Animate the logit difference from each layer's attention and MLP; the first checkpoint stays in grey."""
    parts = frames.attribution[(frames.attribution["kind"] == "layer") & frames.attribution["layer"].notna()]
    rows = missing.left_out(frames, parts)
    lines = {
        corruption: {
            component: part.groupby(["step", "layer"])["logit_diff"].mean().unstack()
            for component, part in own.groupby("component")
        }
        for corruption, own in rows.groupby("corruption")
    }
    source = _source(frames, rows, f"{averaged(rows)}grey: the first checkpoint")
    return _lines(frames, lines, "Logit difference from each layer", source, "layer")


def scatter(frames: Frames, across: str, up: str = "z") -> Film:
    """Animate recovered by patching `up` against `across`: a point per head, coloured by layer."""
    found = points(frames, across, up)
    rows = found.rows
    palette = depth_palette(sorted(found.heads["layer"].unique()))
    limits = square(found.heads)
    source = _source(frames, rows, f"{averaged(rows)}dotted: equal; {found.note}")
    title = f"Recovered by patching {up} against {across}"
    plots = []
    with plotting.grid(1, max(1, len(found.corruptions)), title, source, height=3, page=True) as (figure, axes):
        for axis, corruption in zip(axes[0], found.corruptions, strict=False):
            own = found.heads[found.heads["corruption"] == corruption].set_index(["step", *HEAD])
            heads = list(own.index.droplevel("step").unique())
            colours = np.array([palette[layer] for layer, _ in heads])
            dots = axis.scatter([0] * len(heads), [0] * len(heads), edgecolors=colours, s=16, linewidths=0.8)
            far = np.hypot(own["across"], own["up"])[own["matters"]].groupby(HEAD).max().nlargest(NAMED_HEADS).index
            labels = {
                head: axis.annotate(name(*head), (0, 0), (4, 0), textcoords="offset points", fontsize=6, va="center")
                for head in far
            }
            axis.axline((0, 0), slope=1, color="0.6", linewidth=0.8, linestyle=":")
            axis.set(xlim=limits, ylim=limits, aspect="equal")
            axis.set(title=f"{corruption} corruption", xlabel=f"recovered by {across}")
            plots.append((own, heads, colours, dots, labels))
        axes[0][0].set_ylabel(f"recovered by {up}")
        for layer, colour in palette.items():
            axes[0][-1].scatter([], [], color=colour, s=16, label=f"{layer}")
        axes[0][-1].legend(title="layer", loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0)

    def show(step: int) -> None:
        for own, heads, colours, dots, labels in plots:
            here = own[own.index.get_level_values("step") == step].droplevel("step")
            at = here.reindex(heads)
            places, matters = at[["across", "up"]].to_numpy("float64"), (at["matters"] == True).to_numpy()  # noqa: E712
            dots.set_offsets(places)
            dots.set_facecolors([(*colour, float(filled)) for colour, filled in zip(colours, matters, strict=True)])
            for head, label in labels.items():
                label.xy = tuple(np.nan_to_num(places[heads.index(head)]))
                label.set_visible(bool(matters[heads.index(head)]))

    moving = [artist for _, _, _, dots, labels in plots for artist in (dots, *labels.values())]
    return film(frames, figure, list(found.heads["step"]), show, moving)


def _source(frames: Frames, rows: pd.DataFrame, note: str) -> Source:
    return plotting.source(list(rows["run_id"]), list(rows["n"]), note + missing.note(frames, rows["run_id"]))


def _heatmaps(
    frames: Frames, cells: dict[str, pd.DataFrame], title: str, source: Source, value_label: str, limit: float,
    tokens: dict[str, Tokens],
) -> Film:  # fmt: skip
    """A heatmap per corruption of its `cells` by step, layer and column.

    Colours go from `-limit` to `limit`; those of `difference` to its own largest value.
    """
    every = pd.concat(cells.values())
    columns = columns_of(every)
    are_positions = any(isinstance(column, str) for column in columns)
    shape = (len(cells), 1) if are_positions else (1, len(cells))  # names of positions need the page's width
    steps = sorted(every.index.unique("step"))
    width = (plotting.PAGE - 1.2) / shape[1]
    height = heatmap_height(every.index.get_level_values("layer").nunique(), len(columns), width)
    limits = {name: largest_magnitude(own["value"]) if name == DIFFERENCE else limit for name, own in cells.items()}
    heatmaps = {}
    with plotting.grid(*shape, title, source, height + 0.4, page=True) as (figure, axes):
        for plot, corruption in zip(axes.flat, cells, strict=True):
            colours = plotting.DIFFERING if corruption == DIFFERENCE else plotting.DIVERGING
            label_x = plot in axes[-1]
            heatmaps[corruption] = layer_heatmap(
                plot, every, columns, limits[corruption], (width, height), tokens.get(corruption), colours, label_x
            )
            plot.set_title(panel_title(corruption))
            plot.set_xlabel("head" if label_x and not are_positions else "")
            plot.set_ylabel("layer" if plot in axes[:, 0] else "")
        images = {name: heatmap.image for name, heatmap in heatmaps.items()}
        compared = images.pop(DIFFERENCE, None)
        one = next(iter(images.values()))
        plots = [image.axes for image in images.values()]
        colour_bar(figure, one, plots, value_label, clipped=value_label == "recovered")
        if compared is not None:
            colour_bar(figure, compared, [compared.axes], "difference")

    arrays = {corruption: heatmap.arrays(cells[corruption], steps) for corruption, heatmap in heatmaps.items()}

    def show(step: int) -> None:
        at = steps.index(step) if step in steps else -1
        for corruption, heatmap in heatmaps.items():
            heatmap.put({name: of_steps[at] for name, of_steps in arrays[corruption].items()})

    borders = [border for heatmap in heatmaps.values() for border in heatmap.image.axes.spines.values()]
    artists = [artist for heatmap in heatmaps.values() for artist in heatmap.artists]
    return film(frames, figure, steps, show, [*artists, *borders])


def _lines(frames: Frames, tables: dict[str, dict[str, pd.DataFrame]], title: str, source: Source, across: str) -> Film:
    """A plot per corruption, with a line for each of its tables of step × `across`."""
    every = [table for of_corruption in tables.values() for table in of_corruption.values()]
    limits = _limits(pd.concat([table.stack() for table in every]))
    steps = sorted({step for table in every for step in table.index})
    lines = []
    with plotting.grid(1, max(1, len(tables)), title, source, height=2.3, page=True) as (figure, axes):
        for axis, (corruption, of_corruption) in zip(axes[0], tables.items(), strict=True):
            colours = sns.color_palette("colorblind", len(of_corruption))
            for (label, table), colour, marker in zip(of_corruption.items(), colours, "os", strict=False):
                axis.plot(table.columns, table.iloc[0], color="0.75", marker=marker, markersize=3, linewidth=1)
                (line,) = axis.plot(table.columns, table.iloc[0], color=colour, marker=marker, label=label)
                line.set(markersize=3.5, linewidth=1.4)
                lines.append((line, table))
            axis.axhline(0, color="0.5", linewidth=0.8)
            axis.set(ylim=limits, title=f"{corruption} corruption", xlabel=across)
            axis.xaxis.get_major_locator().set_params(integer=True)
        axes[0][0].set_ylabel("logit difference (logits)")
        axes[0][-1].legend(loc="upper left")

    def show(step: int) -> None:
        for line, table in lines:
            line.set_ydata(table.reindex([step]).to_numpy("float64", na_value=np.nan)[0])

    return film(frames, figure, steps, show, [line for line, _ in lines])


def film(
    frames: Frames, figure: Picture, steps: Sequence[int], change: Callable[[int], None], moving: Sequence[Artist]
) -> Film:
    """A film with the checkpoint and its mean held-out win rate below the title.

    Steps that some run lacks are frames without values.
    """
    rates = frames.metrics[frames.metrics["run_id"].isin(figure.source.runs) & (frames.metrics["metric"] == "win_rate")]
    rates = rates[rates["split"] == "heldout"].groupby("step")["value"].mean()
    measured = sorted({int(step) for step in steps})
    absent = [step for step in missing.steps(frames, figure.source.runs) if measured[0] < step < measured[-1]]
    ordered = tuple(sorted({*measured, *absent}))
    digits, moment = len(str(max(ordered))), figure.with_moment()

    def show(step: int) -> None:
        change(step)
        if step in absent:
            suffix = ": not all runs have it" if len(figure.source.runs) > 1 else ": there is none"
        else:
            suffix = f", held-out win rate {rates[step]:4.0%}" if step in rates.index else ""
        # Padded with spaces as wide as a digit, so that the words do not move.
        moment.set_text(f"checkpoint {step:{digits}}{suffix}".replace("  ", f" {plotting.BLANK}"))

    show(ordered[-1])
    return Film(figure, ordered, show, (moment, *moving))


def _limits(values: pd.Series) -> tuple[float, float]:
    """Axis limits that include all values and zero, with a margin."""
    known = values.dropna()
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    margin = 0.06 * (high - low) or 0.1
    return min(low, 0.0) - margin, max(high, 0.0) + margin


def _site(frames: Frames) -> pd.Series:
    """The site of each row of the patching table as labelled: "z", or "z (approximate)"."""
    return with_approximate(frames.patching)["site"].reindex(frames.patching.index).astype("string").fillna("")
