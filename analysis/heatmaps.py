"""Recovered by site as heatmaps: layer × head, layer × position, and direct paths from head to head."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import ListedColormap
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D

from ..tasks import COMPARED_SUBJECTS, in_order
from . import evidence, examples, missing, plotting
from .evidence import GREY, SMALL
from .examples import Tokens
from .folder import several
from .frames import Frames
from .inference.differences import difference
from .inference.families import Family, Place
from .inference.verdicts import DELTA, few
from .plotting import Picture, Source
from .summaries import APPROXIMATE, spread

HEAD_SITES = ("z", "q", "k", "v", "pattern")
END = 1.0
"""Where the colour scale of recovered ends either way, so that all pictures can be compared; its bar's arrows stand for
what is beyond."""
LEAST, MOST = 2 * DELTA, 1.5
"""Where that of direct paths, of which each carries little, ends at least and at most."""
MOST_CELL, MOST_HIGH = 0.2, 2.6
"""Inches: the largest cell, and the highest heatmap."""
EXAMPLE = "after a position: the token that the first prompt has there, the changed one bold"
POSITION_SITES = ("resid_pre", "attn_out", "mlp_out")
INPUTS = ("q", "k", "v", "logits")
DIFFERENCE = "difference"
"""What stands for a corruption's name where the first is subtracted from the second."""
MARKS = {"matters": "o", "undecided": "o", "more": "+", "less": "_"}
"""Verdicts and comparisons that have a mark; the others are small, alike, or grey."""
MARKED = f"● matters, · undecided, no mark: {SMALL}"
COMPARED = f"+ more, − less, · undecided, no mark: alike (they differ by {SMALL.partition('(')[2]}"
FEW = "hatched: less than half of the prompts have it, and it is not tested"
UNTESTED = "no test was made"
NAMED = 16
"""Heads on an axis that each have their name; of more, only layers are named."""


def heads(frames: Frames, corruption: str, sites: str | Iterable[str] = HEAD_SITES, checkpoints: int = 4) -> Picture:
    """Recovered by patching each head: a row of layer × head heatmaps a site, a column a checkpoint.

    Corruption `difference` is the second's recovered less the first's. At most so many `checkpoints`, and no more than
    a page is wide.
    """
    return _sites(frames, corruption, several(sites), checkpoints, "head")


def positions(
    frames: Frames, corruption: str, sites: str | Iterable[str] = POSITION_SITES, checkpoints: int = 4
) -> Picture:
    """Recovered by patching each position: a row of layer × position heatmaps a site; otherwise as `heads`."""
    return _sites(frames, corruption, several(sites), checkpoints, "position")


def attribution(frames: Frames, checkpoints: int = 4) -> Picture:
    """Logit difference that each head writes itself: a row of layer × head heatmaps a corruption, a column a
    checkpoint."""
    rows = missing.left_out(frames, frames.attribution[frames.attribution["kind"] == "head"])
    note = f"mean over runs; {UNTESTED}{missing.told(frames, rows['run_id'])}"
    below = plotting.source(list(rows["run_id"]), list(rows["n"]), note)
    title = "Logit difference from each head, by corruption"
    labels = {name: f"{name} corruption" for name in pd.unique(rows["corruption"])}
    cells = unmarked(head_means(rows))
    return _grid(cells, labels, title, below, "logits", checkpoints, largest(cells["recovered"]))


def head_means(rows: pd.DataFrame) -> pd.Series:
    """Logit difference from each head, mean over runs, by corruption, step, layer and head."""
    return rows.groupby(["corruption", "step", "layer", "head"])["logit_diff"].mean()


def unmarked(values: pd.Series) -> pd.DataFrame:
    """Values as cells of which nothing was tested."""
    return pd.DataFrame({"recovered": values, "verdict": "", "few": False})


