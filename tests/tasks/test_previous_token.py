"""The task of the previous token: what its sequences, targets and corruptions always are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mi_sweeps.errors import UserError
from mi_sweeps.tasks import REPLACED
from mi_sweeps.tasks.previous_token import BOS, PreviousToken
from mi_sweeps.tasks.tokens import NOT_SCORED, Batch

SIZES = {"d_vocab": 8, "length": 6, "first_scored": 2, "heldout": 10, "seed": 0}


def make(**sizes: Any) -> PreviousToken:
    return PreviousToken(None, **{**SIZES, **sizes})


@st.composite
def tasks(draw: st.DrawFn) -> dict[str, int]:
    length = draw(st.integers(4, 12))
    return {
        "d_vocab": draw(st.integers(3, 20)),
        "length": length,
        "first_scored": draw(st.integers(2, length - 1)),
        "heldout": draw(st.integers(1, 12)),
        "seed": draw(st.integers(0, 100)),
    }


def is_sound(batch: Batch, sizes: dict[str, int]) -> None:
    assert (batch.tokens[:, 0] == BOS).all()
    rest = batch.tokens[:, 1:]
    assert rest.min() >= 1 and rest.max() < sizes["d_vocab"]
    assert (batch.end == sizes["length"] - 1).all()
    assert torch.equal(batch.answers, batch.tokens[:, -2])
    assert (batch.targets[:, : sizes["first_scored"]] == NOT_SCORED).all()
    prompts, positions, targets = batch.scored
    assert len(targets) == len(batch) * (sizes["length"] - sizes["first_scored"])
    assert torch.equal(targets, batch.tokens[prompts, positions - 1])
    assert (targets != BOS).all(), "BOS is never asked for: it would be known from its place"


@given(sizes=tasks(), step=st.integers(0, 1000), seed=st.integers(0, 100), size=st.integers(1, 9))
def test_targets_are_the_tokens_before(sizes: dict[str, int], step: int, seed: int, size: int) -> None:
    task = make(**sizes)
    heldout, training = task.splits["heldout"], task.training(step, size, seed)
    assert (len(heldout), len(training)) == (sizes["heldout"], size)
    is_sound(heldout, sizes)
    is_sound(training, sizes)


@given(sizes=tasks(), step=st.integers(0, 1000), seed=st.integers(0, 100))
def test_a_step_is_the_same_whenever_it_is_asked_for(sizes: dict[str, int], step: int, seed: int) -> None:
    one, other = make(**sizes), make(**sizes)
    later = one.training(step + 1, 3, seed)
    assert torch.equal(one.training(step, 3, seed).tokens, other.training(step, 3, seed).tokens)
    assert torch.equal(later.tokens, other.training(step + 1, 3, seed).tokens)
    assert torch.equal(one.splits["heldout"].tokens, other.splits["heldout"].tokens)


def test_steps_and_seeds_differ_and_share_no_held_out_sequence() -> None:
    task = make(d_vocab=50, length=12, heldout=64)
    drawn = [task.training(step, 64, seed).tokens for step in range(5) for seed in range(3)]
    rows = [tuple(row) for tokens in [task.splits["heldout"].tokens, *drawn] for row in tokens.tolist()]
    assert len(set(rows)) == len(rows)


def test_held_out_sequences_are_of_task_seed_and_not_of_the_run_s() -> None:
    one, other = make(), make(seed=1)
    assert not torch.equal(one.splits["heldout"].tokens, other.splits["heldout"].tokens)
    assert torch.equal(one.training(3, 4, 0).tokens, other.training(3, 4, 0).tokens)


def test_tokens_are_uniform_and_independent_of_their_place() -> None:
    tokens = make(d_vocab=6, length=11, heldout=4000).splits["heldout"].tokens[:, 1:]
    share = torch.stack([(tokens == token).float().mean(dim=0) for token in range(1, 6)])
    assert (share - 0.2).abs().max() < 0.03
    assert ((tokens[:, 1:] == tokens[:, :-1]).float().mean() - 0.2).abs() < 0.02


@given(sizes=tasks(), corruption=st.sampled_from(sorted(REPLACED)), count=st.integers(1, 20))
def test_a_corruption_changes_one_token_and_no_other(sizes: dict[str, int], corruption: str, count: int) -> None:
    task = make(**sizes)
    pairs = task.pairs(corruption, count)
    n = min(count, sizes["heldout"])
    assert len(pairs.clean) == len(pairs.corrupted) == n
    assert torch.equal(pairs.clean.tokens, task.splits["heldout"].tokens[:n])
    prompts, positions = (pairs.clean.tokens != pairs.corrupted.tokens).nonzero(as_tuple=True)
    assert prompts.tolist() == list(range(n))
    assert (positions == sizes["length"] - REPLACED[corruption]).all()
    assert (pairs.corrupted.tokens[:, 1:] != BOS).all()
    against = pairs.clean.subjects[:, 0]
    if corruption == "previous":
        assert torch.equal(against, pairs.corrupted.answers)
        assert (against != pairs.clean.answers).all()
    else:
        assert torch.equal(pairs.clean.answers, pairs.corrupted.answers)


@given(corruption=st.sampled_from(sorted(REPLACED)))
def test_a_model_that_says_the_previous_token_is_measured_so(corruption: str) -> None:
    """A logit of 3 for the token before and 0 for all others."""
    pairs = make().pairs(corruption, 10)

    def said(batch: Batch) -> torch.Tensor:
        return 3 * torch.nn.functional.one_hot(batch.answers, 8).float()

    # The control's answer is measured against a token that may be equal to it.
    differ = pairs.clean.subjects[:, 0] != pairs.clean.answers
    assert torch.equal(pairs.logit_diff(said(pairs.clean)), 3.0 * differ)
    if corruption == "previous":
        assert (pairs.logit_diff(said(pairs.corrupted)) == -3).all()
    else:
        assert torch.equal(pairs.logit_diff(said(pairs.clean)), pairs.logit_diff(said(pairs.corrupted)))


def test_roles_count_from_the_end_and_what_is_read_is_what_is_asked() -> None:
    batch = make().splits["heldout"]
    assert batch.roles[0] == ("end-5", "end-4", "end-3", "end-2", "end-1", "end")
    first = batch.prompts[0]
    assert first.text.split() == [str(token) for token in batch.tokens[0].tolist()]
    assert first.answer == first.text.split()[-2]


def test_accuracy_is_over_all_scored_positions_and_the_win_rate_at_the_last() -> None:
    task = make(heldout=4)
    batch = task.splits["heldout"]
    prompts, positions, targets = batch.scored
    logits = torch.nn.functional.one_hot(targets, 8).float()
    wrong = (positions == 3) | ((positions == 5) & (prompts == 0))
    logits[wrong] = torch.nn.functional.one_hot(targets[wrong] % 7 + 1, 8).float()
    measured = {name: (value, n) for name, value, n in task.metrics(logits, batch)}
    assert measured["accuracy"] == (pytest.approx(11 / 16), 16)
    assert measured["win_rate"] == (0.75, 4)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"d_vocab": 2}, r"task\.d_vocab=2: give at least 3"),
        ({"length": 3}, r"task\.length=3: give at least 4"),
        ({"first_scored": 1}, r"task\.first_scored=1: give 2 .* to 5"),
        ({"first_scored": 6}, r"task\.first_scored=6: give 2 .* to 5"),
        ({"heldout": 0}, r"task\.heldout=0: give at least 1"),
    ],
)
def test_sizes_that_make_no_sense_are_one_line(sizes: dict[str, int], says: str) -> None:
    with pytest.raises(UserError, match=rf"\A{says}[^\n]*\Z"):
        make(**sizes)


def test_a_corruption_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(UserError, match=r"\Acorruption=first: .*choose among previous, earlier\Z"):
        make().pairs("first", 4)
