"""Distances and correlations between the weights of checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mi_sweeps.series.order import Distances
from mi_sweeps.series.sample import MANTISSA, Tensor

CHANCE = 6.0
"""Number of standard errors within which the correlation of unrelated matrices stays."""


@dataclass(frozen=True)
class Geometry:
    """Distances and correlations between all pairs of checkpoints."""

    distances: Distances
    floor: float
    """Distances below this are rounding noise of the weights' type."""
    correlations: NDArray[np.float64]
    """Mean over matrices of the correlation of their elements; NaN where no matrix varies in both."""
    chance: float
    """The largest correlation that unrelated matrices have by chance."""

    def of(self, places: Sequence[int]) -> Geometry:
        """The geometry of some of the checkpoints, by index."""
        some = np.ix_(places, places)
        return replace(self, distances=self.distances[some], correlations=self.correlations[some])


def measure(checkpoints: Sequence[Mapping[str, NDArray[np.float32]]], matrices: Mapping[str, Tensor]) -> Geometry:
    """Computes the geometry from the values of some matrices.

    The distance of two checkpoints is the root mean square over the matrices of ‖a − b‖ / ‖w‖, where ‖w‖ is the
    matrix's root mean square norm over the series.
    """
    count = len(checkpoints)
    squares, related, varied = np.zeros((count, count)), np.zeros((count, count)), np.zeros((count, count))
    for name in matrices:
        rows = np.stack([values[name] for values in checkpoints]).astype(np.float64)
        norm = np.square(rows).sum(1).mean() or 1
        around = rows - rows.mean(1, keepdims=True)
        sizes = np.sqrt(np.square(around).sum(1))
        around /= np.where(sizes > 0, sizes, 1)[:, None]
        both = np.outer(sizes > 0, sizes > 0) * rows.shape[1]
        related += both * (around @ around.T)
        varied += both
        rows -= rows.mean(0)  # Otherwise small differences of large numbers are lost to rounding.
        product = rows @ rows.T
        own = np.diagonal(product)
        squares += np.maximum(own[:, None] + own - 2 * product, 0) / norm
    np.fill_diagonal(squares, 0)
    return Geometry(
        distances=np.sqrt(squares / len(matrices)),
        floor=max(2.0 ** -MANTISSA[tensor.dtype] for tensor in matrices.values()),
        correlations=np.where(varied > 0, related / np.maximum(varied, 1), np.nan),
        chance=float(CHANCE / np.sqrt(max(varied.max(), 1))),
    )