def site_cells(frames: Frames, corruption: str, axis: str) -> tuple[pd.DataFrame, str]:
    """What patching recovers, by site, step, layer and `axis` (head or position, in their order), and what is to be
    known of it: columns `recovered` (missing without a gap), `verdict`, and `few` (less than half of the prompts).

    Of corruption `difference`: the second's less the first's, where both are, with the comparison for a verdict.
    """
    key = ("cells", corruption, axis)
    if key not in frames.kept:  # a picture and a film of each site need them
        frames.kept[key] = _site_cells(frames, corruption, axis)
    kept: tuple[pd.DataFrame, str] = frames.kept[key]
    return kept


def _site_cells(frames: Frames, corruption: str, axis: str) -> tuple[pd.DataFrame, str]:
    if corruption != DIFFERENCE:
        families = [own for own in evidence.of_sites(frames, corruption).values() if _is_of(own, axis)]
        parts = {
            own.site: _cells(
                own.steps, own.places, axis, own.estimate.recovered, own.judged.words, own.estimate.n
            )[own.estimate.runs > 0]
            for own in families
        }  # fmt: skip
        return _together(parts, axis), f"{GREY}; {MARKED}; {evidence.told(families)}" if families else ""
    first, second = (evidence.of_sites(frames, name) for name in COMPARED_SUBJECTS)
    parts, compared = {}, []
    for site in (site for site in second if site in first and _is_of(second[site], axis)):
        found = difference(first[site], second[site])
        if found is not None:
            compared.append(found)
            parts[site] = _cells(found.steps, found.places, axis, found.difference, found.words, found.n)
            continue
        one, other = (
            _cells(
                own.steps, own.places, axis, own.estimate.recovered, np.full(len(own.estimate.n), ""), own.estimate.n
            )
            for own in (first[site], second[site])
        )
        both = other.index.intersection(one.index, sort=False)
        parts[site] = other.loc[both].assign(recovered=other["recovered"].loc[both] - one["recovered"].loc[both])
    told = f"{COMPARED}; {evidence.told_differences(compared)}" if compared else UNTESTED
    return _together(parts, axis), f"grey: a corruption makes no measurable difference there; {told}"


def _is_of(own: Family, axis: str) -> bool:
    return (own.places[0][1] is not None) == (axis == "head")


def _cells(
    steps: Sequence[int], places: Sequence[Place], axis: str, recovered: np.ndarray, verdict: np.ndarray, n: np.ndarray
) -> pd.DataFrame:
    keys = [(step, layer, head if axis == "head" else position) for step in steps for layer, head, position in places]
    index = pd.MultiIndex.from_tuples(keys, names=["step", "layer", axis])
    return pd.DataFrame({"recovered": recovered, "verdict": verdict, "few": few(n)}, index)


def _together(parts: Mapping[str, pd.DataFrame], axis: str) -> pd.DataFrame:
    if parts:
        return pd.concat(parts, names=["site"])
    index = pd.MultiIndex.from_tuples([], names=["site", "step", "layer", axis])
    return pd.DataFrame({"recovered": [], "verdict": [], "few": []}, index)


def corruptions(frames: Frames) -> list[str]:
    """The corruptions that were patched under, and `difference` where first and second are both there."""
    there = in_order(pd.unique(frames.patching["corruption"]))
    return [*there, DIFFERENCE] if {*COMPARED_SUBJECTS} <= set(there) else there


def rows_of(frames: Frames, corruption: str) -> pd.DataFrame:
    """The rows of the patching table that a corruption's picture is made from."""
    names = COMPARED_SUBJECTS if corruption == DIFFERENCE else (corruption,)
    return frames.patching[frames.patching["corruption"].isin(names)]


