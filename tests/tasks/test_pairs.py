from __future__ import annotations

import pytest
import torch

from mi_sweeps.errors import UserError
from mi_sweeps.tasks import ioi
from mi_sweeps.tasks.pairs import make_pairs
from mi_sweeps.tasks.prompts import fill

CHANGED_SLOTS = {"first": ["subject 1"], "second": ["subject 2"], "both": ["subject 1", "subject 2"]}


@pytest.mark.parametrize("corruption", ["first", "second", "both"])
def test_only_the_named_positions_differ(make_test_pairs, corruption):
    pairs = make_test_pairs(corruption, count=12)
    for row, roles in enumerate(pairs.clean.roles):
        different = (pairs.clean.tokens[row] != pairs.corrupted.tokens[row]).nonzero()[:, 0].tolist()
        assert [roles[position] for position in different] == CHANGED_SLOTS[corruption]


@pytest.mark.parametrize(
    ("corruption", "expected"), [("first", 5.0 - 2.0), ("second", 5.0 - 1.0), ("both", 5.0 - 1.5), ("order", 5.0 - 1.5)]
)
def test_logit_difference_is_against_the_subject_that_was_replaced(mini_tokenizer, corruption, expected):
    prompt = fill(
        "When {}, {} and {} met at the park, {} and {} gave a ring to",
        ["Mary", "John", "Tom", "Mary", "John"],
        "Tom",
        2,
    )
    pairs = make_pairs([prompt], corruption, mini_tokenizer, ["Anna", "Paul", "Mary"], prepend_bos=False)
    logits = torch.zeros(1, len(mini_tokenizer))
    for name, value in {"Tom": 5.0, "Mary": 2.0, "John": 1.0}.items():
        logits[0, mini_tokenizer.convert_tokens_to_ids(name)] = value
    assert pairs.logit_diff(logits).tolist() == [expected]


def test_two_name_prompts_have_no_second_subject(mini_tokenizer):
    (prompt, *_) = ioi.splits(["Mary", "John", "Tom", "Anna"], 2, {"train": 2}, seed=0)["train"]
    with pytest.raises(UserError, match="corruption=second: needs 2 subjects.*use corruption=first"):
        make_pairs([prompt], "second", mini_tokenizer, [], prepend_bos=False)
