"""Heatmaps of recovered by layer × head and layer × position, of attribution, and of direct paths between heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..tasks import COMPARED_SUBJECTS, in_order
from . import evidence, examples, missing, plotting
from .evidence import NO_GAP, SMALL
from .examples import Tokens
from .folder import several
from .frames import Frames
from .heatmap import (
    colour_bar,
    columns_of,
    empty_heatmap,
    heatmap_height,
    label_heads,
    largest_magnitude,
    layer_heatmap,
)
from .inference.differences import difference
from .inference.families import Family, Place
from .inference.verdicts import DELTA, few
from .plotting import Picture, Source
from .summaries import APPROXIMATE, spread

HEAD_SITES = ("z", "q", "k", "v", "pattern")
POSITION_SITES = ("resid_pre", "attn_out", "mlp_out")
INPUTS = ("q", "k", "v", "logits")
DIFFERENCE = "difference"
"""In place of a corruption: second − first."""
RECOVERED_LIMIT = 1.0
"""The colour scale of recovered goes from -1 to 1 in every picture, so that pictures can be compared."""
MIN_PATH_LIMIT, MAX_PATH_LIMIT = 2 * DELTA, 1.5
"""Bounds for the colour scale of direct paths, which recover little each."""
ROW_LABEL_HEIGHT, CHARACTER = 0.8, 0.06
"""Inches: row labels are written upwards if rows are at least this high, and as high as such a character per letter."""

MARKED = f"● matters, · undecided, no mark: {SMALL}"
COMPARED = f"+ more, − less, · undecided, no mark: alike (within {DELTA})"
NO_GAPS = "grey: one of the corruptions makes no measurable difference there, at least in one run"
FEW = "hatched: less than half of the prompts have it, not tested"
UNTESTED = "not tested"
EXAMPLE = "after a position: its token in the first prompt, bold where changed"


def heads(frames: Frames, corruption: str, sites: str | Iterable[str] = HEAD_SITES, checkpoints: int = 4) -> Picture:
    """Draw recovered by patching each head: layer × head heatmaps, a row per site, a column per checkpoint.

    Args:
        corruption: its name, or `difference` for second − first.
        checkpoints: at most this many columns, fewer if the page is too narrow.
    """
    return _sites(frames, corruption, several(sites), checkpoints, "head")


def positions(
    frames: Frames, corruption: str, sites: str | Iterable[str] = POSITION_SITES, checkpoints: int = 4
) -> Picture:
    """Draw recovered by patching each position: layer × position heatmaps, otherwise as `heads`."""
    return _sites(frames, corruption, several(sites), checkpoints, "position")


def attribution(frames: Frames, checkpoints: int = 4) -> Picture:
    """Draw the logit difference that each head contributes: layer × head heatmaps, a row per corruption, a column per
    checkpoint."""
    rows = missing.left_out(frames, frames.attribution[frames.attribution["kind"] == "head"])
    note = f"{averaged(rows)}{UNTESTED}{missing.note(frames, rows['run_id'])}"
    source = plotting.source(list(rows["run_id"]), list(rows["n"]), note)
    title = "Logit difference from each head, by corruption"
    labels = {name: f"{name} corruption" for name in pd.unique(rows["corruption"])}
    cells = untested(head_means(rows))
    return _grid(cells, labels, title, source, "logits", checkpoints, largest_magnitude(cells["value"]))


def paths(frames: Frames, corruption: str) -> Picture:
    """Draw recovered by patching direct paths at the last checkpoint: source head × receiver head, a plot per input.

    Paths to the logits are one column. Cells are empty where there is no path: the source is not in an earlier layer,
    or the path was not patched.
    """
    rows = frames.paths[frames.paths["corruption"] == corruption]
    rows = rows[rows["step"] == rows["step"].max()]
    found = evidence.of_paths(frames, corruption)
    families = {name: found[name] for name in INPUTS if name in found}
    values = pd.Series(np.concatenate([family.estimate.recovered for family in families.values()]))
    limit = path_limit(values)
    counts = ", ".join(f"{len(family.places)} paths to {name}" for name, family in families.items())
    grey = f"{NO_GAP}; " if values.isna().any() else ""
    note = f"{averaged(rows)}white: no path; {grey}{MARKED}; {evidence.scope(families.values(), rows, counts)}"
    note += missing.note(frames, rows["run_id"])
    source = plotting.source(list(rows["run_id"]), list(rows["n"]), note)
    title = f"Recovered by direct paths, {corruption} corruption, checkpoint {rows['step'].max()}"
    with plotting.grid(1, max(1, len(families)), title, source, 2.6) as (figure, axes):
        widths = [0.15 if name == "logits" else 1 for name in families]
        numbers = []
        if widths:
            axes[0][0].get_gridspec().set_width_ratios(widths)
        size = (figure.get_figwidth() - 1.2) / max(1, sum(widths)), 2.2
        for plot, (name, family) in zip(axes[0], families.items(), strict=False):
            cells = pd.DataFrame(
                {"value": family.estimate.recovered, "verdict": family.judged.words, "few": False},
                pd.MultiIndex.from_tuples([(_head(source), (layer, head)) for layer, head, source in family.places]),
            )
            sources, receivers = (sorted(set(cells.index.get_level_values(level))) for level in (0, 1))
            heatmap = empty_heatmap(plot, sources, receivers, limit, size)
            heatmap.show(cells)
            own = pd.DataFrame(family.places, columns=["layer", "head", "source"])
            recovered = {"recovered": family.estimate.recovered, "verdict": family.judged.words, "input": name}
            numbers.append(pd.DataFrame(recovered).join(own))
            label_heads(plot, "y", sources)
            plot.set_title(f"to {name}", fontsize=8)
            if name == "logits":
                plot.set_xticks([0], [name], fontsize=6)
                continue
            label_heads(plot, "x", receivers)
            plot.set_xlabel("receiver" + (" (key/value head)" if name != "q" else ""))
        axes[0][0].set_ylabel("source")
        colour_bar(figure, heatmap.image, list(axes[0]), "recovered", clipped=bool((values.abs() > limit).any()))
    figure.numbers = plotting.together(numbers)
    return figure


def averaged(rows: pd.DataFrame) -> str:
    """Start of a caption: whether values are means over several runs."""
    return "mean over runs; " if rows["run_id"].nunique() > 1 else ""


def path_limit(values: pd.Series) -> float:
    """The largest value on the colour scale of direct paths."""
    return min(max(largest_magnitude(values), MIN_PATH_LIMIT), MAX_PATH_LIMIT)


def _head(name: str | None) -> tuple[int, int]:
    layer, head = str(name).split(".")
    return int(layer), int(head)


def corruptions(frames: Frames) -> list[str]:
    """The corruptions of the patch jobs, and `difference` if first and second are among them."""
    names = in_order(pd.unique(frames.patching["corruption"]))
    return [*names, DIFFERENCE] if {*COMPARED_SUBJECTS} <= set(names) else names


def rows_of(frames: Frames, corruption: str) -> pd.DataFrame:
    """The rows of the patching table behind a corruption's picture."""
    names = COMPARED_SUBJECTS if corruption == DIFFERENCE else (corruption,)
    return frames.patching[frames.patching["corruption"].isin(names)]