def paths(frames: Frames, corruption: str) -> Picture:
    """Recovered by patching direct paths at the last checkpoint: source head × receiver head, a plot an input; paths to
    the logits are one column.

    Cells are empty where there is no path, because the source is not in an earlier layer or was not asked for.
    """
    rows = frames.paths[frames.paths["corruption"] == corruption]
    rows = rows[rows["step"] == rows["step"].max()]
    found = evidence.of_paths(frames, corruption)
    families = {name: found[name] for name in INPUTS if name in found}
    end = scale_end(pd.Series(np.concatenate([own.estimate.recovered for own in families.values()])))
    many = ", ".join(f"{len(own.places)} paths to {name}" for name, own in families.items())
    note = f"mean over runs of each run's recovered; white: no path; {GREY}; {MARKED}"
    note = f"{note}; {evidence.told(families.values(), many)}{missing.told(frames, rows['run_id'])}"
    below = plotting.source(list(rows["run_id"]), list(rows["n"]), note)
    title = f"Recovered by direct paths, {corruption} corruption, checkpoint {rows['step'].max()}"
    with plotting.grid(1, max(1, len(families)), title, below, 2.6) as (figure, axes):
        widths = [0.15 if name == "logits" else 1 for name in families]
        numbers = []
        if widths:
            axes[0][0].get_gridspec().set_width_ratios(widths)
        room = (figure.get_figwidth() - 1.2) / max(1, sum(widths)), 2.2
        for plot, (name, own) in zip(axes[0], families.items(), strict=False):
            cells = pd.DataFrame(
                {"recovered": own.estimate.recovered, "verdict": own.judged.words, "few": False},
                pd.MultiIndex.from_tuples([(_head(source), (layer, head)) for layer, head, source in own.places]),
            )
            sources, receivers = (sorted(set(cells.index.get_level_values(level))) for level in (0, 1))
            drawn = heatmap(plot, sources, receivers, end, room)
            drawn.show(cells)
            numbers.append(cells[["recovered", "verdict"]].reset_index(drop=True).assign(input=name).join(
                pd.DataFrame(own.places, columns=["layer", "head", "source"])
            ))  # fmt: skip
            _name_heads(plot, "y", sources)
            plot.set_title(f"to {name}", fontsize=8)
            if name == "logits":
                plot.set_xticks([0], [name], fontsize=6)
                continue
            _name_heads(plot, "x", receivers)
            plot.set_xlabel("receiver" + (" (key/value head)" if name != "q" else ""))
        axes[0][0].set_ylabel("source")
        beyond = "both" if any((np.abs(own.estimate.recovered) > end).any() for own in families.values()) else "neither"
        figure.colorbar(drawn.image, ax=list(axes[0]), label="recovered", shrink=0.9, pad=0.01, extend=beyond)
    figure.numbers = plotting.together(numbers)
    return figure


def _head(name: str | None) -> tuple[int, int]:
    layer, head = str(name).split(".")
    return int(layer), int(head)


def _sites(frames: Frames, corruption: str, sites: Sequence[str], checkpoints: int, axis: str) -> Picture:
    cells, note = site_cells(frames, corruption, axis)
    there = set(cells.index.unique("site"))
    labels = {name: name for site in sites for name in (site, site + APPROXIMATE) if name in there}
    cells = cells[cells.index.isin(list(labels), level="site")]
    rows = rows_of(frames, corruption)
    shown = rows["site"].isin([name.removesuffix(APPROXIMATE) for name in labels])
    hatched = f"; {FEW}" if cells["few"].any() else ""
    tokens = tokens_of(frames, corruption) if axis == "position" else {}
    example = f"; {EXAMPLE}" if tokens else ""
    below = plotting.source(
        list(rows.loc[shown, "run_id"]),
        list(rows.loc[shown, "n"]),
        f"mean over runs of each run's recovered; {note}{hatched}{example}"
        f"{missing.told(frames, rows.loc[shown, 'run_id'])}",
    )
    title = f"Recovered by patching, {second_less_first(corruption)}"
    if corruption == DIFFERENCE:
        end = largest(cells["recovered"])
        return _grid(cells, labels, title, below, "difference", checkpoints, end, tokens, plotting.DIFFERING)
    return _grid(cells, labels, title, below, "recovered", checkpoints, END, tokens)


def second_less_first(corruption: str) -> str:
    """What a panel of a corruption, or of `difference`, is called."""
    return "{1} − {0}".format(*COMPARED_SUBJECTS) if corruption == DIFFERENCE else f"{corruption} corruption"


