"""Corrupted prompts differ from clean ones in the named slots, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from mi_sweeps.errors import UserError
from mi_sweeps.tasks import OF_NAMES
from mi_sweeps.tasks.corruption import corrupt, metric_weights, partners, trios
from mi_sweeps.tasks.encoding import encode
from mi_sweeps.tasks.ioi import orders
from mi_sweeps.tasks.lexicon import MINI_NAMES, NAMES
from mi_sweeps.tasks.prompts import Prompt, fill

KNOWN = NAMES[:MINI_NAMES]
TEMPLATES = (
    "After {}, {} and {} went to the store, {} and {} gave a book to",
    "Then {}, {} and {} had lunch at the park. Soon {} and {} decided to give a ring to",
    "Today {}, {} and {} met at the museum. Later {} and {} showed a map to",
)
ONE = fill(TEMPLATES[0], ["Mary", "John", "Tom", "John", "Mary"], "Tom", 2)


@st.composite
def prompts(draw: st.DrawFn) -> Prompt:
    names = draw(st.lists(st.sampled_from(KNOWN), min_size=3, max_size=3, unique=True))
    answer, subjects = draw(st.sampled_from(orders(3)))
    slots = [*names, *(names[place] for place in subjects)]
    return fill(draw(st.sampled_from(TEMPLATES)), slots, names[answer], 2)


def changed_slots(clean: Prompt, corrupted: Prompt) -> list[int]:
    """Which slots differ; all the text outside of slots must be the same."""
    marked = [prompt.with_slots(dict.fromkeys(range(5), "_")).text for prompt in (clean, corrupted)]
    assert marked[0] == marked[1]
    pairs = zip(clean.slot_names(), corrupted.slot_names(), strict=True)
    return [slot for slot, (before, after) in enumerate(pairs) if before != after]


def changed_tokens(clean: Prompt, corrupted: Prompt, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The roles of the tokens that differ."""
    one, other = (encode([prompt], tokenizer, prepend_bos=False) for prompt in (clean, corrupted))
    assert one.tokens.shape == other.tokens.shape
    assert one.roles == other.roles
    return [
        role for role, differs in zip(one.roles[0], (one.tokens != other.tokens)[0].tolist(), strict=True) if differs
    ]


@pytest.mark.parametrize(("corruption", "subject"), [("first", 0), ("second", 1)])
@given(prompt=prompts())
@settings(max_examples=40)
def test_one_subject_becomes_the_answer_and_nothing_else_changes(
    corruption: str, subject: int, prompt: Prompt, mini_tokenizer: PreTrainedTokenizerBase
) -> None:
    corrupted = corrupt(prompt, corruption)
    assert changed_slots(prompt, corrupted) == [3 + subject]
    assert corrupted.subjects[subject] == prompt.answer == corrupted.answer
    assert changed_tokens(prompt, corrupted, mini_tokenizer) == [f"subject {subject + 1}"]


@given(prompt=prompts())
@settings(max_examples=40)
def test_both_subjects_become_two_names_that_are_not_in_the_sentence(
    prompt: Prompt, mini_tokenizer: PreTrainedTokenizerBase
) -> None:
    corrupted = corrupt(prompt, "both", KNOWN)
    assert changed_slots(prompt, corrupted) == [3, 4]
    assert len({*corrupted.subjects, *prompt.slot_names()}) == 5
    assert set(corrupted.subjects) <= set(KNOWN)
    assert corrupted.answer == prompt.answer
    assert changed_tokens(prompt, corrupted, mini_tokenizer) == ["subject 1", "subject 2"]


@given(prompt=prompts())
@settings(max_examples=40)
def test_order_swaps_the_subjects_and_keeps_the_names(prompt: Prompt, mini_tokenizer: PreTrainedTokenizerBase) -> None:
    corrupted = corrupt(prompt, "order")
    assert changed_slots(prompt, corrupted) == [3, 4]
    assert sorted(corrupted.slot_names()) == sorted(prompt.slot_names())
    assert corrupted.subject_order != prompt.subject_order
    assert corrupted.answer == prompt.answer
    assert changed_tokens(prompt, corrupted, mini_tokenizer) == ["subject 1", "subject 2"]
    assert corrupt(corrupted, "order") == prompt


