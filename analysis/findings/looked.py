"""Where do heads look, and what has changed since the first checkpoint?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pandas as pd

from ..inference.words import number, range_of
from .finding import Finding

NAMED = 3
"""The most heads and keys per setting and corruption that get a sentence: those that changed most."""


def looked(table: pd.DataFrame) -> Iterator[Finding]:
    """Yield changes of attention from the end of clean prompts that are shown at the last checkpoint.

    Corruptions with the same clean prompts have the same numbers and share a sentence.

    Args:
        table: `attention`.
    """
    own = table[(table["side"] == "clean") & (table["query"] == "end")]
    merged: dict[tuple[str, str, str], Finding] = {}
    for (setting, corruption, patching), rows in own.groupby(["setting", "corruption", "patching"], sort=False):
        first, last = rows["step"].min(), rows[rows["step"] == rows["step"].max()]
        last = last[last["against_start"].isin(("more", "less"))]
        for row in last.sort_values("change", key=abs, ascending=False).head(NAMED).itertuples():
            said = (
                f"From the end of the prompt, head {row.layer}.{row.head} looks at {row.key} with "
                f"{number(row.attention)}{range_of(row.low, row.high)} of its attention at checkpoint {row.step}, "
                f"{row.change:+.2f}{range_of(row.change_low, row.change_high)} since checkpoint {first}; uniform "
                f"attention would pay {number(row.uniform)}."
            )
            scope = "for other prompts and other seeds" if row.other_seeds else "for other prompts in these runs"
            found = Finding(
                "looked", str(setting), str(corruption), said, str(row.against_start),
                float(row.attention), float(row.low), float(row.high), "share of attention", int(row.n),
                scope=scope, table="attention", patching=str(patching),
            )  # fmt: skip
            key = (found.setting, found.patching, said)
            names = f"{merged[key].corruption} {corruption}" if key in merged else str(corruption)
            merged[key] = replace(found, corruption=names)
    for found in merged.values():
        under = " and ".join(found.corruption.split())
        yield replace(found, statement=f"On clean prompts of the {under} corruption: {_lower(found.statement)}")


def _lower(said: str) -> str:
    return said[0].lower() + said[1:]
