"""How single heads change while the model is fine-tuned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from . import canvas
from .curves import STUDENT
from .frames import FLOOR, Frames, band, by_prompt, recovered
from .intervals import over_prompts

HEAD = ["layer", "head"]
PERCENTILE = "95% interval over its {n} prompts (bootstrap), none where too many draws would be left out"


def heads(frames: Frames, site: str = "z", top: int = 6) -> Figure:
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
    with canvas.grid(
        1,
        max(1, len(corruptions)),
        f"Recovered by patching {site}, top {len(chosen)} heads",
        _below(rows, told),
        width=3.6,
    ) as (figure, axes):
        for axis, corruption in zip(axes[0], corruptions, strict=False):
            axis.sharey(axes[0][0])
            for head in chosen:
                line = bands[
                    (bands["corruption"] == corruption) & (bands["layer"] == head[0]) & (bands["head"] == head[1])
                ]
                axis.plot(line["step"], line["mean"], color=palette[head], label=_name(*head), linewidth=1.4)
                axis.fill_between(line["step"], line["low"], line["high"], color=palette[head], alpha=0.1, linewidth=0)
            axis.axhline(0, color="0.5", linewidth=0.8)
            axis.set(title=f"{corruption} corruption", xlabel="checkpoint (step)")
        axes[0][0].set_ylabel("recovered")
        axes[0][-1].legend(fontsize=7, ncols=2)
    return figure


def scatter(frames: Frames, across: str = "v", up: str = "z", label: int = 6) -> Figure:
    """Recovered by patching `up` against that by `across`, a point a head, at the last checkpoint.

    A head on the diagonal works through what it moves; one far above it, also through where it looks.
    """
    pairs = _recovered(frames, across).merge(
        _recovered(frames, up), on=["run_id", "corruption", "step", *HEAD, "n"], suffixes=("_across", "_up")
    )
    last = pairs[pairs["step"] == pairs["step"].max()]
    points = last.groupby(["corruption", *HEAD])[["recovered_across", "recovered_up"]].mean().reset_index()
    corruptions, depth = list(pd.unique(last["corruption"])), sorted(points["layer"].unique())
    palette = dict(zip(depth, sns.color_palette("viridis_r", len(depth)), strict=True))
    step = last["step"].max()
    with canvas.grid(
        1,
        max(1, len(corruptions)),
        f"Recovered by {up} against {across}, checkpoint {step}",
        _below(last, "mean over runs"),
        height=3,
    ) as (figure, axes):
        for axis, corruption in zip(axes[0], corruptions, strict=False):
            heads = points[points["corruption"] == corruption]
            sns.scatterplot(
                x=heads["recovered_across"],
                y=heads["recovered_up"],
                hue=heads["layer"].astype(int),
                palette=palette,
                ax=axis,
                legend=axis is axes[0][-1],
                s=22,
            )
            axis.axline((0, 0), slope=1, color="0.6", linewidth=0.8, linestyle=":")
            far = np.hypot(heads["recovered_across"], heads["recovered_up"]).nlargest(label).index
            for head in heads.loc[far].itertuples():
                place = (head.recovered_across, head.recovered_up)
                axis.annotate(_name(head.layer, head.head), place, (3, 3), textcoords="offset points", fontsize=6)
            axis.set(title=f"{corruption} corruption", xlabel=f"recovered by {across}", ylabel=f"recovered by {up}")
    return figure


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


def _below(rows: pd.DataFrame, told: str) -> str:
    left_out = f"left out: clean and corrupted differ by less than {FLOOR} logits"
    return canvas.source(list(rows["run_id"]), list(rows["n"]), f"{told}; {left_out}")


def _name(layer: int, head: int) -> str:
    return f"L{layer}H{head}"
