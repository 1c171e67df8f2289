"""Write three_names.jsonl: natural prompts with three names, as a user's own file might hold them.

Every template appears twice in each of the six orders (the answer's place among the listed names, times the
order of the subjects), every name is the answer eight times, and every set of names appears three times, each
time with another answer. `UNTIDY` and `spoil` add a few untidy rows, because real files have them.
"""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

SEED = 0
USES_OF_AN_ORDER = 2
"""How often each template appears in each order."""
ROUNDS = 8
"""How often each name is in a name set."""

# One token each, after a space, in the tokenizers of GPT-2 and SmolLM2; none begins another.
NAMES = """
    Aaron Adam Alan Alice Amy Andrew Anna Anthony Arthur Brian Carl Catherine Charlotte Claire Daniel David
    Diana Edward Emily Emma Eric Hannah Helen Henry Jacob James Jane Jennifer Jeremy Jessica John Julia Karen
    Kate Kevin Laura Linda Lisa Lucy Luke Maria Martha Mary Michael Nancy Nicole Oliver Patrick Paul Peter
    Rachel Rebecca Richard Robert Sarah Simon Sophie Susan Thomas Tom
""".split()

# `{}` is a name, `(a|b)` a choice. No template begins with a name, because a name without a space before it
# is another token, and no other word that could be a name is capitalised.
TEMPLATES = """
After {}, {} and {} went to the (store|market|bakery), {} and {} gave a (bottle of milk|loaf of bread|jar of honey) to
When {}, {} and {} arrived at the (station|airport|harbor), {} and {} handed the (tickets|keys|suitcases) to
While {}, {} and {} were waiting for the (bus|train|ferry), {} and {} offered a (sandwich|coffee|seat) to
Once {}, {} and {} had finished (dinner|breakfast|lunch), {} and {} passed the (napkins|dishes|bill) to
Then {}, {} and {} had a long argument about (money|politics|the holidays), and afterwards {} and {} apologized to
Yesterday {}, {}, and {} met at the (library|museum|gallery). Before closing time, {} and {} showed an old (map|book|photograph) to
Last (weekend|summer|winter), {}, {} and {} rented a (cabin|boat|cottage) by the lake, and {} and {} taught a new (card game|song|recipe) to
At the (party|wedding|reception), {}, {} and {} sat at the same table. Late in the evening {} and {} poured a glass of (water|wine|juice) for
It was raining when {}, {} and {} left the (office|theater|cinema), so {} and {} lent an (umbrella|extra coat|old raincoat) to
The (teacher|coach|director) asked {}, {} and {} to work together, but {} and {} left all of the (planning|cleaning|writing) to
Since {}, {} and {} moved into the same (house|apartment|building), {} and {} have often cooked (dinner|breakfast|soup) for
As soon as {}, {} and {} got home from (school|the game|practice), {} and {} told the whole story to
There was only one (ladder|bucket|brush) when {}, {} and {} painted the (fence|barn|garage), and {} and {} gave it to
On the first day of the (trip|camp|course), {}, {} and {} shared a (tent|room|table). That night, {} and {} read a (story|poem|letter) to
Although {}, {} and {} had been friends for (years|a long time|ages), {} and {} never said thank you to
During the (meeting|lecture|rehearsal), {}, {} and {} sat in the back row, where {} and {} quietly slipped a (note|biscuit|pencil) to
My neighbors {}, {} and {} grow (tomatoes|roses|pumpkins). Every spring {} and {} sell a few (seeds|young plants) to
In the kitchen, {}, {} and {} were baking (bread|cookies|a cake) when {} and {} threw some flour at
Because {}, {} and {} could not agree on a (film|restaurant|plan), {} and {} left the decision to
Three friends, {}, {} and {}, were playing (cards|chess|tennis) in the (park|garden). Soon {} and {} lost every game to
Right after {}, {}, and {} won the (race|match|contest), {} and {} gave the (trophy|medal|prize) to
Early in the morning, {}, {} and {} walked down to the (river|lake|beach), and there {} and {} threw the (ball|rope|frisbee) to
The (dog|puppy) followed {}, {} and {} all the way to the (farm|village), where {} and {} handed the leash to
Before {}, {} and {} left for the (mountains|coast|desert), {} and {} bought a pair of (boots|gloves|sunglasses) for
Whenever {}, {} and {} visit the (zoo|aquarium|market), {} and {} buy an ice cream for
At (noon|midnight), {}, {} and {} were still in the (laboratory|workshop|studio), and {} and {} explained the (problem|results|design) to
A few days ago {}, {} and {} found a (wallet|purse) on the (street|bus). In the end {} and {} decided to give the (money|reward) to
If {}, {} and {} go to the (concert|festival|fair) again, {} and {} will have to buy a ticket for
Everyone in the (band|choir|orchestra) knows {}, {} and {}. At the last show, {} and {} dedicated a song to
For the (school play|talent show), {}, {} and {} needed (costumes|masks), so {} and {} made one for
It took {}, {} and {} the whole (afternoon|morning|day) to fix the (car|roof|boat), and when it was done {} and {} sent the bill to
Not long after {}, {}, and {} opened the (shop|bakery|bookstore), {} and {} sold their share to
Somewhere in the (forest|desert|hills), {}, {} and {} lost the path. With the last of the light, {} and {} pointed out the (road|village|lighthouse) to
The (train|flight|bus) was late, so {}, {} and {} played a game until {} and {} got bored and gave their (cards|dice) to
Today {}, {} and {} have an exam in (history|biology|chemistry). On the way to school {} and {} lent a (pen|calculator|ruler) to
Now that {}, {} and {} live in different (cities|countries|towns), {} and {} send a (postcard|parcel|letter) every month to
Inside the (museum|castle|cathedral), {}, {}, and {} stopped in front of a painting, and {} and {} whispered something to
The (nurse|doctor) asked {}, {} and {} to wait outside. An hour later {} and {} brought some (tea|soup|water) to
Having missed the last (bus|train|tram), {}, {} and {} called a taxi, and {} and {} gave the front seat to
According to the (newspaper|report|police), {}, {} and {} were at the (bank|hotel|casino) together, but {} and {} blamed everything on
""".strip().splitlines()  # noqa: E501 (a template a line)

