"""A prompt and its name slots.

A prompt first lists its names and then repeats its subjects: "After *Mary*, *John* and *Tom* went to the
store, *Mary* and *John* gave a book to" -> "Tom". Each starred name is a *slot*. The slots divide the text
into *roles* (intro, name 1, ..., subject 2, action, end), which identify tokens across templates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

Span = tuple[int, int]


@dataclass(frozen=True)
class Prompt:
    """One question and its one-word answer."""

    text: str
    """The question, without the answer or a trailing space."""
    answer: str
    """The answer as a bare word ("Tom")."""
    slots: tuple[Span, ...]
    """Character spans of the name slots in reading order: the listed names, then the subjects."""
    n_subjects: int
    """How many of the last slots are subjects: 2 for three names, 1 for two names."""
    template: str = ""
    """The template that the prompt was made from; empty for a user's own prompt."""

    def slot_names(self) -> tuple[str, ...]:
        """The name in each slot."""
        return tuple(self.text[start:end] for start, end in self.slots)

    @cached_property
    def listed(self) -> tuple[str, ...]:
        """The names in the first clause, in order."""
        return self.slot_names()[: len(self.slots) - self.n_subjects]

    @cached_property
    def subjects(self) -> tuple[str, ...]:
        """The repeated names in the second clause, in order."""
        return self.slot_names()[len(self.slots) - self.n_subjects :]

    @cached_property
    def answer_place(self) -> int:
        """The answer's place among the listed names, from 1."""
        return self.listed.index(self.answer) + 1

    @cached_property
    def subject_order(self) -> str:
        """`same` if the subjects are repeated in the order in which they are listed, else `swapped`."""
        places = [self.listed.index(name) for name in self.subjects]
        return "same" if places == sorted(places) else "swapped"

    @property
    def name_set(self) -> frozenset[str]:
        """The names in the prompt, in no order."""
        return frozenset(self.listed)

    def with_slots(self, names: Mapping[int, str]) -> Prompt:
        """The same prompt with other names in some slots, by slot index. The answer is kept."""
        text, slots, cursor = "", [], 0
        for index, (start, end) in enumerate(self.slots):
            text += self.text[cursor:start]
            name = names.get(index, self.text[start:end])
            slots.append((len(text), len(text) + len(name)))
            text += name
            cursor = end
        return Prompt(text + self.text[cursor:], self.answer, tuple(slots), self.n_subjects, self.template)


def fill(template: str, names: Sequence[str], answer: str, n_subjects: int, source: str = "") -> Prompt:
    """Makes a prompt from a template whose slots are written `{}`.

    >>> fill("When {} and {} met, {} spoke to", ["Mary", "Tom", "Mary"], "Tom", 1).text
    'When Mary and Tom met, Mary spoke to'
    """
    pieces = template.split("{}")
    if len(pieces) != len(names) + 1:
        raise ValueError(f"template {template!r} has {len(pieces) - 1} slots, but {len(names)} names were given")
    text, slots = pieces[0], []
    for name, piece in zip(names, pieces[1:], strict=True):
        slots.append((len(text), len(text) + len(name)))
        text += name + piece
    return Prompt(text, answer, tuple(slots), n_subjects, source or template)
