"""Where do heads look, and what has changed since the first checkpoint?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from ..inference.words import number, range_of
from .finding import Finding

NAMED = 3
"""Heads and keys that have a sentence, of each cell and corruption: those that changed most."""


def looked(table: pd.DataFrame, runs: Mapping[str, tuple[str, ...]]) -> Iterator[Finding]:
    """What is shown to have changed of attention from the end of clean prompts, at the last checkpoint.

    Args:
        table: `attention`.
    """
    own = table[(table["side"] == "clean") & (table["query"] == "end")]
    for (cell, corruption, _), rows in own.groupby(["cell", "corruption", "patching"], sort=False):
        last = rows[(rows["step"] == rows["step"].max()) & rows["against_start"].isin(("more", "less"))]
        for row in last.sort_values("change", key=abs, ascending=False).head(NAMED).itertuples():
            said = (
                f"From the end of the prompt, head {row.layer}.{row.head} looks at {row.key} with "
                f"{number(row.attention)}{range_of(row.low, row.high)} of its attention at checkpoint {row.step}, "
                f"{row.change:+.2f}{range_of(row.change_low, row.change_high)} since the first checkpoint; uniform "
                f"attention would pay {number(row.uniform)}."
            )
            scope = "for other prompts and other seeds" if row.other_seeds else "for other prompts in these runs"
            yield Finding(
                "looked", str(cell), str(corruption), said, str(row.against_start), runs.get(str(cell), ()),
                float(row.attention), float(row.low), float(row.high), "share of attention", int(row.n),
                scope=scope, table="attention",
            )  # fmt: skip
