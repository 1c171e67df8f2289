"""Greater-than (Hanna, Liu & Variengien 2023, arXiv:2305.00586).

"The war lasted from the year 1732 to the year 17" should be followed by a number above 32. Only years that are two
tokens of two digits each are used; a tokenizer that splits digits is refused. The loss targets one right number, drawn
uniformly, so the best a model can do is to spread its probability over all of them.

| corruption   | replaces                                                          |
|--------------|-------------------------------------------------------------------|
| `start_year` | the start year's last two digits, with 01: every number is right  |
| `noun`       | the noun, with another. A control: the answers stay the same      |

"Always 99" answers nearly every question correctly, so win rate and probability difference cannot tell a model that
compares from one that prefers late years. The paper's second measure can: `cutoff_sharpness` is the probability of the
number after the start year's, minus that of the number before it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mi_sweeps.errors import UserError
from mi_sweeps.tasks.encoding import required
from mi_sweeps.tasks.questions import Question, Questions
from mi_sweeps.tasks.sampling import choose, counts, describe, divide, usable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NOUNS: tuple[str, ...] = tuple(
    """
    war siege reign rule struggle dispute conflict rebellion revolt uprising campaign expedition journey voyage trip
    tour mission project program study survey search investigation trial debate negotiation alliance partnership
    agreement treaty truce peace marriage career education training famine drought plague epidemic outbreak crisis
    recession boom blockade occupation invasion pursuit quest competition tournament festival celebration exhibition
    construction restoration reform revolution transition migration exodus decline expansion growth recovery boycott
    strike feud rivalry lease contract service operation process experiment research
    """.split()
)
CENTURIES = tuple(str(century) for century in range(11, 18))
"""The paper's centuries."""
YEARS = tuple(f"{year:02d}" for year in range(100))


def task(
    tokenizer: PreTrainedTokenizerBase | None, *, prompts: dict[str, int], nouns: Sequence[str] | None, seed: int
) -> Questions:
    """Makes the prompts. No noun of a held-out prompt is in a training prompt; years and centuries are shared.

    Raises:
        UserError: the tokenizer does not split years into two tokens of two digits, or there are too few nouns.
    """
    tokenizer = required(tokenizer)
    n_train, n_heldout = counts(prompts, 1)
    known, left_out = usable(nouns or NOUNS, tokenizer, "nouns", least=4)
    written = written_years(tokenizer)
    centuries: dict[str, list[str]] = {}
    for century, years in written.items():
        for year in starts(years):
            centuries.setdefault(year, []).append(century)
    rng = random.Random(f"greater_than {seed}")
    training, heldout = divide(known, 0.25, rng)

    def split(words: Sequence[str], count: int) -> list[Question]:
        """Uses every start year equally often, give or take one."""
        order = rng.sample(sorted(centuries), len(centuries))
        asked = []
        for place, year in enumerate(order):
            options = [(noun, century) for noun in words for century in centuries[year]]
            wanted = count // len(order) + (place < count % len(order))
            for noun, century in choose(options, wanted, rng, f"prompts of the start year {year}"):
                other = rng.choice([word for word in words if word != noun])
                asked.append(_question(noun, century, year, written[century], other, rng))
        return rng.sample(asked, count)

    train, held = split(training, n_train), split(heldout, n_heldout)
    possible = len(CENTURIES) * 97
    kept = sum(map(len, centuries.values()))
    audit = {
        "train": f"{len(train)} prompts from {len(training)} nouns",
        "heldout": f"{len(held)} prompts from {len(heldout)} nouns, none of them a training prompt's; years are shared",
        "start years": f"{min(centuries)} to {max(centuries)}, spread evenly, of the centuries {', '.join(written)}; "
        f"{kept} of {possible} years are two tokens of two digits, as are those before and after",
        **({"left out": left_out} if left_out else {}),
        **describe(held, {"the start year's own": lambda question: question.parts["start year"]}),
    }
    return Questions(train, held, audit)


def written_years(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[str]]:
    """The two-digit numbers, for each century, that make a year of two tokens: " 17" and "32".

    Raises:
        UserError: there are too few.
    """
    found = {}
    for century in CENTURIES:
        before = tokenizer(f"year {century}", add_special_tokens=False)["input_ids"]
        tokens = {year: tokenizer(f"year {century}{year}", add_special_tokens=False)["input_ids"] for year in YEARS}
        fit = [year for year in YEARS if tokens[year][:-1] == before and tokens[year][-1] != tokenizer.unk_token_id]
        if "01" in fit and starts(fit):
            found[century] = fit
    if not found:
        example = f"year {CENTURIES[-1]}32"
        raise UserError(
            "task=greater_than: needs years of two tokens with two digits each, and the model's tokenizer writes "
            f"{example!r} as {' '.join(tokenizer.tokenize(example))}; use a model whose tokenizer is like GPT-2's"
        )
    return found


def starts(written: Sequence[str]) -> list[str]:
    """The start years: 01 is kept for the corruption, and the numbers before and after must be possible answers."""
    return [year for year in YEARS[2:99] if {year, YEARS[int(year) - 1], YEARS[int(year) + 1]} <= set(written)]


def _question(noun: str, century: str, start: str, written: Sequence[str], other: str, rng: random.Random) -> Question:
    right = tuple(year for year in written if year > start)
    after, before = YEARS[int(start) + 1], YEARS[int(start) - 1]
    return Question(
        parts={
            "the": "The",
            "noun": f" {noun}",
            "lasted from": " lasted from",
            "the year": " the year",
            "century": f" {century}",
            "start year": start,
            "to": " to",
            "the year again": " the year",
            "century again": f" {century}",
        },
        right=right,
        wrong=tuple(year for year in written if year <= start),
        corrupted={"start_year": {"start year": "01"}, "noun": {"noun": f" {other}"}},
        target=rng.choice(right),
        compared={"cutoff_sharpness": ((after,), (before,))},
    )
