"""Prompts and their slots."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_sweeps.tasks.lexicon import NAMES
from mi_sweeps.tasks.prompts import Prompt, fill

TEMPLATE = "After {}, {} and {} went to the store, {} and {} gave a book to"
names = st.sampled_from(NAMES)
text = st.text(st.characters(exclude_characters="{}", exclude_categories=["Cs"]), max_size=8)


@st.composite
def filled(draw: st.DrawFn) -> tuple[str, list[str], Prompt]:
    """A template, the names in its slots, and the prompt that they make."""
    pieces = draw(st.lists(text, min_size=3, max_size=7))
    chosen = draw(st.lists(names, min_size=len(pieces) - 1, max_size=len(pieces) - 1))
    template = "{}".join(pieces)
    return template, chosen, fill(template, chosen, chosen[0], n_subjects=1)


@given(filled())
def test_slots_hold_the_names_that_were_filled_in(made: tuple[str, list[str], Prompt]) -> None:
    template, chosen, prompt = made
    assert prompt.text == template.format(*chosen)
    assert prompt.slot_names() == tuple(chosen)
    assert prompt.template == template


@given(filled(), st.data())
def test_other_names_in_some_slots_change_nothing_else(
    made: tuple[str, list[str], Prompt], data: st.DataObject
) -> None:
    template, chosen, prompt = made
    new = data.draw(st.dictionaries(st.sampled_from(range(len(chosen))), names))
    changed = prompt.with_slots(new)
    assert changed.text == template.format(*(new.get(slot, name) for slot, name in enumerate(chosen)))
    assert changed.slot_names() == tuple(new.get(slot, name) for slot, name in enumerate(chosen))
    assert changed.answer == prompt.answer
    assert changed.with_slots(dict(enumerate(chosen))) == prompt


@pytest.mark.parametrize("given_names", [["Mary"], ["Mary", "John", "Tom", "Mary", "John", "Tom"]])
def test_every_slot_needs_one_name(given_names: list[str]) -> None:
    with pytest.raises(ValueError, match="5 slots"):
        fill(TEMPLATE, given_names, "Tom", 2)


@pytest.mark.parametrize(
    ("answer", "subjects", "place", "order"),
    [
        ("Mary", ("John", "Tom"), 1, "same"),
        ("Mary", ("Tom", "John"), 1, "swapped"),
        ("John", ("Mary", "Tom"), 2, "same"),
        ("John", ("Tom", "Mary"), 2, "swapped"),
        ("Tom", ("Mary", "John"), 3, "same"),
        ("Tom", ("John", "Mary"), 3, "swapped"),
    ],
)
def test_the_six_orders(answer: str, subjects: tuple[str, str], place: int, order: str) -> None:
    prompt = fill(TEMPLATE, ["Mary", "John", "Tom", *subjects], answer, 2)
    assert prompt.listed == ("Mary", "John", "Tom")
    assert prompt.subjects == subjects
    assert (prompt.answer_place, prompt.subject_order) == (place, order)
    assert prompt.name_set == {"Tom", "John", "Mary"}


def test_one_subject_is_always_in_the_same_order() -> None:
    prompt = fill("When {} and {} met, {} spoke to", ["Mary", "Tom", "Tom"], "Mary", 1)
    assert (prompt.listed, prompt.subjects) == (("Mary", "Tom"), ("Tom",))
    assert (prompt.answer_place, prompt.subject_order) == (1, "same")
