"""Pictures for wandb, made of arrays: drawing a figure takes a hundred times as long."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from mi_sweeps.tracking.values import Head

PIXELS = 24
"""Largest side of one head."""
SIDE = 480
"""Pixels that a picture has at most, across or down, unless it has more heads than that."""
GREY = 0.75


def heatmap(heads: Collection[Head], recovered: Mapping[Head, float]) -> np.ndarray:
    """The recovered fraction of each head, [layer * pixels, head * pixels, 3]: white is 0, red is 1 and blue -1; grey
    where the corruption makes no measurable difference.

    Args:
        recovered: of the heads where it is defined (`values.heads_of`).
    """
    from matplotlib import colormaps

    values = np.full((1 + max(layer for layer, _ in heads), 1 + max(head for _, head in heads)), np.nan)
    for place, value in recovered.items():
        values[place] = value
    colours = colormaps["RdBu_r"]((np.clip(values, -1, 1) + 1) / 2)[..., :3]
    colours[np.isnan(values)] = GREY
    pixels = min(PIXELS, max(1, SIDE // max(values.shape)))
    return np.kron((colours * 255).astype(np.uint8), np.ones((pixels, pixels, 1), dtype=np.uint8))
