"""The measurements on a checkpoint besides patching; each makes one table (`mi_sweeps.circuits.tables`)."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from mi_sweeps.circuits import circuits, cross, edges, looks, scores
from mi_sweeps.circuits.view import View

MEASUREMENTS: dict[str, Callable[[View], pa.Table]] = {
    "looks": looks.table,
    "scores": scores.table,
    "patterns": looks.patterns,
    "cross": cross.table,
    "circuits": circuits.table,
    "edges": edges.table,
}
"""By table name."""
