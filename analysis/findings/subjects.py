"""Do two corruptions, as of the two subjects, go through the same heads?"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from ..inference.subjects import Answer
from ..inference.verdicts import DELTA
from ..inference.words import number, range_of
from .finding import Finding

SITE = "z"

SAID = {
    "same heads": "the same heads carry the {first} and the {second} corruption, each by the same share "
    f"within {DELTA}",
    "same heads, other amounts": "the same heads carry the {first} and the {second} corruption, "
    "some by different shares",
    "same heads, amounts undecided": "the same heads carry the {first} and the {second} corruption; "
    "for some it is undecided whether by the same share",
    "not all the same heads": "not all the same heads carry the {first} and the {second} corruption",
    "cannot tell": "it is undecided whether the same heads carry the {first} and the {second} corruption",
}
"""Phrases by answer; none if one of the corruptions has no gap."""


def subjects(table: pd.DataFrame) -> Iterator[Finding]:
    """Yield a finding for each setting and pair of corruptions at their last checkpoint.

    Args:
        table: `subjects`.
    """
    own = table[table["site"] == SITE]
    for (setting, first, second, patching), rows in own.groupby(["setting", "first", "second", "patching"], sort=False):
        last = rows[rows["step"] == rows["step"].max()]
        answer = str(last["answer"].iloc[0])
        if answer not in SAID:
            continue
        said = f"At checkpoint {last['step'].iloc[0]}, {SAID[answer].format(first=first, second=second)}"
        there = last[(last["verdict_first"] == "matters") | (last["verdict_second"] == "matters")]
        there = there.sort_values("difference", key=abs, ascending=False)
        if answer == Answer.DIFFERENT.value:
            said += f": {_shared(there)}"
        examples = [
            f"{row.layer}.{row.head} {number(row.recovered_first)} and {number(row.recovered_second)} "
            f"({row.comparison}: {row.difference:+.2f}{range_of(row.low, row.high)})"
            for row in there.head(4).itertuples()
        ]
        more = f" and {len(there) - 4} more" if len(there) > 4 else ""
        said += f". Recovered under each: {'; '.join(examples)}{more}." if examples else "."
        top = there.iloc[0] if len(there) else None
        value, low, high = (float("nan") if top is None else float(top[name]) for name in ("difference", "low", "high"))
        yield Finding(
            "subjects", str(setting), f"{first} {second}", said, answer, value, low, high,
            "recovered", int(last["prompts"].max()), answer in ("cannot tell", "same heads, amounts undecided"),
            table="subjects", patching=str(patching),
        )  # fmt: skip


NAMED = 4
"""The most heads that are named for being under one corruption only."""


def _shared(rows: pd.DataFrame) -> str:
    """How many of the heads that matter under either matter under both, and which do not.

    Args:
        rows: the heads that matter under either.
    """
    matter = (rows[["verdict_first", "verdict_second"]] == "matters").all(axis=1)
    same_sign = rows["recovered_first"] * rows["recovered_second"] > 0
    is_small = (rows[["verdict_first", "verdict_second"]] == "small").any(axis=1)
    apart = rows[rows["comparison"].isin(("more", "less")) & (is_small | matter & ~same_sign)]
    both = int((matter & same_sign).sum())
    names = [f"{row.layer}.{row.head}" for row in apart.itertuples()]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    said = f"{both} of {len(rows)} do, {', '.join(names[:NAMED])}{more} {'does' if len(names) == 1 else 'do'} not"
    unsure = len(rows) - both - len(apart)
    return said + (f", and {unsure} {'is' if unsure == 1 else 'are'} undecided" if unsure else "")
