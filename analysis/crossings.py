"""Draws the table `cross`: pieces of one checkpoint patched into another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from . import measured, missing, plotting
from .dynamics import ROOM, name
from .folder import Patch
from .frames import Frames
from .inference.shares import KINDS, Shares, of_table
from .plotting import Picture

COMPONENTS = {"attn": "o", "mlp": "s", "embed": "D", "unembed": "D", "head": "x"}
"""Components that are drawn, with their marks; norms and pieces of heads are only in the table."""
NAMED = 3
"""Heads that matter and are named, per plot."""


def corruptions(frames: Frames) -> list[str]:
    """The corruptions with crossed checkpoints."""
    there = _patch_ids(frames)
    patches = [one for one in (frames.output.patches if frames.output else ()) if one.patch_id in there]
    return list(dict.fromkeys(one.corruption for one in patches if _is_crossed(one)))


def _is_crossed(patch: Patch) -> bool:
    """Whether a patch job has rows; an unreadable table counts, and drawing it raises the error."""
    damaged: list[str] = []
    found = measured.each(((patch, step) for step in reversed(patch.steps())), "cross", damaged=damaged)
    return any(True for _ in found) or bool(damaged)


def crossings(frames: Frames, corruption: str) -> Picture:
    """Draw the shares that pieces bring from the last crossed checkpoint to the other one by layer, and in reverse.

    A row per kind, with 95% intervals.
    """
    assert frames.output is not None
    there = _patch_ids(frames)
    patches = [one for one in frames.output.patches if one.patch_id in there and one.corruption == corruption]
    table = measured.read(frames.output, "cross", ["by_prompt"], None, [one.patch_id for one in patches])
    found = {(one.kind, one.forward): one for one in of_table(table, patches)}
    pairs = {(min(piece[:2]), max(piece[:2])) for one in found.values() for piece in one.pieces}
    if not pairs:
        below = plotting.source(list(table["run_id"]), list(table["n"]), "none that all of these runs have")
        with plotting.grid(1, 1, f"Pieces of one checkpoint in another ({corruption} corruption)", below) as (
            figure,
            axes,
        ):
            axes[0][0].set_axis_off()
        return figure
    last, first = max((pair[1], pair[0]) for pair in pairs)
    kinds = [kind for kind in KINDS if (kind, True) in found]
    seeds = any(one.seeds for one in found.values())
    note = (
        f"95% intervals for other prompts{' and other seeds' if seeds else ', not other seeds'}; filled: it matters "
        "(5% chance of any wrong verdict per plot), hollow and faint: not shown to; no marks: no measurable difference "
        "between the checkpoints"
    )
    runs = [one.run_id for one in patches if one.patch_id in set(table["patch_id"])]
    below = plotting.source(
        runs, sorted({int(n) for one in found.values() for n in one.estimate.n}), note + missing.note(frames, runs)
    )
    title = f"Pieces of checkpoint {last} in {first}, and the other way ({corruption} corruption)"
    numbers: list[pd.DataFrame] = []
    with plotting.grid(len(kinds), 2, title, below, height=1.7) as (figure, axes):
        for (row, kind), (column, forward) in product(enumerate(kinds), enumerate((True, False))):
            axis = axes[row][column]
            one = found.get((kind, forward))
            if one is None:
                axis.set_axis_off()
                axis.text(0.5, 0.5, f"{kind}: the other way", ha="center", va="center", transform=axis.transAxes)
                continue
            into, source = (first, last) if forward else (last, first)
            numbers.append(_draw(axis, one, (into, source)).assign(kind=kind))
            axis.set(title=f"{kind} of {source} in {into}")
            axis.set_xlabel("layer" if row == len(kinds) - 1 else "")
        for line in axes:
            line[0].set_ylabel("share")
        axes[0][-1].legend(
            *axes[0][0].get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0
        )
    figure.numbers = plotting.together(numbers)
    return figure


def _patch_ids(frames: Frames) -> set[str]:
    """Ids of the patch jobs in these frames."""
    return {
        str(patch_id) for table in (frames.attribution, frames.patching) for patch_id in pd.unique(table["patch_id"])
    }


def _draw(axis: Axes, found: Shares, steps: tuple[int, int]) -> pd.DataFrame:
    """Draw one kind in one direction, and return its numbers."""
    low, high = found.interval
    share, matters = found.estimate.recovered, found.judged.matter()
    depth = 1 + max((piece[3] for piece in found.pieces if piece[3] is not None), default=0)
    colours = dict(zip(("attn", "mlp", "embed", "unembed", "head"), sns.color_palette("colorblind", 5), strict=True))
    own = [at for at, piece in enumerate(found.pieces) if piece[:2] == steps and piece[2] in COMPONENTS]
    for component, mark in COMPONENTS.items():
        chosen = [at for at in own if found.pieces[at][2] == component]
        if not chosen:
            continue
        x = [_place(found.pieces[at], depth) for at in chosen]
        colour, filled = colours[component], matters[chosen]
        span = np.abs(np.stack([share[chosen] - low[chosen], high[chosen] - share[chosen]]))
        is_head = component == "head"
        if not is_head:
            axis.errorbar(x, share[chosen], yerr=span, fmt="none", ecolor=colour, elinewidth=0.8)
        face = [colour if one else "none" for one in filled]
        for at, place in enumerate(x):
            label = component if at == 0 and "embed" not in component else None
            look = {"color": colour, "alpha": 1.0 if filled[at] else 0.35} if is_head else {
                "facecolors": face[at], "edgecolors": [colour]
            }  # fmt: skip
            axis.scatter([place], [share[chosen[at]]], marker=mark, s=14, linewidths=0.8, label=label, zorder=3, **look)
    heads = sorted((at for at in own if found.pieces[at][2] == "head" and matters[at]), key=lambda at: -abs(share[at]))
    room = ROOM * np.ptp(axis.get_ylim())
    for rank, at in enumerate(heads[:NAMED]):
        _, _, _, layer, head = found.pieces[at]
        assert layer is not None and head is not None
        if all(found.pieces[other][3] != layer or abs(share[other] - share[at]) > room for other in heads[:rank]):
            where = (layer, share[at])
            axis.annotate(name(layer, head), where, (4, -2), textcoords="offset points", fontsize=6)
    axis.axhline(0, color="0.5", linewidth=0.8)
    ticks: Mapping[int, str] = {-1: "embed", **{layer: f"{layer}" for layer in _some(depth)}, depth: "unembed"}
    axis.set_xticks(list(ticks), list(ticks.values()))
    axis.set_xlim(-1.5, depth + 0.5)
    values = {"share": share[own], "low": low[own], "high": high[own], "matters": matters[own]}
    pieces = pd.DataFrame([found.pieces[at][:5] for at in own], columns=["into", "of", "component", "layer", "head"])
    return pieces.assign(**values)


def _place(piece: Sequence[object], depth: int) -> float:
    """Horizontal place of a piece: attention a little before its layer's MLP, heads between them."""
    component, layer = piece[2], piece[3]
    if not isinstance(layer, int):
        return depth if component == "unembed" else -1
    return layer + {"attn": -0.2, "mlp": 0.2}.get(str(component), 0.0)


def _some(depth: int, most: int = 8) -> range:
    """Layers to label."""
    return range(0, depth, -(-depth // most))