def panel_title(corruption: str) -> str:
    """ "first corruption", or "second − first" for `difference`."""
    return "{1} − {0}".format(*COMPARED_SUBJECTS) if corruption == DIFFERENCE else f"{corruption} corruption"


def example_tokens(frames: Frames, corruption: str) -> Tokens:
    """The tokens of an example prompt by role; for `difference`, with the changes of both corruptions."""
    by_patch = examples.of_frames(frames, [])
    jobs = frames.patches.set_index("patch_id")["corruption"]
    names = COMPARED_SUBJECTS if corruption == DIFFERENCE else (corruption,)
    tokens: Tokens = {}
    for name in names:
        own = next((found for patch_id, found in by_patch.items() if jobs[patch_id] == name), {})
        tokens |= {role: pair for role, pair in own.items() if role not in tokens or pair[0] != pair[1]}
    return tokens


def head_means(rows: pd.DataFrame) -> pd.Series:
    """Attribution of each head, mean over runs, by corruption, step, layer and head, in logits."""
    return rows.groupby(["corruption", "step", "layer", "head"])["logit_diff"].mean()


def untested(values: pd.Series) -> pd.DataFrame:
    """Cells without verdicts."""
    return pd.DataFrame({"value": values, "verdict": "", "few": False})


def site_cells(frames: Frames, corruption: str, axis: str) -> tuple[pd.DataFrame, str]:
    """The cells of every site's heatmap by site, step, layer and `axis` ("head" or "position"), and their caption.

    Columns: `value` is recovered, missing without a gap; `verdict`; `few` if less than half of the prompts have it.
    For corruption `difference`, `value` is second − first where both exist, and `verdict` compares them.
    """
    key = ("cells", corruption, axis)
    if key not in frames.kept:  # a picture and an animation of each site use them
        cells = _differences(frames, axis) if corruption == DIFFERENCE else _recovered(frames, corruption, axis)
        frames.kept[key] = cells
    kept: tuple[pd.DataFrame, str] = frames.kept[key]
    return kept