def tokens_of(frames: Frames, corruption: str) -> Tokens:
    """The tokens of an example prompt by role; of `difference` with what either corruption changes."""
    found = examples.of_frames(frames, [])
    jobs = frames.patches.set_index("patch_id")["corruption"]
    wanted = COMPARED_SUBJECTS if corruption == DIFFERENCE else (corruption,)
    told: Tokens = {}
    for name in wanted:
        own = next((tokens for patch_id, tokens in found.items() if jobs[patch_id] == name), {})
        told |= {role: pair for role, pair in own.items() if role not in told or pair[0] != pair[1]}
    return told


LONG_LABEL = 0.8
"""Inches that the longest of the rows' labels takes."""


def _grid(
    cells: pd.DataFrame, labels: Mapping[str, str], title: str, below: Source, label: str, checkpoints: int,
    end: float, tokens: Tokens | None = None, colours: str = plotting.DIVERGING,
) -> Picture:  # fmt: skip
    """Heatmaps of `cells`: a row for each of its first level that `labels` names, a column a checkpoint. All have one
    scale, from `-end` to `end`."""
    places = {name: places_of(cells.loc[name]) for name in labels}
    most = max(map(len, places.values()), default=1)
    named = any(isinstance(place, str) for of_row in places.values() for place in of_row)
    room = plotting.PAGE - 1.2
    fitting = int(room / (0.075 * most if named else 0.11 * most + 0.15))
    steps = spread(list(cells.index.get_level_values("step")), min(checkpoints, max(2, fitting)))
    deep = cells.index.get_level_values("layer").nunique()
    size = max(1, len(labels)), max(1, len(steps))
    height = high(deep, most, room / size[1])
    # A row that is lower than its label is long has the label across, or those of two rows would meet.
    across: dict[str, Any] = {"rotation": 0, "ha": "right", "va": "center"} if height < LONG_LABEL else {}
    with plotting.grid(*size, title, below, height + (0.1 if named else 0.2), page=True) as (figure, axes):
        last = list(labels)[-1:]
        for line, (name, told) in zip(axes, labels.items(), strict=False):
            own = cells.loc[name]
            for plot, step in zip(line, steps, strict=False):
                named_below = name in last or places[name] != places[last[0]]
                drawn = draw(
                    plot, own, places[name], end, (room / size[1], height), tokens, colours, named_below,
                    plot is line[0],
                )  # fmt: skip
                drawn.show(at_step(own, step))
                plot.set_title(f"checkpoint {step}" if plot in axes[0] else "")
            line[0].set_ylabel(f"{told}\nlayer", **across)
        if labels and steps:
            scale_bar(figure, drawn.image, list(axes.flat), label, "both" if end == END else "neither")
        for plot in axes[-1]:
            plot.set_xlabel("" if named else "head")
    shown = cells[cells.index.isin(list(labels), level=0) & cells.index.isin(steps, level="step")]
    figure.numbers = shown.rename(columns={"recovered": label}).reset_index()
    return figure


def places_of(cells: pd.DataFrame) -> list[object]:
    """What is on a heatmap's axis: heads in their order, or positions in that of the prompt."""
    there = list(dict.fromkeys(cells.index.get_level_values(-1)))
    return there if any(isinstance(place, str) for place in there) else sorted(there)


def at_step(cells: pd.DataFrame, step: int) -> pd.DataFrame:
    """The cells of a checkpoint, by layer and place; none where it was not examined."""
    steps = cells.index.get_level_values("step")
    return cells[steps == step].droplevel("step")


