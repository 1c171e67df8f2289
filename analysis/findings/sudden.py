"""Is there a phase transition?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from ...counting import counted
from .finding import Finding
from .onsets import heads as named

SITE = "z"
"""The curve of heads: the gain of their outputs."""

GAIN = "gain"

CURVES = {
    "logit difference": "logit difference of clean prompts",
    "log p": "log probability of the answer",
    GAIN: f"gain of patching {SITE}",
}
"""Phrases for the curves that get sentences."""

SAID = {
    "transition": "changed in a phase transition",
    "below resolution": "changed faster than the checkpoints can show",
    "gradual": "changed gradually",
    "no change": "is not shown to have changed",
    "cannot tell": "cannot be said to have changed suddenly or gradually",
}

FOLDED = ("no change", "cannot tell")
"""Heads with one of these answers and the same reason share a sentence."""


def is_reported(curve: str, site: str | None, clock: str) -> bool:
    """Whether findings report on a curve."""
    return clock == "step" and curve in CURVES and site in (None, SITE)


def sudden(table: pd.DataFrame) -> Iterator[Finding]:
    """Yield a finding for every curve of a setting except attention: for the gains of heads one per head with an
    answer, and one for all others. Corruptions with the same clean prompts share a sentence.

    Args:
        table: `transitions`.
    """
    own = table[table["run_id"].isna() & (table["clock"] == "step") & table["curve"].isin(CURVES)]
    own = own[own["site"].isna() | (own["site"] == SITE)]
    single = table[table["run_id"].notna() & (table["clock"] == "step")]
    merged: dict[tuple[str, ...], Finding] = {}
    folded: dict[tuple[str, ...], list[int]] = {}
    for at, row in own.iterrows():
        if row["curve"] == GAIN and row["answer"] in FOLDED:
            key = [row[name] for name in ("setting", "patching", "corruption", "answer", "reason")]
            folded.setdefault(tuple("" if pd.isna(one) else str(one) for one in key), []).append(at)
            continue
        found = _one(row, _alike(single, row))
        # Gains depend on the corruption, the other curves on clean prompts alone.
        by = found.corruption if row["curve"] == GAIN else ""
        same = (found.setting, found.patching, found.statement, by)
        names = " ".join(filter(None, (merged[same].corruption if same in merged else "", found.corruption)))
        merged[same] = replace(found, corruption=names)
    for found in merged.values():
        of = f" of the {' and '.join(found.corruption.split())} corruption"
        yield replace(found, statement=found.statement.replace(OF_CORRUPTION, of if found.corruption else ""))
    for (setting, patching, corruption, answer, reason), rows in folded.items():
        heads = own.loc[rows]
        they = "its" if len(rows) == 1 else "their"
        said = f"Of {named(heads)}, {they} {CURVES[GAIN]} under the {corruption} corruption {SAID[answer]}"
        why = f" ({reason})" if answer == "cannot tell" and reason else ""
        yield Finding(
            "sudden", setting, corruption, f"{said}{why}.", answer, unit="step", n=int(heads["n"].max()),
            is_weak=answer == "cannot tell", scope=SCOPE, table="transitions", patching=patching,
        )  # fmt: skip


SCOPE = "each run on its prompts"

OF_CORRUPTION = " {of corruption}"
"""Placeholder for the corruptions that share a curve's clean prompts."""


def _one(row: pd.Series, of_runs: pd.DataFrame) -> Finding:
    is_gain = row["curve"] == GAIN
    corruption = "" if pd.isna(row["corruption"]) else str(row["corruption"])
    what = f" of head {row['layer']}.{row['head']} under the {corruption} corruption" if is_gain else OF_CORRUPTION
    said = f"The {CURVES[row['curve']]}{what} {SAID[row['answer']]}"
    t50, width = of_runs["t50"].dropna(), of_runs["width"].dropna()
    if len(t50) and row["answer"] not in FOLDED:
        said += (
            f": half of it is done at step {np.median(t50):.0f} (median of {counted(len(t50), 'run')}, from "
            f"{t50.min():.0f} to {t50.max():.0f}), and from 10% to 90% takes {np.median(width):.0f} of "
            f"{row['length']:.0f} steps"
        )
    reason = f" ({row['reason']})" if row["answer"] in ("cannot tell", "below resolution") and row["reason"] else ""
    return Finding(
        "sudden", str(row["setting"]), corruption, f"{said}{reason}.", str(row["answer"]),
        float(np.median(t50)) if len(t50) else float("nan"), unit="step", n=int(row["n"]),
        is_weak=row["answer"] in ("cannot tell", "below resolution"), scope=SCOPE, table="transitions",
        patching="" if pd.isna(row["patching"]) else str(row["patching"]),
        to_last=not is_gain,  # gains are only known at the checkpoints that all runs have
    )  # fmt: skip


def _alike(single: pd.DataFrame, row: pd.Series) -> pd.DataFrame:
    """The same curve of each run of the setting."""
    there = pd.Series(True, index=single.index)
    for name in ("setting", "patching", "corruption", "curve", "site", "layer", "head", "position"):
        value = row[name]
        there &= single[name].isna() if pd.isna(value) else (single[name] == value).fillna(False)
    return single[there]
