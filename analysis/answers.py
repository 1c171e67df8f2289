"""What was found of each setting, in a word each: what the first table of the report's page asks of the findings."""

from __future__ import annotations

import pandas as pd

from .folder import Json

ASKED = ("seeds", "subjects")
"""Questions whose answers stand in a setting's row."""


def answers(findings: pd.DataFrame) -> list[Json]:
    """The answers to ASKED: of every setting, though the page tells only some of their sentences.

    Args:
        findings: the table of that name.
    """
    own = findings[findings["question"].isin(ASKED)]
    return [
        {"question": row["question"], "setting": row["setting"], "answer": row["verdict"]}
        | {key: "" if pd.isna(row[key]) else row[key] for key in ("corruption", "patching")}
        for row in own.to_dict("records")
    ]
