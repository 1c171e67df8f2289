"""The audit of prompts, against values worked out by hand."""

from __future__ import annotations

import pytest

from mi_sweeps.tasks.audit import describe_splits, lines, overlap, slot_rules
from mi_sweeps.tasks.ioi import splits
from mi_sweeps.tasks.lexicon import NAMES
from mi_sweeps.tasks.prompts import Prompt, fill


def prompt(names: str, subjects: str) -> Prompt:
    """The answer is the name that is no subject: `prompt("Mary John Tom", "John Mary")`."""
    (answer,) = set(names.split()) - set(subjects.split())
    slots = [*names.split(), *subjects.split()]
    return fill("After {}, {} and {} met, {} and {} spoke to", slots, answer, 2)


# The first subject at place 1 means answer 2; at place 2, answer 3; at place 3, answer 1. The last subject is at the
# place that is left, so it tells the answer just as well; the answers' places are 2, 2, 3, 1.
SKEWED = [
    prompt("Mary John Tom", "Mary Tom"),
    prompt("Kate Anna Paul", "Kate Paul"),
    prompt("Lisa Mark Peter", "Mark Lisa"),
    prompt("James Sarah David", "David Sarah"),
]


def test_a_skewed_set_can_be_won_by_looking_at_one_slot() -> None:
    assert slot_rules(SKEWED, SKEWED) == {"listed place": 0.5, "first subject": 1.0, "last subject": 1.0}


@pytest.mark.parametrize(
    ("subjects", "expected"),
    [
        # The first subject is always at place 1, where 2 is the best guess; the last one tells 2 from 3.
        (["Mary Tom", "Mary Tom", "Mary John"], {"first subject": 0.6667, "last subject": 1.0}),
        # The last subject is always at place 1; the first one tells 2 from 3.
        (["Tom Mary", "Tom Mary", "John Mary"], {"first subject": 1.0, "last subject": 0.6667}),
    ],
)
def test_each_rule_looks_at_its_own_slot(subjects: list[str], expected: dict[str, float]) -> None:
    prompts = [prompt("Mary John Tom", pair) for pair in subjects]
    assert slot_rules(prompts, prompts) == {"listed place": 0.6667, **expected}


def test_rules_are_learned_in_training_and_scored_on_held_out_prompts() -> None:
    # After SKEWED, "listed place" says 2, and "first subject" 2 here, 1 there: only the first is right.
    heldout = [prompt("Mary John Kate", "Mary Kate"), prompt("Mary John Kate", "Kate Mary")]
    assert slot_rules(SKEWED, heldout) == {"listed place": 1.0, "first subject": 0.5, "last subject": 0.5}


def test_a_rule_that_never_saw_its_slot_so_is_wrong() -> None:
    assert slot_rules(SKEWED[:1], SKEWED[2:3]) == {"listed place": 0.0, "first subject": 0.0, "last subject": 0.0}


def test_balanced_prompts_are_beyond_every_rule() -> None:
    made = splits(NAMES[:24], 3, {"train": 60, "heldout": 60}, seed=0)
    scores = slot_rules(made["train"], made["heldout"])
    assert scores["listed place"] == pytest.approx(1 / 3, abs=1e-4)
    assert scores["first subject"] == scores["last subject"] == 0.5


def test_without_prompts_there_is_nothing_to_say() -> None:
    assert slot_rules([], SKEWED) == slot_rules(SKEWED, []) == {}
    assert describe_splits({"train": [], "heldout": []})["splits"]["train"] == {"prompts": 0}


def test_overlap_counts_texts_and_name_sets() -> None:
    heldout = [
        SKEWED[0],
        prompt("Tom Mary John", "Mary John"),
        prompt("Kate Anna Mary", "Kate Anna"),
        prompt("Kate Lisa Anne", "Kate Lisa"),
        prompt("Anne Ruth Emma", "Anne Ruth"),
    ]
    assert overlap({"train": SKEWED, "heldout": heldout, "two_name": []}) == {
        "heldout": {"same_text": 1, "same_name_set": 2, "same_two_names": 3, "same_name": 4},
        "two_name": {"same_text": 0, "same_name_set": 0, "same_two_names": 0, "same_name": 0},
    }


def test_a_split_is_described() -> None:
    prompts = [*SKEWED, SKEWED[0], prompt("Mary Tom John", "Mary John")]
    assert describe_splits({"train": prompts})["splits"]["train"] == {
        "prompts": 6,
        "duplicates": 1,
        "name_sets": 4,
        "templates": 1,
        "most_frequent_answer": {"answer": "John", "share": 0.3333},
        "orders": {
            "answer 1, subjects swapped": 1,
            "answer 2, subjects same": 4,
            "answer 3, subjects swapped": 1,
        },
    }


def test_the_printed_audit_says_it_all() -> None:
    audit = {
        "rows": 20,
        "kept": 4,
        "dropped": {"no answer": list(range(1, 16)), "ambiguous": [18]},
        **describe_splits({"train": SKEWED, "heldout": SKEWED[:1]}),
    }
    assert lines(audit) == [
        "rows: 20, kept 4, dropped 16",
        "  no answer: 15 (row 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, …)",
        "  ambiguous: 1 (row 18)",
        "train: 4 prompts, 4 name sets, most frequent answer John 25.0%",
        "heldout: 1 prompts, 1 name sets, most frequent answer John 100.0%",
        "overlap with train: heldout 1 texts, 1 name sets",
        "of 1 heldout prompts, 1 share two names with a training prompt, 1 share at least one",
        "held-out win rate of one-slot rules: listed place 100%, first subject 100%, last subject 100%",
    ]


def test_the_only_subject_is_no_shortcut() -> None:
    prompts = splits(NAMES[:10], 2, {"train": 20}, seed=0)["train"]
    assert slot_rules(prompts, prompts) == {"listed place": 0.5}
