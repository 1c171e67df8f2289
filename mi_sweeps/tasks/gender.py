"""Gendered pronouns (Mathwin et al. 2023, "Identifying a preliminary circuit for predicting gendered pronouns in GPT-2
small"; Chintam & van der Wal 2023, arXiv:2310.12611).

"So Mary is a really great friend, isn't" should be followed by "she". Half of the names are women's and half are men's;
names that both use are left out.

| corruption    | replaces                                                                           |
|---------------|------------------------------------------------------------------------------------|
| `name`        | the name, with one of the other gender                                             |
| `same_gender` | the name, with another of the same gender. A control: the answer stays the same    |
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

from mi_sweeps.errors import UserError
from mi_sweeps.tasks.encoding import required, tokenize
from mi_sweeps.tasks.questions import Question, Questions
from mi_sweeps.tasks.sampling import choose, counts, describe, divide, usable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WOMEN: tuple[str, ...] = tuple(
    """
    Mary Kate Anna Lisa Sarah Laura Alice Emily Jane Amy Rachel Maria Jessica Victoria Jennifer Elizabeth Eva Michelle
    Ruby Helen Julia Karen Linda Nancy Emma Claire Hannah Lucy Ruth Susan Margaret Barbara Diana Sophie Charlotte
    Caroline Catherine Samantha Rebecca Nicole Melissa Stephanie Angela Heather Olivia Sophia Ellen Judy Carol Julie
    """.split()
)
MEN: tuple[str, ...] = tuple(
    """
    John Tom James Paul Mark Peter David Simon Jack Kevin Adam Robert Daniel Michael Andrew Scott Eric Brian Frank
    Henry Luke Steven Thomas William Patrick Richard Matthew Jason Aaron Alan Anthony Arthur Charles Christopher
    Edward George Graham Jacob Jeremy Jonathan Joseph Joshua Leon Louis Martin Stephen Bob Carl Bruce Larry
    """.split()
)
PRONOUNS = {"she": WOMEN, "he": MEN}
DESCRIPTIONS: tuple[str, ...] = (
    "a really great friend",
    "such a good cook",
    "a very good athlete",
    "a really nice person",
    "such a funny person",
    "quite a careful driver",
    "a very patient teacher",
    "always on time",
    "a bit late again",
    "a really good singer",
    "rather tired today",
    "such a kind neighbor",
    "very good at chess",
    "a fast runner",
    "a little too busy",
    "so proud of the garden",
    "quite good with children",
    "a rather quiet neighbor",
    "such a clever student",
    "always in a hurry",
    "the best player of the team",
    "a really hard worker",
)


def task(
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    prompts: dict[str, int],
    women: Sequence[str] | None,
    men: Sequence[str] | None,
    seed: int,
) -> Questions:
    """Makes the prompts. No name or description of a held-out prompt is in a training prompt.

    Raises:
        UserError: a word is unknown, too few names are a single token, a name is in both lists, or a number of prompts
            cannot be balanced.
    """
    tokenizer = required(tokenizer)
    n_train, n_heldout = counts(prompts, 2)
    given = {"she": tuple(women or WOMEN), "he": tuple(men or MEN)}
    if both := set(given["she"]) & set(given["he"]):
        raise UserError(f"task: {', '.join(sorted(both))}: in task.women and in task.men; leave out names of both")
    for description in DESCRIPTIONS:
        tokenize(f"So she is {description}, isn't he", tokenizer, prepend_bos=False)
    rng = random.Random(f"gender {seed}")
    names, left_out = {}, []
    for pronoun, what in (("she", "names of women"), ("he", "names of men")):
        kept, note = usable(given[pronoun], tokenizer, what, least=4)
        names[pronoun] = divide(kept, 0.3, rng)
        left_out.append(note)
    descriptions = divide(DESCRIPTIONS, 0.3, rng)

    def split(side: int, count: int) -> list[Question]:
        asked = []
        for pronoun, other in (("she", "he"), ("he", "she")):
            own = names[pronoun][side]
            options = list(product(own, descriptions[side]))
            for name, description in choose(options, count // 2, rng, f"'{pronoun}' prompts"):
                partners = {
                    "name": rng.choice(names[other][side]),
                    "same_gender": rng.choice([one for one in own if one != name]),
                }
                asked.append(_question(name, description, pronoun, other, partners))
        return rng.sample(asked, count)

    train, held = split(0, n_train), split(1, n_heldout)
    audit = {
        "train": f"{n_train} prompts from {sum(len(names[pronoun][0]) for pronoun in names)} names and "
        f"{len(descriptions[0])} descriptions, half 'she' and half 'he'",
        "heldout": f"{n_heldout} prompts from {sum(len(names[pronoun][1]) for pronoun in names)} names and "
        f"{len(descriptions[1])} descriptions, none of them a training prompt's",
        **({"left out": "; ".join(filter(None, left_out))} if any(left_out) else {}),
        **describe(held),
    }
    return Questions(train, held, audit)


def _question(name: str, description: str, pronoun: str, other: str, partners: dict[str, str]) -> Question:
    return Question(
        parts={
            "so": "So",
            "name": f" {name}",
            "is": " is",
            "description": f" {description}",
            "comma": ",",
            "isn't": " isn't",
        },
        right=(f" {pronoun}",),
        wrong=(f" {other}",),
        corrupted={corruption: {"name": f" {partner}"} for corruption, partner in partners.items()},
        group=pronoun,
    )