@dataclass(frozen=True)
class Heatmap:
    """A heatmap on its axes, into which cells of any checkpoint can be put."""

    rows: Sequence[object]
    columns: Sequence[object]
    end: float
    image: AxesImage
    grey: AxesImage
    """Cells without a value."""
    marks: Mapping[str, PathCollection]
    hatched: Line2D
    hatches: int
    """Lines of it that begin on each side of a cell."""

    @property
    def artists(self) -> tuple[Artist, ...]:
        """All that changes, in the order in which it is drawn."""
        return self.grey, self.image, self.hatched, *self.marks.values()

    def show(self, cells: pd.DataFrame) -> None:
        """Puts cells, by row and column, in place of those before. What has no cell is white."""
        self.put({name: laid[0] for name, laid in self.lay(pd.concat({0: cells}), [0]).items()})

    def lay(self, cells: pd.DataFrame, steps: Sequence[int]) -> dict[str, np.ndarray]:
        """Cells of several checkpoints by step, row and column, as `put` takes those of one; after the last is one
        without cells."""
        size = len(steps) + 1, max(1, len(self.rows)), max(1, len(self.columns))
        where = tuple(
            np.array([places[one] for one in cells.index.get_level_values(level)], int)
            for level, places in enumerate(map(_places, (steps, self.rows, self.columns)))
        )
        laid = {"recovered": np.full(size, np.nan), "verdict": np.full(size, "", object)}
        laid |= {name: np.zeros(size, bool) for name in ("few", "there")}
        laid["recovered"][where] = cells["recovered"].to_numpy("float64", na_value=np.nan)
        laid["verdict"][where] = cells["verdict"].astype(object).fillna("").to_numpy()
        laid["few"][where], laid["there"][where] = cells["few"].fillna(False).astype(bool), cells["few"].notna()
        return laid

    def put(self, laid: Mapping[str, np.ndarray]) -> None:
        """Puts what `lay` laid of one checkpoint in place of what was there. What is empty is not drawn."""
        values = laid["recovered"]
        self.image.set_data(np.ma.masked_invalid(values))
        grey = laid["there"] & np.isnan(values)
        self.grey.set_data(np.ma.masked_invalid(np.where(grey, 1.0, np.nan)))
        self.grey.set_visible(bool(grey.any()))
        dark = np.abs(np.nan_to_num(values)) > 0.6 * self.end
        for verdict, mark in self.marks.items():
            down, across = np.nonzero(laid["verdict"] == verdict)
            mark.set_offsets(np.column_stack([across, down]))
            mark.set_color(["white" if is_dark else "0.1" for is_dark in dark[down, across]])
            mark.set_visible(len(down) > 0)
        # Lines, not a pattern to fill cells with: that takes as long as all else of a frame.
        at = (np.arange(-self.hatches, self.hatches) + 0.5) / self.hatches  # none through a mark
        along = np.stack([np.maximum(0, -at), np.minimum(1, 1 - at), np.full(len(at), np.nan)], axis=1).ravel()
        squares = np.argwhere(laid["few"]) - 0.5
        self.hatched.set_data((squares[:, 1:] + along).ravel(), (squares[:, :1] + along + np.repeat(at, 3)).ravel())
        self.hatched.set_visible(len(squares) > 0)


def _places(names: Sequence[object]) -> dict[object, int]:
    return {name: at for at, name in enumerate(names)}


def heatmap(
    plot: Axes, rows: Sequence[object], columns: Sequence[object], end: float, room: tuple[float, float],
    colours: str = plotting.DIVERGING,
) -> Heatmap:  # fmt: skip
    """An empty heatmap of so many cells, with colours from `-end` to `end`.

    Args:
        room: inches across and up, for the size of marks.
    """
    nothing = np.full((max(1, len(rows)), max(1, len(columns))), np.nan)
    # Not seaborn's heatmap, which lays out the whole figure anew for every plot.
    image = plot.imshow(
        nothing, cmap=colours, vmin=-end, vmax=end, origin="lower", aspect="equal", interpolation="nearest"
    )
    grey = plot.imshow(
        nothing, cmap=ListedColormap([plotting.MISSING]), vmin=0, vmax=1, zorder=-1, origin="lower", aspect="equal",
        interpolation="nearest",
    )  # fmt: skip
    cell = 72 * min(room[0] / nothing.shape[1], room[1] / nothing.shape[0])
    size = min(max(0.45 * cell, 1.2), 4.0)
    sizes = {"matters": size, "undecided": max(1.0, 0.35 * size)}
    marks = {
        verdict: plot.scatter(
            [], [], marker=shape, s=sizes.get(verdict, 1.4 * size) ** 2, linewidths=0.8 if shape in "+_" else 0
        )
        for verdict, shape in MARKS.items()
    }  # fmt: skip
    (hatched,) = plot.plot([], [], color="0.35", linewidth=0.9, solid_capstyle="butt", zorder=0.5)  # below marks
    hatches = max(2, round(cell / 3.5))  # points
    plot.set(xlim=(-0.5, nothing.shape[1] - 0.5), ylim=(-0.5, nothing.shape[0] - 0.5), facecolor="white")
    plot.grid(False)
    return Heatmap(rows, columns, end, image, grey, marks, hatched, hatches)


