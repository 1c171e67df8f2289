"""Is there a phase transition?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from .finding import Finding

SAID = {
    "transition": "changed in a phase transition",
    "below resolution": "changed faster than the checkpoints can show",
    "gradual": "changed gradually",
    "no change": "is not shown to have changed",
    "cannot tell": "changed in a way that cannot be told",
}


def sudden(table: pd.DataFrame, runs: Mapping[str, tuple[str, ...]]) -> Iterator[Finding]:
    """One for each cell and corruption for every curve but attention, in steps.

    Args:
        table: `transitions`.
    """
    own = table[table["run_id"].isna() & (table["clock"] == "step") & table["curve"].isin(CURVES)]
    single = table[table["run_id"].notna() & (table["clock"] == "step")]
    for row in own.to_dict("records"):
        place = "" if pd.isna(row["layer"]) else f" of head {row['layer']}.{row['head']}"
        under = "" if pd.isna(row["corruption"]) else f" under corruption {row['corruption']}"
        said = f"The {CURVES[row['curve']]}{place}{under} {SAID[row['answer']]}"
        of_runs = _alike(single, row)
        t50, width = of_runs["t50"].dropna(), of_runs["width"].dropna()
        if len(t50) and row["answer"] not in ("no change", "cannot tell"):
            said += (
                f": half of it is done at step {np.median(t50):.0f} (median of {len(t50)} runs, from {t50.min():.0f} "
                f"to {t50.max():.0f}), and from 10% to 90% takes {np.median(width):.0f} of {row['length']:.0f} steps"
            )
        reason = f" ({row['reason']})" if row["answer"] in ("cannot tell", "below resolution") and row["reason"] else ""
        yield Finding(
            "sudden", str(row["cell"]), "" if pd.isna(row["corruption"]) else str(row["corruption"]),
            f"{said}{reason}.", str(row["answer"]), runs.get(str(row["cell"]), ()),
            float(np.median(t50)) if len(t50) else float("nan"), unit="step", n=int(row["n"]),
            is_weak=row["answer"] in ("cannot tell", "below resolution"), scope="each run on its prompts",
            table="transitions",
        )  # fmt: skip


CURVES = {
    "logit difference": "logit difference of clean prompts",
    "log p": "log probability of the answer",
    "gain": "gain",
}
"""The curves that are told of, by their names in the table."""


def _alike(single: pd.DataFrame, row: Mapping[str, object]) -> pd.DataFrame:
    """The same curve of each run of the cell."""
    there = pd.Series(True, index=single.index)
    for name in ("cell", "patching", "corruption", "curve", "site", "layer", "head", "position"):
        value = row[name]
        there &= single[name].isna() if pd.isna(value) else (single[name] == value).fillna(False)
    return single[there]
