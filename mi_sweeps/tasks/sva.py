"""Subject-verb agreement across an attractor (Linzen et al. 2016, arXiv:1611.01368; Lakretz et al. 2019,
arXiv:1903.07435; Finlayson et al. 2021, arXiv:2106.06087).

"The authors near the guitar" should be followed by "are", "were" or "have", not by "is", "was" or "has": the verb
agrees with the subject, whatever the number of the noun next to it, the attractor. Prompts are balanced over the four
combinations of the two numbers. The loss targets one of the right verbs, drawn uniformly.

| corruption  | replaces                                                                         |
|-------------|----------------------------------------------------------------------------------|
| `subject`   | the subject, with its other number                                               |
| `attractor` | the attractor, with its other number. A control: the answers stay the same       |
"""

from __future__ import annotations

import random
from itertools import product
from typing import TYPE_CHECKING

from mi_sweeps.tasks.encoding import required
from mi_sweeps.tasks.questions import Question, Questions
from mi_sweeps.tasks.sampling import choose, counts, describe, divide, usable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SUBJECTS: tuple[str, ...] = tuple(
    """
    author teacher doctor lawyer student pilot farmer guard artist actor singer dancer writer driver manager officer
    soldier player worker neighbor friend brother sister king queen boy girl father mother leader senator scientist
    engineer minister customer visitor guest owner
    """.split()
)
ATTRACTORS: tuple[str, ...] = tuple(
    """
    guitar picture car tree house door window table chair garden bridge tower river lake mountain road boat train
    building machine book letter lamp camera fence wall hill station shop school hospital hotel farm
    """.split()
)
PREPOSITIONS = ("near", "behind", "beside", "by", "above", "below")
VERBS = {"singular": (" is", " was", " has"), "plural": (" are", " were", " have")}
NUMBERS = tuple(VERBS)


def task(tokenizer: PreTrainedTokenizerBase | None, *, prompts: dict[str, int], seed: int) -> Questions:
    """Makes the prompts. No noun of a held-out prompt is in a training prompt; prepositions and verbs are shared.

    Raises:
        UserError: too few nouns are one token in both singular and plural, or the prompts cannot be balanced.
    """
    tokenizer = required(tokenizer)
    n_train, n_heldout = counts(prompts, 4)
    rng = random.Random(f"sva {seed}")
    nouns, left_out = [], []
    for words, what in ((SUBJECTS, "subjects"), (ATTRACTORS, "attractors")):
        both = [form for word in words for form in (word, f"{word}s")]
        kept, note = usable(both, tokenizer, f"{what}, singular and plural,", least=8)
        nouns.append(divide([word for word in words if {word, f"{word}s"} <= set(kept)], 0.3, rng))
        left_out.append(note)
    subjects, attractors = nouns

    def split(side: int, count: int) -> list[Question]:
        asked = []
        for number, beside in product(NUMBERS, NUMBERS):
            options = list(product(subjects[side], attractors[side], PREPOSITIONS))
            for subject, attractor, preposition in choose(options, count // 4, rng, f"{number} {beside} prompts"):
                asked.append(_question(subject, attractor, preposition, number, beside, rng))
        return rng.sample(asked, count)

    train, held = split(0, n_train), split(1, n_heldout)
    audit = {
        "train": f"{n_train} prompts from {len(subjects[0])} subjects and {len(attractors[0])} attractors",
        "heldout": f"{n_heldout} prompts from {len(subjects[1])} subjects and {len(attractors[1])} attractors, none of "
        "them a training prompt's; prepositions and verbs are shared",
        **({"left out": "; ".join(filter(None, left_out))} if any(left_out) else {}),
        **describe(held, {"agree with the attractor": lambda question: VERBS[question.group.rpartition("_")[2]][0]}),
    }
    return Questions(train, held, audit)


def _form(noun: str, number: str) -> str:
    return f" {noun}s" if number == "plural" else f" {noun}"


def _question(subject: str, attractor: str, preposition: str, number: str, beside: str, rng: random.Random) -> Question:
    other = {"singular": "plural", "plural": "singular"}
    return Question(
        parts={
            "the": "The",
            "subject": _form(subject, number),
            "preposition": f" {preposition}",
            "the again": " the",
            "attractor": _form(attractor, beside),
        },
        right=VERBS[number],
        wrong=VERBS[other[number]],
        corrupted={
            "subject": {"subject": _form(subject, other[number])},
            "attractor": {"attractor": _form(attractor, other[beside])},
        },
        target=rng.choice(VERBS[number]),
        group=f"{number}_{beside}",
    )
