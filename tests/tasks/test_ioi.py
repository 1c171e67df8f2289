"""Generated prompts: exactly balanced, and evaluated on names and templates that are not in training."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from mi_sweeps.errors import UserError
from mi_sweeps.models.mini import corpus
from mi_sweeps.tasks.corruption import trios
from mi_sweeps.tasks.ioi import orders, single_token_names, splits, task, templates
from mi_sweeps.tasks.lexicon import MINI_NAMES, NAMES
from mi_sweeps.tasks.prompts import Prompt

FEW = NAMES[:14]
sixes = st.integers(1, 6).map(lambda count: 6 * count)


def order(prompt: Prompt) -> tuple[int, str]:
    return prompt.answer_place, prompt.subject_order


def make(tokenizer: PreTrainedTokenizerBase, **changes: Any) -> dict[str, list[Prompt]]:
    """The prompts of a small task with some arguments changed."""
    arguments: dict[str, Any] = {"n_names": 3, "prompts": {"train": 24, "heldout": 12}, "names": None, "seed": 0}
    return task(tokenizer, **{**arguments, **changes}).splits


def test_orders_by_hand() -> None:
    assert orders(2) == [(0, (1,)), (1, (0,))]
    assert orders(3) == [(0, (1, 2)), (0, (2, 1)), (1, (0, 2)), (1, (2, 0)), (2, (0, 1)), (2, (1, 0))]


@given(train=sixes, heldout=sixes, seed=st.integers(0, 2**32))
@settings(max_examples=25)
def test_every_split_is_balanced_over_the_six_orders(train: int, heldout: int, seed: int) -> None:
    made = splits(FEW, 3, {"train": train, "heldout": heldout}, seed)
    for split, count in (("train", train), ("heldout", heldout)):
        assert len(made[split]) == count
        assert Counter(map(order, made[split])) == dict.fromkeys(
            [(place, kind) for place in (1, 2, 3) for kind in ("same", "swapped")], count // 6
        )


@given(train=sixes, heldout=sixes, seed=st.integers(0, 2**32))
@settings(max_examples=25)
def test_evaluation_shares_no_name_set_and_no_template_with_training(train: int, heldout: int, seed: int) -> None:
    made = splits(FEW, 3, {"train": train, "heldout": heldout}, seed)
    every = [prompt.name_set for prompts in made.values() for prompt in prompts]
    assert len(set(every)) == len(every)
    used = [{prompt.template for prompt in made[split]} for split in ("train", "heldout")]
    assert not used[0] & used[1]


@given(seed=st.integers(0, 2**32))
@settings(max_examples=10)
def test_a_template_is_of_training_or_of_evaluation(seed: int) -> None:
    training, evaluation = templates(seed)
    assert not set(training) & set(evaluation)
    assert len(training) == 3 * len(evaluation) == 480


@pytest.mark.parametrize("n_names", [2, 3])
def test_the_answer_is_the_one_listed_name_that_is_not_repeated(n_names: int) -> None:
    for prompt in splits(FEW, n_names, {"train": 12, "heldout": 12}, 0)["train"]:
        words = prompt.text.replace(",", "").replace(".", "").split()
        assert len(prompt.name_set) == n_names
        assert {name: words.count(name) for name in prompt.listed} == {
            name: 1 if name == prompt.answer else 2 for name in prompt.listed
        }
        assert not prompt.text.endswith(" ") and "  " not in prompt.text


def test_two_names_are_balanced_over_their_two_orders() -> None:
    made = splits(FEW, 2, {"train": 12, "heldout": 6}, 0)
    assert Counter(prompt.answer_place for prompt in made["train"]) == {1: 6, 2: 6}
    assert Counter(prompt.answer_place for prompt in made["heldout"]) == {1: 3, 2: 3}


def test_a_seed_gives_the_same_prompts_again_and_another_seed_others() -> None:
    counts = {"train": 12, "heldout": 6}
    assert splits(FEW, 3, counts, 1) == splits(FEW, 3, counts, 1)
    assert splits(FEW, 3, counts, 1) != splits(FEW, 3, counts, 2)


def test_names_of_mini(mini_tokenizer: PreTrainedTokenizerBase) -> None:
    assert single_token_names(mini_tokenizer) == list(NAMES[:MINI_NAMES])


def test_task_says_which_names_it_may_use_and_describes_itself(mini_tokenizer: PreTrainedTokenizerBase) -> None:
    made = task(mini_tokenizer, n_names=3, prompts={"train": 12, "heldout": 6, "two_name": 4}, names=None, seed=0)
    assert {split: len(prompts) for split, prompts in made.splits.items()} == {"train": 12, "heldout": 6, "two_name": 4}
    assert made.names == made.audit["names"] == list(NAMES[:MINI_NAMES])
    shared = made.audit["overlap"]["heldout"]
    assert (shared["same_text"], shared["same_name_set"]) == (0, 0)
    assert {len(prompt.listed) for prompt in made.splits["two_name"]} == {2}


@pytest.mark.parametrize("n_names", [2, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_with_disjoint_names_no_evaluated_name_was_trained_on(
    n_names: int, seed: int, mini_tokenizer: PreTrainedTokenizerBase
) -> None:
    """And of a third of the names, so that they are as many as can be without taking what training needs."""
    prompts = {"train": 96, "heldout": 48, "two_name": 24}
    made = task(mini_tokenizer, n_names=n_names, prompts=prompts, names=None, seed=seed, disjoint_names=True)
    assert {split: len(rows) for split, rows in made.splits.items()} == prompts
    used = {split: set().union(*(prompt.name_set for prompt in rows)) for split, rows in made.splits.items()}
    assert not used["train"] & (used["heldout"] | used["two_name"])
    assert len(used["heldout"]) == 16
    assert made.audit["overlap"]["heldout"] == {
        **{"same_text": 0, "same_name_set": 0, "same_two_names": 0, "same_name": 0}
    }
    without = task(mini_tokenizer, n_names=n_names, prompts=prompts, names=None, seed=seed).audit["overlap"]["heldout"]
    assert without["same_name"] == 48


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_task_seed_draws_other_prompts_and_templates_that_mini_saw_are_reported(
    seed: int, mini_tokenizer: PreTrainedTokenizerBase
) -> None:
    made = task(mini_tokenizer, n_names=3, prompts={"train": 6, "heldout": 6}, names=None, seed=seed)
    held_out = {"|".join((a, b.split()[0], c.strip(), d.split()[0])) for a, b, c, d in corpus.HELD_OUT_TEMPLATES}
    new = all(prompt.template in held_out for prompt in made.splits["heldout"])
    assert new == (seed == 0)
    assert [note.split(" of the")[0] for note in made.audit.get("notes", [])] == {
        **{0: [], 1: ["task.seed=1: the model saw 118"], 2: ["task.seed=2: the model saw 113"]}
    }[seed]


def test_given_names_are_the_only_ones_used(mini_tokenizer: PreTrainedTokenizerBase) -> None:
    made = make(mini_tokenizer, names=list(FEW))
    assert set().union(*(prompt.name_set for prompts in made.values() for prompt in prompts)) <= set(FEW)


def test_a_name_given_twice_is_one_name(mini_tokenizer: PreTrainedTokenizerBase) -> None:
    made = make(mini_tokenizer, names=[*FEW[:8], *FEW[:8]])
    assert all(len(prompt.name_set) == 3 for prompts in made.values() for prompt in prompts)


def test_two_name_evaluation_of_the_two_name_task_is_new_too(mini_tokenizer: PreTrainedTokenizerBase) -> None:
    made = make(mini_tokenizer, n_names=2, prompts={"train": 40, "heldout": 10, "two_name": 10}, names=list(FEW))
    every = [prompt.name_set for prompts in made.values() for prompt in prompts]
    assert len(set(every)) == len(every)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"n_names": 4}, r"task\.n_names=4: use 2 or 3"),
        ({"prompts": {"train": 12}}, r"task\.prompts=.*heldout"),
        ({"prompts": {"train": 0, "heldout": 6}}, r"task\.prompts=.*positive"),
        ({"prompts": {"train": 12, "heldout": -6}}, r"task\.prompts=.*positive"),
        ({"prompts": {"train": 12, "heldout": 6, "test": 6}}, r"task\.prompts=.*give .*train, heldout"),
        ({"prompts": {"train": 13, "heldout": 6}}, r"task.*13 prompts .* 6 orders; use a multiple of 6"),
        ({"prompts": {"train": 12, "heldout": 6, "two_name": 3}}, r"task.*3 prompts .* 2 orders; use a multiple of 2"),
        ({"names": ["Mary", "John", "Tom", "Kate"]}, r"task: 36 prompts .* 4 names give 4; ask for fewer .*"),
        (
            {"disjoint_names": True, "names": list(NAMES[:9])},
            r"task\.disjoint_names=true: 24 training prompts need 7 names and the evaluated ones 6 others, 13 in all, "
            r"but there are only 9; ask for fewer prompts \(task\.prompts\) or give more names",
        ),
        ({"disjoint_names": "yes"}, r"task\.disjoint_names=yes: give true or false"),
        ({"names": ["Mary", "Zoe", "John", "Bo"]}, r"task\.names: Zoe, Bo: not one token .*; use other names"),
    ],
)
def test_wrong_arguments_are_one_line(
    mini_tokenizer: PreTrainedTokenizerBase, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=rf"\A{says}.*\Z"):
        make(mini_tokenizer, **changes)


def test_trios_differ_in_who_is_the_answer_and_are_balanced_over_the_orders(
    mini_tokenizer: PreTrainedTokenizerBase,
) -> None:
    made = make(mini_tokenizer, trios=True, prompts={"train": 24, "heldout": 12, "two_name": 4}, disjoint_names=True)
    for split, count in (("train", 24), ("heldout", 12)):
        chosen = trios(made[split], count)
        assert len(chosen) == len({prompt.text for prompt in made[split]}) == count, "no other prompts but trios"
        assert set(Counter(map(order, chosen)).values()) == {count // 6}
        assert len({prompt.name_set for prompt in chosen}) == count // 3
    assert len(made["two_name"]) == 4
    names = [{name for prompt in made[split] for name in prompt.listed} for split in ("train", "heldout")]
    assert not names[0] & names[1]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"trios": True, "n_names": 2}, "task.trios=True: give true or false; only prompts with three names"),
        ({"trios": True, "prompts": {"train": 20, "heldout": 12}}, "use multiples of 6"),
        ({"trios": True, "prompts": {"train": 21, "heldout": 12}}, "21 prompts in threes cannot be balanced"),
        ({"repeat": 0}, "task.repeat=0: give how many times the answer is repeated, 1 or more"),
        ({"repeat": True}, "task.repeat=True: give how many times"),
    ],
)
def test_what_cannot_be_made_is_one_line(
    mini_tokenizer: PreTrainedTokenizerBase, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        make(mini_tokenizer, **changes)
