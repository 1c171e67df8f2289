"""Induction: sequences that come twice, with corruptions that remove the answer or the place to look for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mi_sweeps.errors import UserError
from mi_sweeps.tasks import CORRUPTIONS
from mi_sweeps.tasks.induction import Induction
from mi_sweeps.tasks.tokens import NOT_SCORED


def make(tokenizer: Any = None, **values: Any) -> Induction:
    given = {"length": 5, "heldout": 6, "d_vocab": 12 if tokenizer is None else None, "bos": True, "seed": 0}
    return Induction(tokenizer, **{**given, **values})


def test_the_second_time_is_the_first_without_its_last_token() -> None:
    batch = make().splits["heldout"]
    assert batch.tokens[:, 0].tolist() == [0] * 6
    first, again = batch.tokens[:, 1:6], batch.tokens[:, 6:]
    assert torch.equal(again, first[:, :-1])
    assert torch.equal(batch.answers, first[:, -1])
    assert all(len(set(row)) == 5 and 0 not in row for row in first.tolist())
    assert batch.targets is not None
    assert (batch.targets[:, :6] == NOT_SCORED).all()
    assert torch.equal(batch.targets[:, 6:], first[:, 1:])
    assert batch.roles[0] == (
        *("bos", "first 1", "first 2", "first 3", "previous occurrence", "successor"),
        *("again 1", "again 2", "again 3", "end"),
    )


@pytest.mark.parametrize(
    ("corruption", "role"), [("successor", "successor"), ("previous_occurrence", "previous occurrence")]
)
def test_a_corruption_replaces_one_token_by_one_that_is_not_there(corruption: str, role: str) -> None:
    pairs = make().pairs(corruption, 4)
    different = pairs.clean.tokens != pairs.corrupted.tokens
    assert different.sum(dim=1).tolist() == [1] * 4
    place = pairs.clean.roles[0].index(role)
    new = pairs.corrupted.tokens[:, place]
    assert different[:, place].all()
    assert not (pairs.clean.tokens == new[:, None]).any()
    assert torch.equal(pairs.clean.subjects[:, 0], new)
    assert corruption in CORRUPTIONS["mi_sweeps.tasks.induction.Induction"]


def test_a_model_that_copies_wins_and_one_that_does_not_does_not() -> None:
    task = make()
    batch = task.splits["heldout"]
    prompts, positions, targets = batch.scored
    right = 2.0 * torch.nn.functional.one_hot(targets, 12).float()
    found = {name: value for name, value, _ in task.metrics(right, batch)}
    assert (found["accuracy"], found["win_rate"], found["logit_diff_replaced"]) == (1.0, 1.0, 2.0)
    wrong = torch.nn.functional.one_hot(batch.tokens[prompts, positions], 12).float()
    assert {name: value for name, value, _ in task.metrics(wrong, batch)}["accuracy"] == 0.0


def test_training_sequences_are_the_same_whenever_asked_and_no_held_out_ones() -> None:
    task = make(length=8, d_vocab=64)
    one, again, other = task.training(3, 4, 0), task.training(3, 4, 0), task.training(4, 4, 0)
    assert torch.equal(one.tokens, again.tokens)
    assert not torch.equal(one.tokens, other.tokens)
    held = {tuple(row) for row in task.splits["heldout"].tokens.tolist()}
    assert not held & {tuple(row) for row in (*one.tokens.tolist(), *other.tokens.tolist())}


def test_a_tokenizer_gives_its_ordinary_tokens(mini_tokenizer) -> None:
    tokens = make(mini_tokenizer, bos=False, heldout=400).splits["heldout"].tokens
    assert set(tokens.unique().tolist()) == set(range(len(mini_tokenizer))) - {*mini_tokenizer.all_special_ids}
    assert tokens.shape == (400, 9)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"d_vocab": None}, "task.d_vocab: the model has no tokenizer; give the number of tokens"),
        ({"length": 11}, "task.length=11: give 3 to 10 tokens"),
        ({"length": 2}, "task.length=2: give 3 to 10 tokens"),
        ({"heldout": 0}, "task.heldout=0: give at least 1 sequence"),
    ],
)
def test_sizes_that_make_no_sense_are_one_line(values, says) -> None:
    with pytest.raises(UserError, match=rf"\A{says}"):
        make(**values)


def test_a_tokenizer_and_what_does_not_fit_it_are_one_line(mini_tokenizer) -> None:
    with pytest.raises(UserError, match=r"\Atask\.bos=true: .* has no such token; use task\.bos=false\Z"):
        make(mini_tokenizer)
    with pytest.raises(UserError, match=r"\Atask\.d_vocab=9: the model's tokenizer decides that; give null\Z"):
        make(mini_tokenizer, d_vocab=9, bos=False)
    with pytest.raises(
        UserError, match=r"\Acorruption=first: this task has no such corruption; choose among successor"
    ):
        make().pairs("first", 1)
