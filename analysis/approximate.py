"""Attribution patching against activation patching: how far approximate values can be trusted."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from . import plotting
from .frames import Frames
from .heatmaps import HEAD_SITES, POSITION_SITES
from .plotting import Picture
from .summaries import spread

KEYS = ["patch_id", "step", "site"]
LEAST = 3
"""Fewest points for a correlation: two always lie on a line."""


def correlations(patching: pd.DataFrame) -> pd.DataFrame:
    """Correlate exact and approximate effects (Pearson `r`) over the `n` places of each site: its heads or positions in
    all layers, at one checkpoint of one patch job.

    An effect is a change of the logit difference, patched - corrupted (logits, mean over prompts). Only rows that
    have both count; `r` is missing for fewer than LEAST places, or where one of the two does not vary.
    """
    rows = patching[patching["patched"].notna() & patching["approximate"].notna()]
    changes = pd.DataFrame(
        {"exact": rows["patched"] - rows["corrupted"], "approximate": rows["approximate"] - rows["corrupted"]}
    )
    keys = [rows[key] for key in KEYS]
    centred = changes - changes.groupby(keys).transform("mean")
    products = pd.DataFrame(
        {
            "both": centred["exact"] * centred["approximate"],
            "exact": centred["exact"] ** 2,
            "approximate": centred["approximate"] ** 2,
            "n": 1,
        }
    )
    sums = products.groupby(keys, sort=True).sum()
    size = np.sqrt(sums["exact"] * sums["approximate"])
    r = (sums["both"] / size.where(size > 0)).where(sums["n"] >= LEAST)
    return pd.DataFrame({"r": r, "n": sums["n"]}).reset_index()


def exact(frames: Frames, corruption: str, checkpoints: int = 4) -> Picture:
    """Draw exact against approximate changes of the logit difference; on the diagonal they are equal.

    A row of plots per site, a column per checkpoint, a point per head or position of each layer and run.
    """
    rows = frames.patching[frames.patching["corruption"] == corruption]
    rows = rows[rows["patched"].notna() & rows["approximate"].notna()]
    found = correlations(rows)
    there = list(pd.unique(rows["site"]))
    known = [*POSITION_SITES, *HEAD_SITES]
    sites = sorted(there, key=lambda site: (known.index(site) if site in known else len(known), there.index(site)))
    steps = spread(list(rows["step"]), checkpoints)
    below = plotting.source(
        list(rows["run_id"]), list(rows["n"]), "r: Pearson correlation over the n points of a run; dotted: equal"
    )
    title = f"Exact against approximate, {corruption} corruption"
    with plotting.grid(max(1, len(sites)), max(1, len(steps)), title, below, 1.6, page=True) as (figure, axes):
        for line, site in zip(axes, sites, strict=False):
            for axis, step in zip(line, steps, strict=False):
                points = rows[(rows["site"] == site) & (rows["step"] == step)]
                x, y = points["approximate"] - points["corrupted"], points["patched"] - points["corrupted"]
                axis.scatter(x, y, s=8, alpha=0.5, linewidths=0)
                axis.axline((0, 0), slope=1, color="0.6", linewidth=0.8, linestyle=":")
                own = found[(found["site"] == site) & (found["step"] == step)]
                ground = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1}
                axis.text(0.04, 0.96, _agreement(own), transform=axis.transAxes, va="top", fontsize=5.5, bbox=ground)
                axis.set_title(f"{site}, checkpoint {step}", fontsize=6.5)
                axis.tick_params(labelsize=5.5)
                axis.locator_params(nbins=4)
                _square(axis)
            line[0].set_ylabel("patched − corrupted\n(logits)")
        for axis in axes[-1]:
            axis.set_xlabel("approximate − corrupted\n(logits)")
    changes = {"exact": rows["patched"] - rows["corrupted"], "approximate": rows["approximate"] - rows["corrupted"]}
    shown = rows[["run_id", "step", "site", "layer", "head", "position"]].assign(**changes)
    figure.numbers = shown[shown["step"].isin(steps)]
    return figure


def _agreement(found: pd.DataFrame) -> str:
    """r and n of one run, or the range of r over several runs."""
    if not len(found):
        return "not examined"
    n = "/".join(str(n) for n in sorted(set(found["n"])))
    r = found["r"].dropna()
    if not len(r):
        return f"r none, n {n}"
    if len(found) == 1:
        return f"r {r.iloc[0]:.3f}, n {n}"
    return f"r {r.min():.3f} to {r.max():.3f},\nn {n} in each of {len(found)} runs"


def _square(axis: Axes) -> None:
    """Give both axes the same scale."""
    low = min(axis.get_xlim()[0], axis.get_ylim()[0])
    high = max(axis.get_xlim()[1], axis.get_ylim()[1])
    axis.set(xlim=(low, high), ylim=(low, high), aspect="equal")
