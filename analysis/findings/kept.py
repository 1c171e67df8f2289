"""Is another task kept, and with the same heads?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from ..inference.words import number, range_of
from .finding import Finding

SITE = "z"

WORDS = ("kept", "lost", "gained", "changed", "cannot tell")


def kept(table: pd.DataFrame, runs: Mapping[str, tuple[str, ...]]) -> Iterator[Finding]:
    """Of each cell and other task the win rate and the heads at the last checkpoint, against the first.

    Args:
        table: `retention`.
    """
    for (cell, task, corruption, _), rows in table.groupby(["cell", "task", "corruption", "patching"], sort=False):
        last = rows[rows["step"] == rows["step"].max()]
        step, since = last["step"].iloc[0], last["since"].iloc[0]
        ids, from_to = runs.get(str(cell), ()), f"from checkpoint {since} to {step}"
        rates = last[last["what"] == "win rate"]
        if len(rates):
            verdict = rates["verdict"].iloc[0] if rates["verdict"].nunique() == 1 else "cannot tell"
            counts = ", ".join(
                f"{word} in {count}" for word in WORDS if (count := int((rates["verdict"] == word).sum()))
            )
            said = (
                f"The win rate on task {task} went from {number(rates['before'].mean())} to "
                f"{number(rates['after'].mean())} {from_to}: {counts} of {len(rates)} runs (n {rates['n'].max()} each)."
            )
            middle = rates["difference"].mean()
            yield Finding(
                "kept", str(cell), str(corruption), said, str(verdict), ids, float(middle), float(rates["low"].min()),
                float(rates["high"].max()), "share", int(rates["n"].max()), verdict == "cannot tell",
                "each run on its prompts; the interval spans those of all runs", "retention",
            )  # fmt: skip
        heads = last[(last["what"] == "head") & (last["site"] == SITE)]
        if not len(heads):
            continue
        counts = ", ".join(f"{count} {word}" for word in WORDS if (count := int((heads["verdict"] == word).sum())))
        other = heads[~heads["verdict"].isin(("kept", "cannot tell"))].sort_values("difference", key=abs)[::-1]
        named = "; ".join(
            f"{row.layer}.{row.head} {row.verdict}: {number(row.before)} to {number(row.after)}, "
            f"{row.difference:+.2f}{range_of(row.low, row.high)}"
            for row in other.head(4).itertuples()
        )
        said = f"Of what {len(heads)} heads recover on task {task} {from_to}: {counts}{f' ({named})' if named else ''}."
        verdict = next((w for w in ("lost", "changed") if (heads["verdict"] == w).any()), None)
        unsure = bool((heads["verdict"] == "cannot tell").any())
        yield Finding(
            "kept", str(cell), str(corruption), said, verdict or ("cannot tell" if unsure else "kept"), ids,
            n=int(heads["n"].max()), is_weak=unsure, table="retention",
        )  # fmt: skip
