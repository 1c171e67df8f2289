"""How single heads change while the model is fine-tuned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle

import numpy as np
import pandas as pd
import seaborn as sns

from ..circuits.recovered import FLOOR
from . import canvas
from .canvas import Picture, Source
from .curves import STUDENT
from .frames import Frames, by_prompt
from .intervals import over_prompts
from .summaries import band, recovered

HEAD = ["layer", "head"]
CROWD = 0.05
"""A head whose distance from zero is a smaller share of the largest is not named in a scatter plot."""
PERCENTILE = "95% interval over its {n} prompts (bootstrap), none where too many draws would be left out"


def heads(frames: Frames, site: str = "z", top: int = 6) -> Picture:
    """Recovered by patching the heads that matter most at any checkpoint, over checkpoints.

    The same `top` heads for every corruption: those of the largest mean |recovered|. The band of several runs is the
    95% interval of their mean; that of a single run is over its prompts, where the tables tell these apart.
    """
    rows = _recovered(frames, site)
    bands = band(rows, ["corruption", *HEAD, "step"], "recovered")
    largest = bands.assign(size=bands["mean"].abs()).groupby(HEAD)["size"].max().nlargest(top)
    chosen = sorted(largest.index)
    bands, told = _with_prompts(frames, site, bands, chosen)
    palette = dict(zip(chosen, sns.color_palette("colorblind", max(len(chosen), 1)), strict=False))
    corruptions = list(pd.unique(rows["corruption"]))
    title = f"Recovered by patching {site}, top {len(chosen)} heads"
    with canvas.grid(1, max(1, len(corruptions)), title, _below(rows, told), height=2.2) as (figure, axes):
        for axis, corruption in zip(axes[0], corruptions, strict=False):
            axis.sharey(axes[0][0])
            for head, dashes in zip(chosen, cycle(("-", "--", "-.", ":"))):
                line = bands[
                    (bands["corruption"] == corruption) & (bands["layer"] == head[0]) & (bands["head"] == head[1])
                ]
                axis.plot(line["step"], line["mean"], dashes, color=palette[head], label=name(*head), linewidth=1.3)
                axis.fill_between(line["step"], line["low"], line["high"], color=palette[head], alpha=0.12, linewidth=0)
            axis.axhline(0, color="0.5", linewidth=0.8)
            axis.set(title=f"{corruption} corruption", xlabel="checkpoint (step)")
        axes[0][0].set_ylabel("recovered")
        axes[0][-1].legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0)
    return figure


def scatter(frames: Frames, across: str = "v", up: str = "z", label: int = 6) -> Picture:
    """Recovered by patching `up` against that by `across`, a point a head, at the last checkpoint.

    Of z against v: a head on the diagonal works through what it moves; one far above it, also through where it looks.
    """
    points, rows = pairs(frames, across, up)
    step = points["step"].max()
    points = points[points["step"] == step]
    corruptions, depth = list(pd.unique(points["corruption"])), sorted(points["layer"].unique())
    title = f"Recovered by patching {up} against {across}, checkpoint {step}"
    size = 1, max(1, len(corruptions))
    with canvas.grid(*size, title, _below(rows[rows["step"] == step], "mean over runs"), height=2.6) as (figure, axes):
        for axis, corruption in zip(axes[0], corruptions, strict=False):
            heads = points[points["corruption"] == corruption]
            sns.scatterplot(
                x=heads["across"], y=heads["up"], hue=heads["layer"].astype(int), palette=depth_palette(depth), ax=axis,
                legend="brief" if axis is axes[0][-1] else False, s=16,
            )  # fmt: skip
            axis.axline((0, 0), slope=1, color="0.6", linewidth=0.8, linestyle=":")
            middle = (heads["across"].min() + heads["across"].max()) / 2
            for head in apart(heads.loc[far_out(heads).nlargest(label).index]).itertuples():
                place, right = (head.across, head.up), bool(head.across > middle)
                axis.annotate(
                    name(head.layer, head.head), place, (-4 if right else 4, 0), textcoords="offset points", fontsize=6,
                    va="center", ha="right" if right else "left",
                )  # fmt: skip
            axis.set(title=f"{corruption} corruption", xlabel=f"recovered by {across}", ylabel=f"recovered by {up}")
        axes[0][-1].legend(title="layer", loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0)
    return figure


def pairs(frames: Frames, across: str, up: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of each head recovered by patching one site (`across`) and another (`up`), mean over runs, by corruption, step,
    layer and head; and the rows of single runs that the means are of."""
    rows = _recovered(frames, across).merge(
        _recovered(frames, up), on=["run_id", "corruption", "step", *HEAD, "n"], suffixes=("_across", "_up")
    )
    rows = rows.rename(columns={"recovered_across": "across", "recovered_up": "up"})
    return rows.groupby(["corruption", "step", *HEAD])[["across", "up"]].mean().reset_index(), rows


