"""One thing that was found, with what it stands on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import pandas as pd

from ..columns import typed

FINDINGS = {
    **{"question": "string", "setting": "string", "patching": "string", "corruption": "string", "statement": "string"},
    **{"estimate": "float64", "low": "float64", "high": "float64", "unit": "string"},
    **{"n": "Int64", "runs": "Int64", "verdict": "string", "is_weak": "boolean", "scope": "string"},
    **{"table": "string", "run_ids": "string"},
}
"""The columns of the table `findings`. Run ids are parted by spaces."""


@dataclass(frozen=True)
class Finding:
    """A sentence that its evidence warrants."""

    question: str
    """What it answers, one of `findings.QUESTIONS`."""
    setting: str
    """The setting that it is of: runs that differ in their seed only. Of several settings, their names."""
    corruption: str
    """Empty where it is of no corruption; of several, their names, parted by spaces."""
    statement: str
    """A sentence for somebody who has not seen the tables."""
    verdict: str
    """The word that inference gives: matters, formed, agree, cannot tell, …"""
    estimate: float = float("nan")
    low: float = float("nan")
    """Ends of the 95% interval, NaN where there is none."""
    high: float = float("nan")
    unit: str = ""
    """Of the estimate: share, recovered, logits, step."""
    n: int | None = None
    """Prompts."""
    is_weak: bool = False
    """Whether more prompts or seeds are needed to say more than this."""
    scope: str = ""
    """Of what it holds: for other prompts, for other seeds."""
    table: str = ""
    """The exported table that has the numbers."""
    patching: str = ""
    """The name of the patch jobs' settings; empty where it is of none."""
    run_ids: tuple[str, ...] = ()
    """Of the runs that the numbers are of."""
    to_last: bool = False
    """Whether each run is told of to its own last checkpoint, and not to the last that all of them have. No column."""


def frame(findings: Iterable[Finding]) -> pd.DataFrame:
    """Findings as a table."""
    rows = [
        {name: None if value == "" else value for name, value in asdict(one).items()}
        | {"runs": len(one.run_ids), "run_ids": " ".join(one.run_ids)}
        for one in findings
    ]
    return typed(pd.DataFrame(rows), FINDINGS)
