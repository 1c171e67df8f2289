"""All findings of an output folder, question by question."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from ..frames import Frames
from ..inference.courses import HeadCourse, courses
from ..inference.families import Family
from ..inference.tables import of_frames
from .finding import Finding, frame
from .heads import heads
from .learned import learned

QUESTIONS = {
    "learned": "Was the task learned, and when?",
    "heads": "Which heads carry what the corruption changes, and since when?",
}
"""In the order in which they are told."""

SITE = "z"
"""The site that heads are told of: their outputs."""

Concluded = tuple[str, Family, Sequence[HeadCourse]]
"""Of the runs of one cell: its name, a site's family and its courses."""


def findings(frames: Frames, damaged: list[str] | None = None) -> pd.DataFrame:
    """The table `findings` of all cells; all their values of prompts are read, group by group.

    Args:
        damaged: as for `frames.load`.
    """
    of_cells = ((key[0], family, courses(family)) for key, family in of_frames(frames, damaged))
    return frame(collect(frames, of_cells))


def collect(frames: Frames, concluded: Iterable[Concluded]) -> list[Finding]:
    """What `frames` and the verdicts of each cell warrant."""
    found = list(learned(frames))
    for cell, family, told in concluded:
        if family.site == SITE:
            found += heads(cell, family, told)
    order = {question: at for at, question in enumerate(QUESTIONS)}
    return sorted(found, key=lambda one: order[one.question])
