"""When is each subject recruited?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ..inference.words import counted
from .finding import Finding

SAID = {
    "earlier": "comes to matter earlier under corruption {one} than under {other}",
    "later": "comes to matter later under corruption {one} than under {other}",
    "same within one checkpoint": "comes to matter under corruptions {one} and {other} at the same time, within one "
    "checkpoint",
    "cannot tell": "cannot be said to come to matter earlier or later under corruption {one} than under {other}",
}
"""By the answer; of heads that form under neither nothing is said."""


def recruited(table: pd.DataFrame) -> Iterator[Finding]:
    """One for each cell, pair of corruptions and head.

    Args:
        table: `onsets`.
    """
    own = table[(table["measure"] == "onset") & table["answer"].isin(list(SAID)) & table["head"].notna()]
    for row in own.to_dict("records"):
        told = SAID[row["answer"]].format(one=row["corruption"], other=row["against"])
        low, high = float(row["low"]), float(row["high"])
        between = f", by {low:+.0f} to {high:+.0f} checkpoints" if np.isfinite((low, high)).all() else ""
        yield Finding(
            "recruited", str(row["cell"]), f"{row['against']} {row['corruption']}",
            f"Head {row['layer']}.{row['head']} {told}{between} ({counted(row['runs'], 'run')}).", str(row["answer"]),
            low=low, high=high, unit="checkpoints",
            is_weak=row["answer"] == "cannot tell", table="onsets", patching=str(row["patching"]),
        )  # fmt: skip