def far_out(heads: pd.DataFrame) -> pd.Series:
    """How far from zero heads are, of those that can be told from the crowd there."""
    size = np.hypot(heads["across"], heads["up"])
    return size[size >= CROWD * size.max()]


def apart(heads: pd.DataFrame) -> pd.DataFrame:
    """The heads, the farthest first, without those whose name would lie on the name of one before."""
    room = CROWD * max(np.ptp(heads["up"]), np.abs(heads["up"]).max()) if len(heads) else 0.0
    kept: list[int] = []
    for at, up in enumerate(heads["up"]):
        if all(abs(up - heads["up"].iloc[other]) >= room for other in kept):
            kept.append(at)
    return heads.iloc[kept]


def depth_palette(layers: Sequence[int]) -> dict[int, tuple[float, float, float]]:
    """A colour for each layer: early ones light, late ones dark."""
    return dict(zip(map(int, layers), canvas.ordered(len(layers)), strict=True))


def _with_prompts(
    frames: Frames, site: str, bands: pd.DataFrame, chosen: Sequence[tuple[int, int]]
) -> tuple[pd.DataFrame, str]:
    """The bands, with intervals over prompts where a corruption was examined in one run only; and what they are."""
    rows = frames.patching[frames.patching["site"] == site]
    jobs = rows.groupby("corruption")["patch_id"].nunique()
    single = rows[rows["corruption"].isin(jobs.index[jobs == 1])]
    if single.empty:
        return bands, STUDENT
    prompts = by_prompt(replace(frames, patching=single), [site])
    prompts = prompts[pd.MultiIndex.from_frame(prompts[HEAD]).isin(chosen)]
    several = f"{STUDENT}; of a single run: " if len(single) < len(rows) else "band: "
    if prompts.empty:
        return bands, f"{several}none, its tables do not tell prompts apart"
    keys = ["corruption", *HEAD, "step"]
    found = over_prompts(prompts, keys)
    both = bands.merge(found[[*keys, "low", "high"]], on=keys, how="left", suffixes=("", "_prompts"))
    both = both.assign(low=both["low"].fillna(both["low_prompts"]), high=both["high"].fillna(both["high_prompts"]))
    return both, several + PERCENTILE.format(n="/".join(str(n) for n in sorted(set(found["n"]))))


def _recovered(frames: Frames, site: str) -> pd.DataFrame:
    rows = frames.patching[(frames.patching["site"] == site) & frames.patching["patched"].notna()]
    return rows.assign(recovered=recovered(rows))[["run_id", "corruption", "step", *HEAD, "n", "recovered"]]


def _below(rows: pd.DataFrame, told: str) -> Source:
    left_out = f"left out: clean and corrupted differ by less than {FLOOR} logits"
    return canvas.source(list(rows["run_id"]), list(rows["n"]), f"{told}; {left_out}")


def name(layer: int, head: int) -> str:
    """What a head is called."""
    return f"{layer}.{head}"