# Two answers of several tokens, two prompts with two names, an answer that is also a subject, no answer.
UNTIDY = [
    (
        "After Mary, Bartholomew and Tom went to the store, Tom and Mary gave a loaf of bread to",
        " Bartholomew",
    ),
    (
        "While Penelope, Brian and Lisa were waiting for the bus, Brian and Lisa offered a seat to",
        " Penelope",
    ),
    ("After Kate and Simon went to the market, Simon gave a jar of honey to", " Kate"),
    ("When Robert and Julia arrived at the station, Robert handed the tickets to", " Julia"),
    ("Once Paul, Nancy and Luke had finished dinner, Luke and Nancy passed the bill to", " Nancy"),
    ("Whenever Amy, Henry and Sarah visit the zoo, Sarah and Amy buy an ice cream for", ""),
]

Row = dict[str, str]


def choose(text: str, rng: random.Random) -> str:
    """The text with one word drawn for each `(a|b)`."""
    while "(" in text:
        before, _, rest = text.partition("(")
        words, _, after = rest.partition(")")
        text = before + rng.choice(words.split("|")) + after
    return text


def tidy_rows(rng: random.Random) -> list[Row]:
    """The balanced rows, in random order."""
    answers = []
    for _ in range(ROUNDS):
        names = rng.sample(NAMES, len(NAMES))
        triples = [names[start : start + 3] for start in range(0, len(names), 3)]
        answers += [(answer, triple) for triple in triples for answer in triple]
    # A permutation of the places is an order: the two subjects' places, then the answer's.
    orders = list(itertools.permutations(range(3)))
    forms = list(itertools.product(TEMPLATES, orders)) * USES_OF_AN_ORDER
    rng.shuffle(forms)
    rows = []
    for (answer, triple), (template, places) in zip(answers, forms, strict=True):
        others = [name for name in triple if name != answer]
        rng.shuffle(others)
        name_at = dict(zip(places, [*others, answer], strict=True))
        question = choose(template, rng).format(*(name_at[place] for place in range(3)), *others)
        rows.append({"question": question, "completion": f" {answer}"})
    rng.shuffle(rows)
    return rows


def spoil(rows: list[Row], rng: random.Random) -> list[Row]:
    """The rows with what real files have: three exact copies, two answers written 20 times, and `UNTIDY`."""
    copied, repeated = rows[:3], rows[3:5]
    for row in repeated:
        row["completion"] *= 20
    every = [*rows, *copied, *({"question": question, "completion": answer} for question, answer in UNTIDY)]
    rng.shuffle(every)
    return every


def text() -> str:
    """The whole file, one JSON object a line."""
    rng = random.Random(SEED)
    return "".join(json.dumps(row) + "\n" for row in spoil(tidy_rows(rng), rng))


if __name__ == "__main__":
    Path(__file__).with_name("three_names.jsonl").write_bytes(text().encode())
