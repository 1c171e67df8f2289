"""Pictures for wandb, made from arrays. Drawing them with matplotlib would take a hundred times as long."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from mi_sweeps.tracking.values import Head

PIXELS = 24
"""Largest width and height of a head's square."""
SIDE = 480
"""Largest width and height of a picture, unless a layer has more heads than this."""
GREY = 0.75


def heatmap(heads: Collection[Head], recovered: Mapping[Head, float]) -> np.ndarray:
    """Draws recovered by each head, [layer * pixels, head * pixels, 3]: white is 0, red 1, blue -1; grey if the
    corruption makes no measurable difference.

    Args:
        recovered: by head, where it is defined (`values.heads_of`).
    """
    from matplotlib import colormaps

    values = np.full((1 + max(layer for layer, _ in heads), 1 + max(head for _, head in heads)), np.nan)
    for place, value in recovered.items():
        values[place] = value
    colours = colormaps["RdBu_r"]((np.clip(values, -1, 1) + 1) / 2)[..., :3]
    colours[np.isnan(values)] = GREY
    pixels = min(PIXELS, max(1, SIDE // max(values.shape)))
    return np.kron((colours * 255).astype(np.uint8), np.ones((pixels, pixels, 1), dtype=np.uint8))
