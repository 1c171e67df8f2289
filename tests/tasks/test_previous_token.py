"""The previous-token task: what always holds for its sequences, targets and corruptions."""

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
    length, bos = draw(st.integers(4, 12)), draw(st.booleans())
    return {
        "bos": bos,
        "d_vocab": draw(st.integers(3, 20)),
        "length": length,
        "first_scored": draw(st.integers(2 if bos else 1, length - 1)),
        "heldout": draw(st.integers(1, 12)),
        "seed": draw(st.integers(0, 100)),
    }


def is_sound(batch: Batch, sizes: dict[str, int], *, bos: bool) -> None:
    assert ((batch.tokens[:, 0] == BOS) == bos).all()
    rest = batch.tokens[:, int(bos) :]
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
    is_sound(heldout, sizes, bos=sizes["bos"])
    is_sound(training, sizes, bos=sizes["bos"])
    is_sound(task.splits["without_bos"], sizes, bos=False)


@given(sizes=tasks(), step=st.integers(0, 1000), seed=st.integers(0, 100))
def test_a_step_is_the_same_whenever_it_is_drawn(sizes: dict[str, int], step: int, seed: int) -> None:
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


def test_without_bos_no_token_is_distinguished() -> None:
    """What a place is known by is gone: the first token is like all others, in training and held out."""
    task = make(d_vocab=6, length=5, heldout=6000, bos=False)
    for tokens in (task.splits["heldout"].tokens, task.training(0, 6000, 0).tokens):
        share = torch.stack([(tokens == token).float().mean(dim=0) for token in range(6)])
        assert (share[0] == 0).all()
        assert (share[1:] - 0.2).abs().max() < 0.02, "at every place alike"


def test_with_and_without_bos_sequences_differ_in_the_first_token_alone() -> None:
    one, other = make(bos=True), make(bos=False)
    for with_bos, without in (
        (one.splits["heldout"], other.splits["heldout"]),
        (one.training(3, 4, 0), other.training(3, 4, 0)),
        (one.splits["heldout"], one.splits["without_bos"]),
    ):
        assert torch.equal(with_bos.tokens[:, 1:], without.tokens[:, 1:])
        assert torch.equal(with_bos.targets, without.targets)
        assert (with_bos.tokens[:, 0] != without.tokens[:, 0]).all()
    assert torch.equal(one.splits["without_bos"].tokens, other.splits["without_bos"].tokens)
    assert "BOS first" in one.audit["heldout"] and "no BOS" in other.audit["heldout"]


@given(sizes=tasks(), corruption=st.sampled_from(sorted(REPLACED)), count=st.integers(1, 20))
def test_a_corruption_changes_one_token_and_no_other(sizes: dict[str, int], corruption: str, count: int) -> None:
    sizes = sizes | {"bos": True, "first_scored": max(2, sizes["first_scored"])}
    task = make(**sizes)
    pairs = task.pairs(corruption, count)
    n = min(count, sizes["heldout"])
    assert len(pairs.clean) == len(pairs.corrupted) == n
    assert torch.equal(pairs.clean.tokens, task.splits["heldout"].tokens[:n])
    prompts, positions = (pairs.clean.tokens != pairs.corrupted.tokens).nonzero(as_tuple=True)
    assert prompts.tolist() == list(range(n))
    assert (positions == REPLACED[corruption] % sizes["length"]).all()
    assert (pairs.corrupted.tokens[:, 1:] != BOS).all()
    assert (pairs.corrupted.tokens[:, 0] != BOS).all() == (corruption == "bos")
    against = pairs.clean.subjects[:, 0]
    if corruption == "previous":
        assert torch.equal(against, pairs.corrupted.answers)
        assert (against != pairs.clean.answers).all()
    else:
        assert torch.equal(pairs.clean.answers, pairs.corrupted.answers)
    if corruption == "bos":
        before = pairs.clean.tokens[:, -3]
        assert (against != pairs.clean.answers).all() and (against != BOS).all()
        assert ((against == before) | (before == pairs.clean.answers)).all()


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
        ({"first_scored": 0, "bos": False}, r"task\.first_scored=0: give 1 .* to 5"),
        ({"bos": 0}, r"task\.bos=0: give true or false"),
        ({"bos": "no"}, r"task\.bos=no: give true or false"),
        ({"first_scored": 6}, r"task\.first_scored=6: give 2 .* to 5"),
        ({"heldout": 0}, r"task\.heldout=0: give at least 1"),
    ],
)
def test_sizes_that_make_no_sense_are_one_line(sizes: dict[str, int], says: str) -> None:
    with pytest.raises(UserError, match=rf"\A{says}[^\n]*\Z"):
        make(**sizes)


def test_a_corruption_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(UserError, match=r"\Acorruption=first: .*choose among previous, earlier, bos\Z"):
        make().pairs("first", 4)


def test_bos_cannot_be_replaced_where_there_is_none() -> None:
    with pytest.raises(UserError, match=r"\Acorruption=bos: with task\.bos=false [^\n]*\Z"):
        make(bos=False).pairs("bos", 4)