def _recovered(frames: Frames, corruption: str, axis: str) -> tuple[pd.DataFrame, str]:
    families = [family for family in evidence.of_sites(frames, corruption).values() if _has_axis(family, axis)]
    cells = {family.site: _family_cells(family, axis)[family.estimate.runs > 0] for family in families}
    table = _by_site(cells, axis)
    grey = f"{NO_GAP}; " if table["value"].isna().any() else ""
    scope = evidence.scope(families, _rows_of_axis(frames, corruption, axis))
    return table, f"{grey}{MARKED}; {scope}" if families else ""


def _differences(frames: Frames, axis: str) -> tuple[pd.DataFrame, str]:
    first, second = (evidence.of_sites(frames, name) for name in COMPARED_SUBJECTS)
    cells, compared = {}, []
    for site in (site for site in second if site in first and _has_axis(second[site], axis)):
        found = difference(first[site], second[site])
        if found is not None:
            compared.append(found)
            cells[site] = _cells(found.steps, found.places, axis, found.difference, found.words, found.n)
            continue
        one, other = (_family_cells(family, axis).assign(verdict="") for family in (first[site], second[site]))
        both = other.index.intersection(one.index, sort=False)
        cells[site] = other.loc[both].assign(value=other["value"].loc[both] - one["value"].loc[both])
    table = _by_site(cells, axis)
    grey = f"{NO_GAPS}; " if table["value"].isna().any() else ""
    scope = evidence.scope_of_differences(compared, _rows_of_axis(frames, DIFFERENCE, axis))
    return table, grey + (f"{COMPARED}; {scope}" if compared else UNTESTED)


def _rows_of_axis(frames: Frames, corruption: str, axis: str) -> pd.DataFrame:
    rows = rows_of(frames, corruption)
    return rows[rows["head"].notna() == (axis == "head")]


def _has_axis(family: Family, axis: str) -> bool:
    return (family.places[0][1] is not None) == (axis == "head")


def _family_cells(family: Family, axis: str) -> pd.DataFrame:
    estimate = family.estimate
    return _cells(family.steps, family.places, axis, estimate.recovered, family.judged.words, estimate.n)


def _cells(
    steps: Sequence[int], places: Sequence[Place], axis: str, values: np.ndarray, verdicts: np.ndarray, n: np.ndarray
) -> pd.DataFrame:
    keys = [(step, layer, head if axis == "head" else position) for step in steps for layer, head, position in places]
    index = pd.MultiIndex.from_tuples(keys, names=["step", "layer", axis])
    return pd.DataFrame({"value": values, "verdict": verdicts, "few": few(n)}, index)


def _by_site(cells: Mapping[str, pd.DataFrame], axis: str) -> pd.DataFrame:
    if cells:
        return pd.concat(cells, names=["site"])
    index = pd.MultiIndex.from_tuples([], names=["site", "step", "layer", axis])
    return pd.DataFrame({"value": [], "verdict": [], "few": []}, index)