def draw(
    plot: Axes, cells: pd.DataFrame, places: Sequence[object], end: float, room: tuple[float, float],
    tokens: Tokens | None = None, colours: str = plotting.DIVERGING, named_below: bool = True, named_left: bool = True,
) -> Heatmap:  # fmt: skip
    """A heatmap of layer × head or position, yet without values; `room` as for `heatmap`.

    Below are the heads, or the positions by their role and the token that `tokens` has there, a changed one bold; at
    its left are the layers.
    """
    layers = sorted(cells.index.unique("layer"))
    drawn = heatmap(plot, layers, places, end, room, colours)
    plot.tick_params(axis="both", length=0)
    if named_below:
        _name_places(plot, places, room[0], tokens or {})
    if named_left:
        every = max(1, math.ceil(len(layers) / 16))
        plot.set_yticks(range(0, len(layers), every), [str(layer) for layer in layers[::every]], fontsize=6)
    # An axis that says nothing is laid out and drawn like any other.
    plot.xaxis.set_visible(named_below)
    plot.yaxis.set_visible(named_left)
    return drawn


def _name_places(plot: Axes, places: Sequence[object], wide: float, tokens: Tokens) -> None:
    told = {str(name): _position(str(name), tokens.get(str(name))) for name in places}
    names = list(told.values())
    words = any(isinstance(name, str) for name in places)
    every = max(1, math.ceil(len(names) * 0.072 / wide))
    plot.set_xticks(range(0, len(names), every), names[::every], fontsize=5 if words else 6)
    if words:
        plot.tick_params(axis="x", rotation=90)
        for label, name in zip(plot.get_xticklabels(), list(told)[::every], strict=True):
            clean, corrupted = tokens.get(name, ("", ""))
            label.set_fontweight("bold" if clean != corrupted else "normal")


def _position(role: str, pair: tuple[str, str] | None) -> str:
    """A role with the tokens of an example, those of the clean and of the corrupted prompt where they differ."""
    if pair is None:
        return role
    clean, corrupted = (token.strip()[:14] or repr(token)[1:-1] for token in pair)
    return f"{role} · {clean}" if pair[0] == pair[1] else f"{role} · {clean} → {corrupted}"


def high(layers: int, columns: int, wide: float) -> float:
    """Inches that a heatmap of square cells needs upwards in a place so `wide`, and a label beside it."""
    return min(max(layers * min((wide - 0.15) / max(1, columns), MOST_CELL), 0.65), MOST_HIGH)


def scale_end(values: pd.Series) -> float:
    """Where the colour scale of direct paths ends, both ways."""
    return min(max(largest(values), LEAST), MOST)


def largest(values: pd.Series) -> float:
    """The largest value without its sign; 1 where there is none, or none but zero."""
    there = values.dropna().abs()
    return (float(there.max()) if len(there) else 1.0) or 1.0


def scale_bar(figure: Picture, image: AxesImage, plots: list[Axes], label: str, beyond: str) -> None:
    """A colour bar; `beyond`: "both" where its ends are arrows, else "neither"."""
    shrink = min(0.9, MOST_HIGH / figure.get_figheight())
    figure.colorbar(image, ax=plots, label=label, shrink=shrink, pad=0.01, aspect=18, extend=beyond)


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
