"""Is there a phase transition?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from ..inference.words import counted
from .finding import Finding

SAID = {
    "transition": "changed in a phase transition",
    "below resolution": "changed faster than the checkpoints can show",
    "gradual": "changed gradually",
    "no change": "is not shown to have changed",
    "cannot tell": "cannot be said to have changed suddenly or gradually",
}


def sudden(table: pd.DataFrame) -> Iterator[Finding]:
    """One for each cell and corruption for every curve but attention, in steps.

    Args:
        table: `transitions`.
    """
    own = table[table["run_id"].isna() & (table["clock"] == "step") & table["curve"].isin(CURVES)]
    own = own[own["site"].isna() | (own["site"] == SITE)]
    single = table[table["run_id"].notna() & (table["clock"] == "step")]
    for row in own.to_dict("records"):
        place = "" if pd.isna(row["layer"]) else f" of head {row['layer']}.{row['head']}"
        under = "" if pd.isna(row["corruption"]) else f" under corruption {row['corruption']}"
        said = f"The {CURVES[row['curve']]}{place}{under} {SAID[row['answer']]}"
        of_runs = _alike(single, row)
        t50, width = of_runs["t50"].dropna(), of_runs["width"].dropna()
        if len(t50) and row["answer"] not in ("no change", "cannot tell"):
            said += (
                f": half of it is done at step {np.median(t50):.0f} (median of {counted(len(t50), 'run')}, from "
                f"{t50.min():.0f} to {t50.max():.0f}), and from 10% to 90% takes {np.median(width):.0f} of "
                f"{row['length']:.0f} steps"
            )
        reason = f" ({row['reason']})" if row["answer"] in ("cannot tell", "below resolution") and row["reason"] else ""
        yield Finding(
            "sudden", str(row["cell"]), "" if pd.isna(row["corruption"]) else str(row["corruption"]),
            f"{said}{reason}.", str(row["answer"]),
            float(np.median(t50)) if len(t50) else float("nan"), unit="step", n=int(row["n"]),
            is_weak=row["answer"] in ("cannot tell", "below resolution"), scope="each run on its prompts",
            table="transitions", patching="" if pd.isna(row["patching"]) else str(row["patching"]),
        )  # fmt: skip


SITE = "z"
"""What is told of: the gain of heads' outputs."""

CURVES = {
    "logit difference": "logit difference of clean prompts",
    "log p": "log probability of the answer",
    "gain": f"gain of patching {SITE}",
}
"""The curves that are told of, by their names in the table."""


def _alike(single: pd.DataFrame, row: Mapping[str, object]) -> pd.DataFrame:
    """The same curve of each run of the cell."""
    there = pd.Series(True, index=single.index)
    for name in ("cell", "patching", "corruption", "curve", "site", "layer", "head", "position"):
        value = row[name]
        there &= single[name].isna() if pd.isna(value) else (single[name] == value).fillna(False)
    return single[there]
