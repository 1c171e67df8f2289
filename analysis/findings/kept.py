"""Can the model still do another task, and with the same heads?"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from ...counting import counted
from ..inference.words import number, range_of
from .finding import Finding

SITE = "z"

WORDS = ("kept", "lost", "gained", "changed", "cannot tell")


def kept(table: pd.DataFrame) -> Iterator[Finding]:
    """Yield the win rate and the heads on each other task at the last checkpoint compared with the first.

    Args:
        table: `retention`.
    """
    keys = ["setting", "task", "corruption", "patching"]
    for (setting, task, corruption, patching), rows in table.groupby(keys, sort=False):
        rates = _last(rows[rows["what"] == "win rate"])
        if len(rates):
            verdict = rates["verdict"].iloc[0] if rates["verdict"].nunique() == 1 else "cannot tell"
            if verdict == "cannot tell" and (rates["verdict"] == "lost").any():
                verdict = "lost by some"
            counts = ", ".join(
                f"{word} in {count}" for word in WORDS if (count := int((rates["verdict"] == word).sum()))
            )
            said = (
                f"The win rate on task {task} went from {number(rates['before'].mean())} to "
                f"{number(rates['after'].mean())} {_between(rates)}: {counts} of "
                f"{counted(len(rates), 'run')} (n {rates['n'].max()} each)."
            )
            middle = rates["difference"].mean()
            yield Finding(
                "kept", str(setting), str(corruption), said, str(verdict), float(middle), float(rates["low"].min()),
                float(rates["high"].max()), "share", int(rates["n"].max()), verdict == "cannot tell",
                "each run on its prompts; the interval spans those of all runs", "retention", str(patching),
            )  # fmt: skip
        heads = _last(rows[(rows["what"] == "head") & (rows["site"] == SITE)])
        if not len(heads):
            continue
        counts = ", ".join(f"{count} {word}" for word in WORDS if (count := int((heads["verdict"] == word).sum())))
        other = heads[~heads["verdict"].isin(("kept", "cannot tell"))].sort_values("difference", key=abs)[::-1]
        named = "; ".join(
            f"{row.layer}.{row.head} {row.verdict}: {number(row.before)} to {number(row.after)}, "
            f"{row.difference:+.2f}{range_of(row.low, row.high)}"
            for row in other.head(4).itertuples()
        )
        said = f"What {len(heads)} heads recover on task {task}, {_between(heads)}: {counts}"
        said += f" ({named})." if named else "."
        verdict = next((w for w in ("lost", "changed") if (heads["verdict"] == w).any()), None)
        unsure = bool((heads["verdict"] == "cannot tell").any())
        yield Finding(
            "kept", str(setting), str(corruption), said, verdict or ("cannot tell" if unsure else "kept"),
            n=int(heads["n"].max()), is_weak=unsure, table="retention", patching=str(patching),
        )  # fmt: skip


def _last(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the last shared checkpoint; rows without a run belong to all runs."""
    counts = rows.assign(run_id=rows["run_id"].fillna("")).groupby("step")["run_id"].nunique()
    shared = counts.index[counts == counts.max()]
    return rows[rows["step"] == shared.max()]


def _between(rows: pd.DataFrame) -> str:
    since = " or ".join(str(step) for step in sorted(rows["since"].unique()))
    return f"from checkpoint {since} to {rows['step'].iloc[0]}"
