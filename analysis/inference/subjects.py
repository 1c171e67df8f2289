"""Tests whether two corruptions, such as `first` and `second`, act through the same heads.

Equivalence has to be shown; the absence of a difference is not enough. A head is alike if the fractions of both gaps
that it recovers differ by less than DELTA, by two one-sided tests (Schuirmann 1987, J. Pharmacokinet. Biopharm. 15),
paired by prompt and run (`inference.differences`). The chance that any comparison is wrong is 5%.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from .differences import Comparison, Difference, difference
from .families import Family, Place


class Answer(Enum):
    """Whether two corruptions have the same heads at a checkpoint."""

    SAME = "same heads"
    """Every head that matters under either recovers the same fraction under both."""
    OTHER_AMOUNTS = "same heads, other amounts"
    """Every head that matters under either matters under both, with the same sign; some are shown to recover more of
    one gap than of the other."""
    AMOUNTS_UNDECIDED = "same heads, amounts undecided"
    """As above, but for some heads it is undecided whether they recover the same fraction."""
    DIFFERENT = "not all the same heads"
    """Some head matters under one of them and is small, or has the opposite sign, under the other, and the difference
    is shown."""
    CANNOT_TELL = "cannot tell"
    UNDEFINED = "undefined"
    """Under one corruption, clean and corrupted prompts do not differ measurably."""


@dataclass(frozen=True)
class Subjects:
    """Two corruptions of the same runs, head by head."""

    first: Family
    second: Family
    difference: Difference

    def at(self, family: Family, step: int) -> np.ndarray:
        """Indices in a family of the difference's places at a checkpoint."""
        start = family.at(step).start
        return start + np.array([family.places.index(place) for place in self.difference.places])


@dataclass(frozen=True)
class SubjectsAnswer:
    """The answer at a checkpoint, from the heads that matter under either corruption."""

    step: int
    answer: Answer
    alike: tuple[Place, ...]
    differ: tuple[Place, ...]
    """The heads that differ in how much they recover or in whether they matter."""
    undecided: tuple[Place, ...]


def subjects(first: Family, second: Family) -> Subjects | None:
    """Compare two corruptions; None if they share no head or checkpoint, or without values by prompt."""
    found = difference(first, second)
    return None if found is None else Subjects(first, second, found)


def answer(found: Subjects, step: int) -> SubjectsAnswer:
    """Whether both corruptions have the same heads at a checkpoint.

    Heads that are small under both belong to neither. A head that is undecided under either might belong to one only,
    so `same heads` requires that it is alike too.
    """
    families = (found.first, found.second)
    at = [found.at(family, step) for family in families]
    verdicts = [family.judged.words[own] for family, own in zip(families, at, strict=True)]
    recovered = [family.estimate.recovered[own] for family, own in zip(families, at, strict=True)]
    compared = found.difference.words[found.difference.at(step)]
    alike: list[Place] = []
    differ: list[Place] = []
    undecided: list[Place] = []
    is_other, is_open = False, False
    for place, one, other, words, a, b in zip(found.difference.places, *verdicts, compared, *recovered, strict=True):
        both = {str(one), str(other)}
        is_alike, differs = words == Comparison.ALIKE.value, words in (Comparison.MORE.value, Comparison.LESS.value)
        if "matters" not in both:
            is_open |= both != {"small"} and not is_alike
            continue
        (alike if is_alike else differ if differs else undecided).append(place)
        of_one = both == {"matters", "small"} or (both == {"matters"} and a * b < 0)
        is_other |= differs and of_one
        is_open |= not is_alike and not (both == {"matters"} and a * b > 0) and not (differs and of_one)
    lists = tuple(alike), tuple(differ), tuple(undecided)
    if "undefined" in {*verdicts[0], *verdicts[1]}:
        return SubjectsAnswer(step, Answer.UNDEFINED, *lists)
    if is_other:
        return SubjectsAnswer(step, Answer.DIFFERENT, *lists)
    if is_open or not any(lists):
        return SubjectsAnswer(step, Answer.CANNOT_TELL, *lists)
    amounts = Answer.OTHER_AMOUNTS if differ else Answer.AMOUNTS_UNDECIDED if undecided else Answer.SAME
    return SubjectsAnswer(step, amounts, *lists)
