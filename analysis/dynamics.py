"""Single heads over the checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from . import evidence, missing, plotting
from .frames import Frames
from .inference import words
from .inference.courses import courses
from .inference.families import Family, Place
from .plotting import Picture

HEAD = ["layer", "head"]
ROOM = 0.05
"""Smallest distance between two names in a scatter plot, as a share of the axis; nearer ones are left out."""
BAND = "band: 95% interval at each checkpoint"
BEYOND = "bands are cut at the edge of the plot"
MARKS = ("dot: the head matters there", "◆ onset: the gain reaches half of its final value")
NONE = "grey: the largest heads"
NO_LINE = "no line: the corruption makes no measurable difference, at least in one run"
MATTER = "filled: the head matters at either site, hollow: not shown to"


def heads(frames: Frames, site: str = "z", top: int = 6) -> Picture:
    """Draw recovered over checkpoints for heads that matter at any checkpoint, with their onsets.

    Every corruption shows the same heads, at most `top`: the largest where they matter. If none is shown to matter, the
    largest are drawn grey.
    """
    families = _families(frames, [site])
    own = {corruption: of_sites[site] for corruption, of_sites in families.items()}
    peaks = _peaks(own.values(), mattering=True)
    matters = bool(peaks)
    peaks = peaks or _peaks(own.values(), mattering=False)
    ranked = sorted(peaks, key=lambda place: -peaks[place])
    chosen, left = sorted(ranked[:top]), len(ranked) - top if matters else 0
    shades = sns.color_palette("colorblind", max(len(chosen), 1)) if matters else ["0.6"] * len(chosen)
    palette = dict(zip(chosen, shades, strict=False))
    (low, high), are_cut = _limits(own.values(), chosen)
    more = [f"{left} more {'heads matter' if left > 1 else 'head matters'} at some checkpoint"] if left > 0 else []
    marks = MARKS if matters else [NONE] if chosen else []
    rows = _rows(frames, [site], own)
    notes = [*_bands(own.values(), are_cut), *marks, *more, NO_LINE, evidence.scope(own.values(), rows)]
    below = plotting.source(
        list(rows["run_id"]), list(rows["n"]), "; ".join(notes) + missing.note(frames, rows["run_id"])
    )
    title = f"Recovered by patching {site}: {'heads that matter' if matters else 'no head is shown to matter'}"
    numbers: list[pd.DataFrame] = []
    with plotting.grid(1, max(1, len(own)), title, below, height=2.2) as (figure, axes):
        for axis, (corruption, family) in zip(axes[0], own.items(), strict=False):
            axis.sharey(axes[0][0])
            for place, dashes in zip(chosen, cycle(("-", "--", "-.", ":"))):
                if place in family.places:
                    absent = missing.steps(frames, [job.patch.run_id for job in family.jobs])
                    line = _line(axis, family, place, palette[place], dashes, absent)
                    numbers.append(line.assign(corruption=corruption, layer=place[0], head=place[1]))
            axis.axhline(0, color="0.5", linewidth=0.8)
            margin = 0.03 * (family.steps[-1] - family.steps[0]) or 0.5
            across = family.steps[0] - margin, family.steps[-1] + margin
            axis.set(title=f"{corruption} corruption", xlabel="checkpoint (step)", xlim=across, ylim=(low, high))
            plotting.step_axis(axis, family.steps)
        axes[0][0].set_ylabel("recovered")
        if chosen:
            axes[0][-1].legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0)
    figure.numbers = plotting.together(numbers)
    return figure


def _families(frames: Frames, sites: Sequence[str]) -> dict[str, dict[str, Family]]:
    """Families by corruption and site, for corruptions under which all these sites were patched exactly."""
    exact = frames.patching[frames.patching["patched"].notna()]
    found = {corruption: evidence.of_sites(frames, corruption) for corruption in pd.unique(exact["corruption"])}
    return {corruption: own for corruption, own in found.items() if own.keys() >= set(sites)}


def _bands(families: Iterable[Family], are_cut: bool) -> list[str]:
    if not any(np.isfinite(one.interval[0]).any() for one in families):
        return ["no bands"]
    return [BAND, BEYOND] if are_cut else [BAND]


def _rows(frames: Frames, sites: Sequence[str], corruptions: Iterable[str]) -> pd.DataFrame:
    return frames.patching[frames.patching["site"].isin(sites) & frames.patching["corruption"].isin(corruptions)]


def _peaks(families: Iterable[Family], mattering: bool) -> dict[Place, float]:
    """Largest size of each head over the checkpoints; with `mattering`, over those at which it matters."""
    peaks: dict[Place, float] = {}
    for family in families:
        size = np.abs(family.estimate.recovered)
        sizes = family.grid(np.where(family.judged.matter() if mattering else np.isfinite(size), size, np.nan))
        for number in np.flatnonzero(np.isfinite(sizes).any(axis=0)):
            place = family.places[number]
            peaks[place] = max(peaks.get(place, 0.0), float(np.nanmax(sizes[:, number])))
    return peaks


def _limits(families: Iterable[Family], chosen: Sequence[Place]) -> tuple[tuple[float, float], bool]:
    """Limits of the axis, and whether bands are cut: near a gap of zero they may be far wider than everything else."""
    values, ends = [np.zeros(1)], [np.zeros(1)]
    for family in families:
        there = np.array([place in chosen for place in family.places] * len(family.steps))
        values.append(family.estimate.recovered[there])
        ends += [end[there] for end in family.interval]
    lowest, highest = (float(end(np.concatenate(values))) for end in (np.nanmin, np.nanmax))
    least, most = (float(end(np.concatenate([*values, *ends]))) for end in (np.nanmin, np.nanmax))
    room = 0.3 * (highest - lowest) or 0.5
    low, high = max(least, lowest - room), min(most, highest + room)
    margin = 0.05 * (high - low) or 0.05
    return (low - margin, high + margin), least < low or most > high


def _line(
    axis: Axes, family: Family, place: Place, colour: object, dashes: str, absent: Sequence[int] = ()
) -> pd.DataFrame:
    """Draw a head's course with band and onset, dotted where it matters, broken at `absent` steps; return its
    numbers."""
    number, steps = family.places.index(place), np.array(family.steps)
    values, low, high, matters = (
        family.grid(one)[:, number] for one in (family.estimate.recovered, *family.interval, family.judged.matter())
    )
    line = missing.broken(pd.DataFrame({"step": steps, "mean": values, "low": low, "high": high}), absent)
    axis.plot(line["step"], line["mean"], dashes, color=colour, label=words.name(place), linewidth=1.1)
    axis.fill_between(line["step"], line["low"], line["high"], color=colour, alpha=0.14, linewidth=0)
    axis.plot(steps[matters], values[matters], ".", color=colour, markersize=3.5)
    onset = courses(family)[number].onset
    if onset is not None:
        at = family.steps.index(onset)
        axis.plot([onset], [values[at]], "D", color=colour, markersize=5, markeredgecolor="0.1", mew=0.7, zorder=4)
    numbers = {"step": steps, "recovered": values, "low": low, "high": high, "matters": matters}
    return pd.DataFrame(numbers | {"onset": steps == onset})


def scatter(frames: Frames, across: str = "v", up: str = "z", label: int = 6) -> Picture:
    """Draw recovered by patching `up` against `across` at the last checkpoint, a point per head.

    For z against v, a head on the diagonal works through what it moves; one far above it also through where it looks.
    """
    found = points(frames, across, up)
    step = found.heads["step"].max()
    heads = found.heads[found.heads["step"] == step]
    depth = sorted(heads["layer"].unique())
    palette = depth_palette(depth)
    title = f"Recovered by patching {up} against {across}, checkpoint {step}"
    rows = found.rows[found.rows["step"] == step]
    below = plotting.source(list(rows["run_id"]), list(rows["n"]), found.note + missing.note(frames, rows["run_id"]))
    limits = square(heads)
    size = 1, max(1, len(found.corruptions))
    with plotting.grid(*size, title, below, height=2.6) as (figure, axes):
        for axis, corruption in zip(axes[0], found.corruptions, strict=False):
            own = heads[heads["corruption"] == corruption]
            colours = [palette[layer] for layer in own["layer"]]
            filled = [colour if matters else "none" for colour, matters in zip(colours, own["matters"], strict=True)]
            axis.scatter(own["across"], own["up"], facecolors=filled, edgecolors=colours, s=16, linewidths=0.8)
            axis.axline((0, 0), slope=1, color="0.6", linewidth=0.8, linestyle=":")
            middle = (own["across"].min() + own["across"].max()) / 2
            sizes = np.hypot(own["across"], own["up"])[own["matters"]]
            for head in apart(own.loc[sizes.nlargest(label).index]).itertuples():
                place, right = (head.across, head.up), bool(head.across > middle)
                axis.annotate(
                    name(head.layer, head.head), place, (-4 if right else 4, 0), textcoords="offset points", fontsize=6,
                    va="center", ha="right" if right else "left",
                )  # fmt: skip
            axis.set(title=f"{corruption} corruption", xlabel=f"recovered by {across}", ylabel=f"recovered by {up}")
            axis.set(xlim=limits, ylim=limits, aspect="equal")
        handles = [axes[0][-1].scatter([], [], color=palette[layer], s=16, label=f"{layer}") for layer in depth]
        axes[0][-1].legend(
            handles=handles, title="layer", loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0
        )
    figure.numbers = heads.rename(columns={"across": f"recovered by {across}", "up": f"recovered by {up}"})
    return figure


@dataclass(frozen=True)
class Points:
    """The points of a scatter plot of heads."""

    corruptions: tuple[str, ...]
    heads: pd.DataFrame
    """By corruption, step, layer and head: `across` and `up` (recovered), and whether it `matters` by either site."""
    rows: pd.DataFrame
    """The rows of single runs behind the means."""
    note: str


def points(frames: Frames, across: str, up: str) -> Points:
    """Recovered at two sites, for heads where both are defined."""
    families = _families(frames, [across, up])
    parts = []
    for corruption, own in families.items():
        one, other = (_by_head(own[site]) for site in (across, up))
        both = one.merge(other, left_index=True, right_index=True, suffixes=("_across", "_up"))
        matters = both["matters_across"] | both["matters_up"]
        named = both.rename(columns={"recovered_across": "across", "recovered_up": "up"})[["across", "up"]]
        parts.append(named.assign(matters=matters, corruption=corruption).dropna().reset_index())
    empty = pd.DataFrame(columns=["step", *HEAD, "across", "up", "matters", "corruption"])
    rows = _rows(frames, [across, up], families)
    scope = evidence.scope((own[site] for own in families.values() for site in (across, up)), rows)
    note = f"{MATTER}; left out: where the corruption makes no measurable difference, at least in one run; {scope}"
    return Points(tuple(families), pd.concat(parts) if parts else empty, rows, note)


def _by_head(family: Family) -> pd.DataFrame:
    keys = [(step, layer, head) for step in family.steps for layer, head, _ in family.places]
    index = pd.MultiIndex.from_tuples(keys, names=["step", *HEAD])
    return pd.DataFrame({"recovered": family.estimate.recovered, "matters": family.judged.matter()}, index)


def square(heads: pd.DataFrame) -> tuple[float, float]:
    """Common limits for both axes of a scatter plot."""
    values = heads[["across", "up"]].to_numpy("float64").ravel()
    low, high = min(0.0, values.min(initial=0)), max(0.0, values.max(initial=0))
    margin = 0.06 * (high - low) or 0.1
    return low - margin, high + margin


def apart(heads: pd.DataFrame) -> pd.DataFrame:
    """Heads to name, the farthest first, leaving out names that would overlap an earlier one."""
    room = ROOM * max(np.ptp(heads["up"]), np.abs(heads["up"]).max()) if len(heads) else 0.0
    kept: list[int] = []
    for at, up in enumerate(heads["up"]):
        if all(abs(up - heads["up"].iloc[other]) >= room for other in kept):
            kept.append(at)
    return heads.iloc[kept]


def depth_palette(layers: Sequence[int]) -> dict[int, tuple[float, float, float]]:
    """Colours by layer, from light (early) to dark (late)."""
    return dict(zip(map(int, layers), plotting.ordered(len(layers)), strict=True))


def name(layer: int, head: int) -> str:
    """Name of a head: "2.1"."""
    return f"{layer}.{head}"
