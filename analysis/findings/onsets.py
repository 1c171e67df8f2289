"""Does a head come to matter earlier under one corruption than under another?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ...counting import counted
from ..inference.onsets import enough
from .finding import Finding

SAID = {
    "earlier": "comes to matter earlier under the {one} than under the {other} corruption",
    "later": "comes to matter later under the {one} than under the {other} corruption",
    "same within one checkpoint": "comes to matter under the {one} and the {other} corruption at the same time, "
    "within one checkpoint",
}
"""Phrases by answer; heads that form under neither corruption get no sentence."""

CANNOT_TELL = "cannot tell"
"""All heads with this answer share one sentence."""


def onsets(table: pd.DataFrame) -> Iterator[Finding]:
    """Yield a finding for each head with an answer and one for all others, per setting and pair of corruptions.

    Args:
        table: `onsets`.
    """
    own = table[(table["measure"] == "onset") & table["answer"].isin([*SAID, CANNOT_TELL]) & table["head"].notna()]
    for (setting, first, second, patching), rows in own.groupby(
        ["setting", "against", "corruption", "patching"], sort=False
    ):
        of: dict[str, Any] = {
            "setting": str(setting),
            "corruption": f"{first} {second}",
            "table": "onsets",
            "patching": str(patching),
        }
        for row in rows[rows["answer"] != CANNOT_TELL].to_dict("records"):
            phrase = SAID[row["answer"]].format(one=second, other=first)
            low, high = float(row["low"]), float(row["high"])
            between = f", by {low:+.0f} to {high:+.0f} checkpoints" if np.isfinite((low, high)).all() else ""
            yield Finding(
                "onsets", statement=f"Head {row['layer']}.{row['head']} {phrase}{between} "
                f"({counted(row['runs'], 'run')}).",
                verdict=str(row["answer"]), low=low, high=high, unit="checkpoints", **of,
            )  # fmt: skip
        unsure = rows[rows["answer"] == CANNOT_TELL]
        if len(unsure):
            yield Finding(
                "onsets", statement=f"For {heads(unsure)} it is undecided whether {_it(unsure)} to matter earlier "
                f"under the {second} or the {first} corruption ({counted(unsure['runs'].max(), 'run')}).{_more(rows)}",
                verdict=CANNOT_TELL, unit="checkpoints", is_weak=True, **of,
            )  # fmt: skip


def _more(rows: pd.DataFrame) -> str:
    needed = enough(len(rows))
    return f" An answer needs {counted(needed, 'run')}." if rows["runs"].max() < needed else ""


def heads(rows: pd.DataFrame) -> str:
    """How many heads, and which: "2 heads (0.1, 2.1)"; or "head 2.1"."""
    names = [f"{layer}.{head}" for layer, head in zip(rows["layer"], rows["head"], strict=True)]
    return f"head {names[0]}" if len(names) == 1 else f"{len(names)} heads ({', '.join(names)})"


def _it(rows: pd.DataFrame) -> str:
    return "it comes" if len(rows) == 1 else "they come"
