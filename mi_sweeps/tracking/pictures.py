"""Pictures for wandb, made of arrays: drawing a figure takes a hundred times as long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mi_sweeps.tracking.values import recovered

PIXELS = 24
"""Largest side of one head."""
SIDE = 480
"""Pixels that a picture has at most, across or down, unless it has more heads than that."""
GREY = 0.75


def heatmap(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """The recovered fraction of each head, [layer * pixels, head * pixels, 3]: white is 0, red is 1 and blue -1; grey
    where clean and corrupted are too near each other to say."""
    from matplotlib import colormaps

    values = np.full((1 + max(row["layer"] for row in rows), 1 + max(row["head"] for row in rows)), np.nan)
    for row in rows:
        value = recovered(row)
        values[row["layer"], row["head"]] = np.nan if value is None else value
    colours = colormaps["RdBu_r"]((np.clip(values, -1, 1) + 1) / 2)[..., :3]
    colours[np.isnan(values)] = GREY
    pixels = min(PIXELS, max(1, SIDE // max(values.shape)))
    return np.kron((colours * 255).astype(np.uint8), np.ones((pixels, pixels, 1), dtype=np.uint8))
