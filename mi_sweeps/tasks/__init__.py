"""Prompts, answers, subjects and corruptions, and the token batches made from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Corruption:
    """A corruption of prompts with names. `mi_sweeps.tasks.corruption` makes the corrupted prompts."""

    against: tuple[int, ...]
    """Indices of the subjects that the answer is measured against."""
    needs: int
    """Subjects that a prompt must have."""
    label: str = ""
    """Title of what is measured under it without patching; "" for "NAME corruption"."""


OF_NAMES = {
    "first": Corruption((0,), 1, "answer against the first subject"),
    "second": Corruption((1,), 2, "answer against the second subject"),
    "both": Corruption((0, 1), 2),
    "order": Corruption((0, 1), 2),
    "trio": Corruption((0,), 2),
}
"""The corruptions of prompts with names, in the order in which they are shown."""

COMPARED_SUBJECTS = ("first", "second")
"""The two corruptions whose difference is shown, always the second minus the first."""


PREVIOUS_TOKEN = "mi_sweeps.tasks.previous_token.PreviousToken"
"""The previous-token task's `_target_`."""

OF_NUMBERS = (PREVIOUS_TOKEN, "mi_sweeps.tasks.induction.Induction")
"""Tasks that need no tokenizer."""

REPLACED = {"previous": -2, "earlier": -3, "bos": 0}
"""Index of the token that each corruption of the previous-token task replaces."""

CORRUPTIONS: dict[str, tuple[str, ...]] = {
    PREVIOUS_TOKEN: tuple(REPLACED),
    "mi_sweeps.tasks.greater_than.task": ("start_year", "noun"),
    "mi_sweeps.tasks.gender.task": ("name", "same_gender"),
    "mi_sweeps.tasks.sva.task": ("subject", "attractor"),
    "mi_sweeps.tasks.docstring.task": ("random_answer", "random_doc"),
    "mi_sweeps.tasks.induction.Induction": ("successor", "previous_occurrence"),
}
"""The corruptions of each built-in task, by `_target_`. Tasks with names have those of OF_NAMES that their prompts
have enough subjects for."""

ORDER = (*OF_NAMES, *(name for names in CORRUPTIONS.values() for name in names))


def in_order(corruptions: Iterable[str]) -> list[str]:
    """Sort corruptions as they are shown: the run's own task first, unknown ones last.

    Args:
        corruptions: named as by `mi_sweeps.store.measured.prompts_label`.
    """

    def rank(name: str) -> tuple[str, int]:
        prompts, _, corruption = name.rpartition("-")
        return prompts, ORDER.index(corruption) if corruption in ORDER else len(ORDER)

    return sorted(dict.fromkeys(corruptions), key=rank)


def label(corruption: str) -> str:
    """Title of what is measured under a corruption without patching."""
    known = OF_NAMES.get(corruption)
    return known.label if known and known.label else f"{corruption} corruption"


NO_BOS = "corruption=bos: with task.bos=false no sequence begins with BOS; use corruption=previous, or task.bos=true"
