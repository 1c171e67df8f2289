"""The questions that findings answer, and the functions that answer them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pandas as pd

from . import edges
from .finding import Finding
from .kept import kept
from .looked import looked
from .onsets import onsets
from .seeds import seeds
from .sets import circuits
from .subjects import subjects
from .sudden import sudden
from .transformed import transformed

QUESTIONS = {
    "learned": "Was the task learned, and when?",
    "heads": "Which heads carry what the corruption changes, and since when?",
    "subjects": "Do the corruptions go through the same heads?",
    "onsets": "Does a head come to matter earlier under one corruption than under another?",
    "seeds": "Do the runs agree?",
    "looked": "Where do heads look, and what has changed?",
    "sudden": "Is there a phase transition?",
    "circuits": "Which circuit is faithful, and is it the same one at other checkpoints?",
    "transformed": "Does training transform heads, or add others?",
    "kept": "Can the model still do what it could before?",
}
"""In the order in which they are shown."""

Answers = Callable[[pd.DataFrame], Iterator[Finding]]

OF_TABLES: dict[str, Answers] = {
    **{"subjects": subjects, "onsets": onsets, "agreement": seeds, "attention": looked},
    **{"transitions": sudden, "transformations": transformed, "retention": kept},
    **{"faithfulness": circuits, "edge_effects": edges.effects},
    **{"edge_circuits": edges.circuits, "edge_bounds": edges.missed},
}
"""Functions by the name of the table that they read."""


def arranged(found: Sequence[Finding]) -> list[Finding]:
    """Sort findings by question; if patch jobs have several settings, each sentence names its own."""
    order = {question: at for at, question in enumerate(QUESTIONS)}
    settings: dict[tuple[str, ...], set[str]] = {}
    for one in found:
        settings.setdefault((one.question, one.setting, one.corruption), set()).update({one.patching} - {""})
    kept = [
        replace(one, statement=f"With patching {one.patching}: {one.statement[0].lower()}{one.statement[1:]}")
        if one.patching and len(settings[one.question, one.setting, one.corruption]) > 1
        else one
        for one in found
    ]
    return sorted(kept, key=lambda one: order[one.question])
