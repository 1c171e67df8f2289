"""One finding with its evidence."""

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
"""The columns of the table `findings`. Run ids are separated by spaces."""


@dataclass(frozen=True)
class Finding:
    """A sentence and its evidence."""

    question: str
    """The question that it answers, one of `findings.questions.QUESTIONS`."""
    setting: str
    """Its setting, or the names of several."""
    corruption: str
    """Its corruptions, separated by spaces; may be empty."""
    statement: str
    """A sentence that can be read without the tables."""
    verdict: str
    """The verdict of `inference`: matters, formed, agree, cannot tell, …"""
    estimate: float = float("nan")
    low: float = float("nan")
    """Ends of the 95% interval; NaN if there is none."""
    high: float = float("nan")
    unit: str = ""
    """Unit of the estimate: share, recovered, logits, step."""
    n: int | None = None
    """Prompts."""
    is_weak: bool = False
    """Whether more prompts or seeds are needed for a firmer answer."""
    scope: str = ""
    """What the interval generalises to: other prompts, other seeds."""
    table: str = ""
    """The exported table that has the numbers."""
    patching: str = ""
    """Name of the patch jobs' settings; may be empty."""
    run_ids: tuple[str, ...] = ()
    """The runs behind the numbers."""
    to_last: bool = False
    """Whether each run counts up to its own last checkpoint, not only to the last shared one. Not a column."""


def frame(findings: Iterable[Finding]) -> pd.DataFrame:
    """Findings as a table."""
    rows = [
        {name: None if value == "" else value for name, value in asdict(one).items()}
        | {"runs": len(one.run_ids), "run_ids": " ".join(one.run_ids)}
        for one in findings
    ]
    return typed(pd.DataFrame(rows), FINDINGS)