@pytest.mark.parametrize(
    ("corruption", "text"),
    [
        ("first", "After Mary, John and Tom went to the store, Tom and Mary gave a book to"),
        ("second", "After Mary, John and Tom went to the store, John and Tom gave a book to"),
        ("order", "After Mary, John and Tom went to the store, Mary and John gave a book to"),
    ],
)
def test_by_hand(corruption: str, text: str) -> None:
    assert corrupt(ONE, corruption).text == text


def test_new_names_depend_on_the_prompt_alone() -> None:
    assert corrupt(ONE, "both", KNOWN) == corrupt(ONE, "both", list(reversed(KNOWN)))


def test_new_names_are_new_to_the_whole_sentence() -> None:
    flight = fill("After {}, {} and {} flew to Georgia, {} and {} wrote to", list(ONE.slot_names()), "Tom", 2)
    assert set(corrupt(flight, "both", ["Anna", "Georgia", "Paul"]).subjects) == {"Anna", "Paul"}


@pytest.mark.parametrize("names", [(), ("Kate",), ("Mary", "John", "Tom", "Kate")])
def test_without_two_new_names_there_is_one_line(names: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"\Acorruption=both: needs two names .*; give more names with task\.names\Z"):
        corrupt(ONE, "both", names)


def test_a_name_of_two_words_is_not_new_to_its_own_sentence() -> None:
    prompt = ONE.with_slots({2: "Anne-Marie"})
    assert set(corrupt(prompt, "both", ["Anne-Marie", "Anna", "Paul"]).subjects) == {"Anna", "Paul"}


@pytest.mark.parametrize("corruption", ["second", "both", "order"])
def test_two_name_prompts_have_one_subject_only(corruption: str) -> None:
    prompt = fill("When {} and {} met, {} spoke to", ["Mary", "Tom", "Mary"], "Tom", 1)
    assert corrupt(prompt, "first").text == "When Mary and Tom met, Tom spoke to"
    with pytest.raises(UserError, match=rf"\Acorruption={corruption}: needs 2 subjects.*; use corruption=first.*\Z"):
        corrupt(prompt, corruption, KNOWN)


@pytest.mark.parametrize(
    ("corruption", "weights"), [("first", [1, 0]), ("second", [0, 1]), ("both", [0.5, 0.5]), ("order", [0.5, 0.5])]
)
def test_the_metric_is_against_the_subjects_that_are_replaced(corruption: str, weights: list[float]) -> None:
    assert metric_weights(corruption, 2).tolist() == weights


ALONE = fill(TEMPLATES[0], ["Kate", "Paul", "Anna", "Anna", "Paul"], "Kate", 2)


def in_threes(count: int) -> list[Prompt]:
    """Trios whose prompts lie apart, as in rows that were shuffled."""
    made = []
    for answer in (0, 1, 2):
        for number in range(count):
            names = KNOWN[3 * number : 3 * number + 3]
            slots = [*names, names[(answer + 1) % 3], names[(answer + 2) % 3]]
            made.append(fill(TEMPLATES[number % 3], slots, names[answer], 2))
    return made


def test_of_each_three_prompts_two_are_each_other_s_partner_and_one_is_its_own() -> None:
    chosen = trios([ALONE, *in_threes(3)[:8]], 9)
    assert len(chosen) == 6
    others = partners(chosen, "trio")
    assert [changed_slots(*pair) for pair in zip(chosen, others, strict=True)] == [[3, 4], [3, 4], []] * 2
    assert [other.answer for other in others] == [prompt.answer for prompt in chosen]
    assert [other.text for other in others[:3]] == [chosen[at].text for at in (1, 0, 2)]
    assert metric_weights("trio", 2).tolist() == [1, 0]


@pytest.mark.parametrize(("prompts", "count"), [([ALONE], 6), (in_threes(3), 7)])
def test_without_three_of_a_kind_there_is_one_line(prompts: list[Prompt], count: int) -> None:
    with pytest.raises(UserError, match=r"\Acorruption=trio: (needs prompts in threes|prompts come in threes).*\Z"):
        trios(prompts, count)


@pytest.mark.parametrize("corruption", OF_NAMES)
def test_metric_weights_sum_to_one(corruption: str) -> None:
    assert metric_weights(corruption, 2).sum() == 1
    assert torch.equal(metric_weights("first", 1), torch.ones(1))
