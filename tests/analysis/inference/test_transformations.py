"""Whether heads that mattered before are transformed, or others added."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest

from mi_sweeps.analysis.inference import changes, turnovers
from mi_sweeps.analysis.inference.transformations import Answer, Change, between, transformation

from .planted import STEPS, planted


def two(before: list[float], after: list[float], **how: object):
    return transformation(planted(np.array([before, after]), **how))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "after", "gap", "expected"),
    [
        (0.5, 0.5, [4, 4], Change.KEPT),
        (0.9, 0.9, [1, 8], Change.STRENGTHENED),  # the same share of more
        (0.9, 0.4, [4, 4], Change.WEAKENED),
        (0.0, 0.9, [4, 4], Change.GAINED),
        (0.9, 0.0, [4, 4], Change.LOST),
        (0.5, 0.03, [1, 17], Change.OUTGROWN),  # 0.5 logits of both
        (0.03, 0.5, [17, 1], Change.LEFT_OVER),
        (-0.5, 0.5, [4, 4], Change.REVERSED),
        (0.0, 0.0, [4, 4], Change.NEITHER),
        (0.05, 0.5, [4, 4], Change.UNDECIDED),
        (0.9, 0.9, [0, 4], Change.UNDEFINED),
    ],
)
def test_planted_changes(before, after, gap, expected):
    assert two([before], [after], gap=np.array(gap, dtype=float), noise=0.02).changes == (expected,)


@pytest.mark.parametrize("runs", [1, 3])
def test_heads_that_were_kept_are_transformed(runs):
    found = two([0.4, 0.3, 0.2, 0.0], [0.5, 0.3, 0.2, 0.0], runs=runs)
    assert found.answer is Answer.TRANSFORMED and found.low > 0.8 and found.value == 1.0
    assert found.kept == ["0.0", "0.1", "0.2"]
    assert ("other seeds" in found.sentence) == (runs > 1) and found.sentence.endswith("transformed.")


def test_heads_that_did_not_change_are_called_unchanged():
    found = two([0.4, 0.3, 0.0], [0.4, 0.3, 0.0])
    assert found.answer is Answer.TRANSFORMED and found.why == "none of them is shown to have changed"
    assert two([0.4, 0.3, 0.0], [0.6, 0.3, 0.0]).why == ""


def test_new_heads_are_added():
    found = two([0.3, 0.0, 0.0, 0.0], [0.2, 0.4, 0.4, 0.0], gap=np.array([4.0, 8.0]))
    assert found.answer is Answer.ADDED and found.high < 0.5
    assert found.value == pytest.approx(0.2, abs=0.03) and found.low <= found.value <= found.high
    assert found.named(Change.GAINED) == ["0.1", "0.2"]


def test_a_head_that_works_the_other_way_is_not_kept():
    found = two([-0.6, 0.2], [0.6, 0.2])
    assert found.answer is Answer.ADDED and found.named(Change.REVERSED) == ["0.0"]


@pytest.mark.parametrize(
    ("before", "after", "how", "why"),
    [
        ([0.4, 0.1, 0.1], [0.5, 0.3, 0.2], {"prompts": 6, "noise": 2.0}, "undecided|matter|told"),
        ([0.5, 0.0], [0.5, 0.4], {}, "^$"),  # a half of both: nothing is open, and it lies between
        ([0.9, 0.0], [0.9, 0.0], {"gap": np.array([0.0, 4.0])}, "no measurable gap at checkpoint 0"),
        ([0.9, 0.0], [0.9, 0.0], {"gap": np.array([4.0, 0.0])}, "no measurable gap at checkpoint 8"),
        ([0.9, 0.0], [0.0, 0.0], {}, "no head is shown to matter"),
        ([0.06, 0.0], [0.9, 0.0], {"noise": 0.3}, "undecided: 0.0"),
    ],
)
def test_otherwise_it_is_undecided(before, after, how, why):
    found = two(before, after, **how)
    assert found.answer is Answer.CANNOT_TELL
    assert found.sentence.count("cannot tell") == 1
    assert re.search(why, found.why), found.why


def test_of_a_head_that_may_have_mattered_there_is_no_value_but_ends():
    found = two([0.06, 0.0], [0.9, 0.0], noise=0.3)
    assert np.isnan(found.value) and (found.low, found.high) == (0.0, 1.0)
    assert "have [0.00, 1.00] of the gain" in found.sentence
    # One that is small beside others leaves an answer.
    found = two([0.9, 0.06, 0.0], [0.9, 0.08, 0.0], noise=0.1)
    assert found.undecided == ("0.1",) and np.isnan(found.value)
    assert found.answer is Answer.TRANSFORMED and 0.85 < found.low < found.high == 1.0


def test_an_answer_is_seldom_wrong():
    """Half of the gain is of a head that mattered before and half of a new one, so neither answer is right; and with
    few prompts heads that were not told from small before are not taken for new ones."""
    half = [two([0.4, 0.0, 0.0], [0.4, 0.4, 0.0], noise=1.0, prompts=24, seed=seed) for seed in range(40)]
    assert np.mean([found.answer is not Answer.CANNOT_TELL for found in half]) <= 0.05
    kept = [two([0.15, 0.1, 0.0], [0.5, 0.4, 0.0], noise=1.0, prompts=12, seed=seed) for seed in range(40)]
    assert np.mean([found.answer is Answer.ADDED for found in kept]) <= 0.05


def test_between_takes_two_of_many_checkpoints():
    whole = planted(np.array([[0.0, 0.9], [0.9, 0.9], [0.9, 0.0]]))
    found = between(whole.jobs, STEPS[0], STEPS[2])
    assert found.family.steps == (STEPS[0], STEPS[2])
    assert found.changes == (Change.GAINED, Change.LOST)
    result = list(changes.of_family(whole, {"r0": {(0, 8)}}))
    assert [one.family.steps for one in result] == [(0, 8), (0, 16)]  # what was crossed, and first against last
    assert not list(changes.of_family(SimpleNamespace(site="v", gain=1), {}))


def test_the_tables_say_which_heads():
    key = ("all", "full", "first")
    found = two([0.3, 0.0], [0.3, 0.9])
    (row,) = changes.row(key, found).to_dict("records")
    assert (row["kept"], row["added"], row["answer"], row["runs"]) == ("0.0", "0.1", "added", 1)
    heads = changes.head_rows(key, found)
    assert heads[["head", "change", "from_verdict", "to_verdict"]].to_numpy().tolist() == [
        [0, "kept", "matters", "matters"],
        [1, "gained", "small", "matters"],
    ]


def test_answers_on_simulated_circuits_are_seldom_wrong():
    result = list(turnovers.simulations(3))
    assert len(result) == 1 + 3 * len(turnovers.WORLDS)
    kept, new = ([line for line in result if line.startswith(name)] for name in ("kept", "new"))
    assert all("added 0%" in line for line in kept) and "transformed 100%" in kept[-1]
    assert all("transformed 0%" in line for line in new) and "added 100%" in new[-1]
