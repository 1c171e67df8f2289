'''Docstring (Heimersheim & Janiak 2023, "A circuit for Python docstrings in a 4-layer attention-only transformer").

    def port(self, load, size, files, last, unit):
        """oil column piece

        :param load: crime population
        :param size: light dark
        :param

should be followed by " files", the argument that comes after those two in the definition. The answer is compared with
the other arguments of the definition.

| corruption      | replaces                                                             |
|-----------------|----------------------------------------------------------------------|
| `random_answer` | the answer in the definition, with a word that is not in the prompt  |
| `random_doc`    | the two arguments of the docstring, with words that are not          |

The post compares the answer with the most likely of the other arguments; here it is their mean, which is linear in the
logits. The docstring leaves out zero, one or two of the first arguments, equally often, so that the answer's place in
the definition varies.
'''

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from mi_sweeps.tasks.encoding import required
from mi_sweeps.tasks.questions import Question, Questions
from mi_sweeps.tasks.sampling import counts, describe, divide, usable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WORDS: tuple[str, ...] = tuple(
    """
    load size files last name value key index count length start end time date path text line page image color shape
    level group order state mode type kind rate price cost weight height width depth speed range limit target source
    result error message title label number list table row column field record item user owner event task job project
    team city country region address phone model version code data signal frame block point edge node layer unit field
    crime oil dark piece population water light stone river paper music board glass metal bridge garden market winter
    summer morning evening window kitchen station engine wheel tower island forest valley desert harbor castle temple
    doctor teacher farmer driver writer singer soldier captain king queen child friend brother sister
    """.split()
)
N_WORDS = 15
"""Words drawn for a prompt: the method, five arguments, seven words of text, and two new words."""
PLACES = (3, 4, 5)
"""Places that the answer takes among the five arguments, counted from 1."""


def task(
    tokenizer: PreTrainedTokenizerBase | None, *, prompts: dict[str, int], words: Sequence[str] | None, seed: int
) -> Questions:
    """Makes the prompts. No word of a held-out prompt is in a training prompt.

    Raises:
        UserError: too few words are a single token.
    """
    tokenizer = required(tokenizer)
    n_train, n_heldout = counts(prompts, len(PLACES))
    known, left_out = usable(list(dict.fromkeys(words or WORDS)), tokenizer, "words", least=60)
    rng = random.Random(f"docstring {seed}")
    training, heldout = divide(known, 0.3, rng)
    train, held = (
        [_question(rng.sample(own, N_WORDS), PLACES[index % len(PLACES)]) for index in rng.sample(range(count), count)]
        for own, count in ((training, n_train), (heldout, n_heldout))
    )
    audit = {
        "train": f"{n_train} prompts from {len(training)} words",
        "heldout": f"{n_heldout} prompts from {len(heldout)} words, none of them a training prompt's",
        **({"left out": left_out} if left_out else {}),
        **describe(
            held,
            {f"argument {place}": partial(_argument, place=place) for place in PLACES}
            | {"the last one documented": lambda question: _spelled(question, "documented 2")},
        ),
    }
    return Questions(train, held, audit)


def _spelled(question: Question, role: str) -> str:
    return question.parts[role].removeprefix(",")


def _argument(question: Question, place: int) -> str:
    return _spelled(question, list(question.parts)[2 + place])


def _question(words: Sequence[str], place: int) -> Question:
    method, *arguments = words[:6]
    text, (new, other) = words[6:13], words[13:]
    first, second, answer = arguments[place - 3 : place]
    # Roles relative to the answer, whose place varies.
    roles = [f"before {distance}" for distance in range(place - 3, 0, -1)]
    roles += ["documented 1", "documented 2", "answer"]
    roles += [f"after {distance}" for distance in range(1, 6 - place)]
    return Question(
        parts={
            "def": "def",
            "method": f" {method}",
            "self argument": "(self",
            **{role: f", {argument}" for role, argument in zip(roles, arguments, strict=True)},
            "quotes": '):\n    """',
            "summary": " ".join(text[:3]),
            "param 1": "\n\n    :param",
            "doc 1": f" {first}",
            "colon 1": ":",
            "text 1": f" {text[3]} {text[4]}",
            "param 2": "\n    :param",
            "doc 2": f" {second}",
            "colon 2": ":",
            "text 2": f" {text[5]} {text[6]}",
            "param 3": "\n    :param",
        },
        right=(f" {answer}",),
        wrong=tuple(f" {argument}" for argument in arguments if argument != answer),
        corrupted={
            "random_answer": {"answer": f", {new}"},
            "random_doc": {"doc 1": f" {new}", "doc 2": f" {other}"},
        },
        group=f"place_{place}",
    )
