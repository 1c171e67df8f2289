"""When is each subject recruited?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ...counting import counted
from .finding import Finding

SAID = {
    "earlier": "comes to matter earlier under the {one} than under the {other} corruption",
    "later": "comes to matter later under the {one} than under the {other} corruption",
    "same within one checkpoint": "comes to matter under the {one} and the {other} corruption at the same time, "
    "within one checkpoint",
}
"""Phrases by answer; heads that form under neither corruption get no sentence."""

UNTOLD = "cannot tell"
"""Heads with this answer share one sentence."""


def recruited(table: pd.DataFrame) -> Iterator[Finding]:
    """Yield a finding for each head with an answer and one for all others, per setting and pair of corruptions.

    Args:
        table: `onsets`.
    """
    own = table[(table["measure"] == "onset") & table["answer"].isin([*SAID, UNTOLD]) & table["head"].notna()]
    for (setting, first, second, patching), rows in own.groupby(
        ["setting", "against", "corruption", "patching"], sort=False
    ):
        of: dict[str, Any] = {
            "setting": str(setting),
            "corruption": f"{first} {second}",
            "table": "onsets",
            "patching": str(patching),
        }
        for row in rows[rows["answer"] != UNTOLD].to_dict("records"):
            told = SAID[row["answer"]].format(one=second, other=first)
            low, high = float(row["low"]), float(row["high"])
            between = f", by {low:+.0f} to {high:+.0f} checkpoints" if np.isfinite((low, high)).all() else ""
            yield Finding(
                "recruited", statement=f"Head {row['layer']}.{row['head']} {told}{between} "
                f"({counted(row['runs'], 'run')}).",
                verdict=str(row["answer"]), low=low, high=high, unit="checkpoints", **of,
            )  # fmt: skip
        untold = rows[rows["answer"] == UNTOLD]
        if len(untold):
            yield Finding(
                "recruited", statement=f"Of {heads(untold)} it cannot be told whether {_it(untold)} to matter earlier "
                f"under the {second} or the {first} corruption ({counted(untold['runs'].max(), 'run')}).",
                verdict=UNTOLD, unit="checkpoints", is_weak=True, **of,
            )  # fmt: skip


def heads(rows: pd.DataFrame) -> str:
    """How many heads, and which: "2 heads (0.1, 2.1)"; or "head 2.1"."""
    names = [f"{layer}.{head}" for layer, head in zip(rows["layer"], rows["head"], strict=True)]
    return f"head {names[0]}" if len(names) == 1 else f"{len(names)} heads ({', '.join(names)})"


def _it(rows: pd.DataFrame) -> str:
    return "it comes" if len(rows) == 1 else "they come"