def _sites(frames: Frames, corruption: str, sites: Sequence[str], checkpoints: int, axis: str) -> Picture:
    cells, note = site_cells(frames, corruption, axis)
    existing = set(cells.index.unique("site"))
    names = [name for site in sites for name in (site, site + APPROXIMATE) if name in existing]
    cells = cells[cells.index.isin(names, level="site")]
    rows = rows_of(frames, corruption)
    rows = rows[rows["site"].isin([name.removesuffix(APPROXIMATE) for name in names])]
    tokens = example_tokens(frames, corruption) if axis == "position" else {}
    note = averaged(rows) + note + (f"; {FEW}" if cells["few"].any() else "") + (f"; {EXAMPLE}" if tokens else "")
    source = plotting.source(list(rows["run_id"]), list(rows["n"]), note + missing.note(frames, rows["run_id"]))
    title = f"Recovered by patching, {panel_title(corruption)}"
    labels = dict(zip(names, names, strict=True))
    if corruption == DIFFERENCE:
        limit = largest_magnitude(cells["value"])
        return _grid(cells, labels, title, source, "difference", checkpoints, limit, tokens, plotting.DIFFERING)
    return _grid(cells, labels, title, source, "recovered", checkpoints, RECOVERED_LIMIT, tokens)


def _grid(
    cells: pd.DataFrame, labels: Mapping[str, str], title: str, source: Source, value_label: str, checkpoints: int,
    limit: float, tokens: Tokens | None = None, colours: str = plotting.DIVERGING,
) -> Picture:  # fmt: skip
    """Heatmaps of `cells`: a row for each value of the first index level in `labels`, a column per checkpoint, one
    colour scale from `-limit` to `limit`."""
    columns = {name: columns_of(cells.loc[name]) for name in labels}
    most = max(map(len, columns.values()), default=1)
    are_positions = any(isinstance(column, str) for of_row in columns.values() for column in of_row)
    page_width = plotting.PAGE - 1.2
    fitting = int(page_width / (0.075 * most if are_positions else 0.11 * most + 0.15))
    steps = spread(list(cells.index.get_level_values("step")), min(checkpoints, max(2, fitting)))
    shape = max(1, len(labels)), max(1, len(steps))
    width = page_width / shape[1]
    height = heatmap_height(cells.index.get_level_values("layer").nunique(), most, width)
    # Otherwise the labels of two rows would overlap.
    is_long = height < max(ROW_LABEL_HEIGHT, CHARACTER * max(map(len, labels.values()), default=0))
    across: dict[str, Any] = {"rotation": 0, "ha": "right", "va": "center"} if is_long else {}
    with plotting.grid(*shape, title, source, height + (0.1 if are_positions else 0.2), page=True) as (figure, axes):
        last = list(labels)[-1:]
        for line, (name, label) in zip(axes, labels.items(), strict=False):
            own = cells.loc[name]
            label_x = name in last or columns[name] != columns[last[0]]
            for plot, step in zip(line, steps, strict=False):
                heatmap = layer_heatmap(
                    plot, own, columns[name], limit, (width, height), tokens, colours, label_x, plot is line[0]
                )
                heatmap.show(at_step(own, step))
                plot.set_title(f"checkpoint {step}" if plot in axes[0] else "")
            line[0].set_ylabel(f"{label}\nlayer", **across)
        if labels and steps:
            colour_bar(figure, heatmap.image, list(axes.flat), value_label, clipped=value_label == "recovered")
        for plot in axes[-1]:
            plot.set_xlabel("" if are_positions else "head")
    drawn = cells[cells.index.isin(list(labels), level=0) & cells.index.isin(steps, level="step")]
    figure.numbers = drawn.rename(columns={"value": value_label}).reset_index()
    return figure


def at_step(cells: pd.DataFrame, step: int) -> pd.DataFrame:
    """The cells of a checkpoint by layer and column; none if it was not measured."""
    return cells[cells.index.get_level_values("step") == step].droplevel("step")
