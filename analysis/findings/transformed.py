"""Does training transform the heads that mattered before, or add others?"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from ..inference.words import number, range_of
from .finding import Finding

SAID = {
    "transformed": "the heads that matter after are {mostly}those that mattered before{but}",
    "added": "most of what matters after is in heads that did not matter before",
    "cannot tell": "it is undecided whether training transformed heads or added others",
}


def transformed(table: pd.DataFrame) -> Iterator[Finding]:
    """Yield a finding for each setting and corruption, from its first to its last checkpoint.

    Args:
        table: `transformations`.
    """
    for (setting, corruption, patching), rows in table.groupby(["setting", "corruption", "patching"], sort=False):
        row = rows.loc[(rows["to_step"] - rows["from_step"]).idxmax()]
        answer = str(row["answer"])
        others = [
            f"{which}: {row[of]}" for of, which in (("added", "new or reversed"), ("undecided", "undecided"))
            if pd.notna(row[of]) and row[of]
        ]  # fmt: skip
        what = SAID[answer].format(mostly="mostly " if others else "", but=f" ({'; '.join(others)})" if others else "")
        said = f"From checkpoint {row['from_step']} to {row['to_step']} under the {corruption} corruption, {what}"
        if pd.notna(row["transformed"]):
            share = f"{number(row['transformed'])}{range_of(row['low'], row['high'])}"
            said += f": heads that mattered before have {share} of the gain of all that matter after"
        elif pd.notna(row["low"]) and pd.notna(row["high"]):
            ends = f"{number(row['low'])} and {number(row['high'])}"
            said += f": the share of the gain in heads that mattered before is between {ends}"
        said += f" ({row['why']})." if pd.notna(row["why"]) else "."
        scope = "for other prompts and other seeds" if row["seeds"] else "for other prompts in these runs"
        yield Finding(
            "transformed", str(setting), str(corruption), said, answer,
            float(row["transformed"]), float(row["low"]), float(row["high"]), "share", int(row["n"]),
            answer == "cannot tell", scope, "transformations", str(patching),
        )  # fmt: skip
