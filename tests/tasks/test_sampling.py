"""The words that prompts are drawn from: one token each, in numbers that can be balanced."""

from __future__ import annotations

import random

import pytest

from mi_sweeps.errors import UserError
from mi_sweeps.tasks.sampling import choose, counts, usable


def test_words_of_several_tokens_are_left_out_with_a_word(words) -> None:
    assert usable(["Mary", "Xaver", "John"], words, "names", 2) == (
        ["Mary", "John"],
        "1 of 3 names are not one token: Xaver",
    )
    with pytest.raises(
        UserError, match=r"\Atask: 1 of 2 names are one token .*, but 2 are needed \(not: Xaver\); use .*"
    ):
        usable(["Mary", "Xaver"], words, "names", 2)


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ({"train": 4}, "give positive numbers for train and heldout"),
        ({"train": 4, "heldout": 0}, "give positive numbers for train and heldout"),
        ({"train": 4, "heldout": 3}, "task.prompts.heldout=3: cannot be balanced over 2 groups; use a multiple"),
    ],
)
def test_numbers_of_prompts_that_are_wrong_are_one_line(prompts, says) -> None:
    with pytest.raises(UserError, match=says):
        counts(prompts, 2)


def test_more_prompts_than_there_are_is_one_line() -> None:
    with pytest.raises(UserError, match=r"\Atask\.prompts: 3 rows are requested but only 2 exist; ask for fewer\Z"):
        choose([1, 2], 3, random.Random(0), "rows")
