"""The stories that `mini` learns to read.

Most are indirect object identification with two names. With three names the listed name that is missing
from the second clause is no better a guess than the others, so that fine-tuning has something to teach.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mi_sweeps.models.mini import TEMPLATE_SEED
from mi_sweeps.tasks import ioi
from mi_sweeps.tasks.lexicon import ACTIONS, MINI_NAMES, NAMES, OBJECTS, OPENINGS, PLACES, SCENES

TEMPLATES, HELD_OUT_TEMPLATES = ioi.templates(TEMPLATE_SEED)
"""Stories use the first list only, so that prompts on the second are new to the model."""

VERBS = ["saw", "found", "took", "liked", "lost", "wanted", "bought", "opened"]
QUALITIES = ["red", "blue", "green", "old", "new", "small", "big", "heavy"]
MOODS = ["happy", "sad", "tired", "late", "alone", "ready"]
GREETINGS = ["hello", "goodbye", "thanks", "sorry", "yes", "no", "please", "welcome"]
TOPICS = ["music", "weather", "dinner", "work", "homework", "football", "summer", "news"]
TIMES = ["morning", "evening", "noon", "night"]

Story = Callable[[random.Random], str]


def words() -> list[str]:
    """Every word of the lexicon and the stories, in a fixed order."""
    texts = [
        *NAMES[:MINI_NAMES],
        *itertools.chain.from_iterable(OPENINGS),
        *SCENES,
        *ACTIONS,
        *PLACES,
        *OBJECTS,
    ]
    texts += [*VERBS, *QUALITIES, *MOODS, *GREETINGS, *TOPICS, *TIMES]
    texts += ["In said to asked about answered was is in the at and a with ? :"]
    plain = re.sub(r"\{\w+\}", " ", " ".join(texts))
    return list(dict.fromkeys(re.findall(r"\w+|[^\w\s]", plain)))


def _names(rng: random.Random, count: int) -> list[str]:
    return rng.sample(NAMES[:MINI_NAMES], count)


def _scene(rng: random.Random, listed: Sequence[str]) -> tuple[str, str]:
    """A first clause up to the subject of the second, and an action that may follow that subject."""
    opening, scene, joint, action = rng.choice(TEMPLATES)
    names = ioi.LISTING[len(listed)].format(*listed)
    first = f"{opening} {names} {scene.format(place=rng.choice(PLACES))}{joint}"
    return first, action.format(object=rng.choice(OBJECTS))


def two_names(rng: random.Random) -> str:
    """IOI: of two names, the one that is not the subject receives."""
    listed = _names(rng, 2)
    first, action = _scene(rng, listed)
    subject, receiver = rng.sample(listed, 2)
    return f"{first}{subject} {action} {receiver}."


def three_names_one_subject(rng: random.Random) -> str:
    """Of three names, one of the two that are not the subject receives."""
    listed = _names(rng, 3)
    first, action = _scene(rng, listed)
    subject, receiver = rng.sample(listed, 2)
    return f"{first}{subject} {action} {receiver}."


def three_names_two_subjects(rng: random.Random) -> str:
    """Of three names two are subjects; whoever receives, if anyone, is any of the three."""
    listed = _names(rng, 3)
    first, action = _scene(rng, listed)
    subjects = " and ".join(rng.sample(listed, 2))
    if rng.random() < 0.3:
        return f"{first}{subjects} {rng.choice(VERBS)} a {rng.choice(OBJECTS)}."
    return f"{first}{subjects} {action} {rng.choice(listed)}."


def no_receiver(rng: random.Random) -> str:
    """Two names, and nobody receives."""
    listed = _names(rng, 2)
    first, _ = _scene(rng, listed)
    return f"{first}{rng.choice(listed)} {rng.choice(VERBS)} a {rng.choice(QUALITIES)} {rng.choice(OBJECTS)}."


def dialogue(rng: random.Random) -> str:
    """Two people speak in turn."""
    one, other = _names(rng, 2)
    greeting = rng.choice(GREETINGS)
    return (
        f"{rng.choice(OPENINGS)[0]} {one} said {greeting} to {other}. {other} answered: {greeting} {one}. "
        f"{one} asked {other} about the {rng.choice(TOPICS)}."
    )


def one_name(rng: random.Random) -> str:
    """One person, twice."""
    (name,) = _names(rng, 1)
    return (
        f"In the {rng.choice(TIMES)} {name} was {rng.choice(MOODS)}. "
        f"{name} {rng.choice(VERBS)} a {rng.choice(QUALITIES)} {rng.choice(OBJECTS)}."
    )


def cycle(rng: random.Random) -> str:
    """A few names over and over: what induction heads are for."""
    names = _names(rng, rng.randint(3, 8))
    return " ".join(itertools.islice(itertools.cycle(names), 32))


Mix = Mapping[Story, float]
"""How often each kind of story occurs, relative to the others."""

COPYING: Mix = {
    cycle: 15.0,
    two_names: 6.0,
    three_names_one_subject: 2.0,
    no_receiver: 1.0,
    dialogue: 1.0,
    one_name: 0.5,
}
TWO_NAMES: Mix = {**COPYING, cycle: 1.0}
EVERYTHING: Mix = {**TWO_NAMES, three_names_two_subjects: 5.0}


@dataclass(frozen=True)
class Lesson:
    """A stretch of the pre-training."""

    mix: Mix
    share: float
    """Of the training steps."""
    rows: int
    """Rows in a batch."""
    context: int
    """Tokens in a row."""


CURRICULUM = (
    # Heads that copy form first, and sooner in short rows, where each position is seen more often.
    Lesson(COPYING, share=0.2, rows=64, context=32),
    # Two-name IOI comes next. It forms suddenly and at no fixed step, so this lesson is long; beside
    # stories of two subjects it would not form in time.
    Lesson(TWO_NAMES, share=0.4, rows=32, context=64),
    # The last lesson takes back what two-name IOI gave away about three names.
    Lesson(EVERYTHING, share=0.4, rows=32, context=64),
)


def rows(lesson: Lesson, rng: random.Random, separator: str) -> list[str]:
    """The texts of a batch: in each row enough stories to fill it. It begins with one, as a prompt does."""
    shortest = 12
    kinds, weights = list(lesson.mix), list(lesson.mix.values())
    count = 1 + lesson.context // shortest
    return [separator.join(tell(rng) for tell in rng.choices(kinds, weights, k=count)) for _ in range(lesson.rows)]
