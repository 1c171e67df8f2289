"""Generated indirect object identification prompts (Wang et al. 2022, arXiv:2211.00593).

With two names it is the task of the paper; with three names, two of them subjects, it is the task of the experiment
that this project grew out of: "After Mary, John and Tom went to the store, John and Mary gave a book to" -> "Tom".
Prompts are balanced exactly over the orders (the answer's place among the listed names, times the order of
the subjects), and evaluation prompts use name sets and templates that training prompts do not.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from math import comb
from typing import TYPE_CHECKING

from mi_sweeps.errors import UserError
from mi_sweeps.models import mini
from mi_sweeps.tasks.audit import describe_splits
from mi_sweeps.tasks.data import TaskData, checked_repeat
from mi_sweeps.tasks.encoding import is_one_token, required
from mi_sweeps.tasks.lexicon import ACTIONS, NAMES, OBJECTS, OPENINGS, PLACES, SCENES
from mi_sweeps.tasks.prompts import Prompt, fill

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LISTING = {2: "{} and {}", 3: "{}, {} and {}"}
SUBJECTS = {2: "{}", 3: "{} and {}"}

Template = tuple[str, str, str, str]
"""Opening, scene, joint, action."""


def templates(seed: int) -> tuple[list[Template], list[Template]]:
    """All templates: three quarters for training, then one quarter for evaluation."""
    every = [
        (opening, scene, joint, action)
        for (opening, joint), scene, action in itertools.product(OPENINGS, SCENES, ACTIONS)
    ]
    random.Random(f"templates {seed}").shuffle(every)
    cut = len(every) // 4
    return every[cut:], every[:cut]


def orders(n_names: int) -> list[tuple[int, tuple[int, ...]]]:
    """Each order as (place of the answer, places of the subjects in turn): 6 for three names, 2 for two."""
    return [
        (answer, subjects)
        for answer in range(n_names)
        for subjects in itertools.permutations([place for place in range(n_names) if place != answer])
    ]


def name_sets(
    names: Sequence[str], size: int, counts: Sequence[int], rng: random.Random
) -> list[list[tuple[str, ...]]]:
    """Draws disjoint lists of distinct name sets, `counts[i]` of them in list i.

    Raises:
        UserError: the names give too few sets.
    """
    available = comb(len(names), size)
    if sum(counts) > available:
        raise UserError(
            f"task: {sum(counts)} prompts need as many different sets of {size} names, "
            f"and {len(names)} names give {available}; ask for fewer prompts or give more names"
        )
    sets = rng.sample(list(itertools.combinations(names, size)), sum(counts))
    stops = list(itertools.accumulate(counts))
    return [sets[stop - count : stop] for count, stop in zip(counts, stops, strict=True)]


def generate(sets: Sequence[tuple[str, ...]], choices: Sequence[Template], rng: random.Random) -> list[Prompt]:
    """Makes one prompt from each name set, with a random template, place and object.

    Raises:
        UserError: the number of prompts is not a multiple of the number of orders.
    """
    if not sets:
        return []
    n_names = len(sets[0])
    every_order = orders(n_names)
    if len(sets) % len(every_order):
        raise UserError(
            f"task: {len(sets)} prompts cannot be balanced over {len(every_order)} orders; "
            f"use a multiple of {len(every_order)}"
        )
    prompts = []
    for index, names in enumerate(sets):
        text, source, listed = _sentence(names, choices, rng)
        answer, subjects = every_order[index % len(every_order)]
        slots = [*listed, *(listed[place] for place in subjects)]
        prompts.append(fill(text, slots, listed[answer], len(subjects), source))
    rng.shuffle(prompts)
    return prompts


def generate_trios(sets: Sequence[tuple[str, ...]], choices: Sequence[Template], rng: random.Random) -> list[Prompt]:
    """Makes three prompts from each set of three names: each name is the answer once, and all else stays the same.

    The subjects are the next two names going round the list, in one direction for even sentences and in the other for
    odd ones. So any two prompts of a sentence differ in both subjects, and two sentences together have all orders.

    Raises:
        UserError: the number of sets is odd, so that the prompts are not balanced over the orders.
    """
    if len(sets) % 2:
        raise UserError(
            f"task: {3 * len(sets)} prompts in threes cannot be balanced over 6 orders; use a multiple of 6"
        )
    prompts = []
    for index, names in enumerate(sets):
        text, source, listed = _sentence(names, choices, rng)
        step = 1 if index % 2 else -1
        for answer in range(3):
            subjects = [listed[(answer + step) % 3], listed[(answer + 2 * step) % 3]]
            prompts.append(fill(text, [*listed, *subjects], listed[answer], 2, source))
    rng.shuffle(prompts)
    return prompts


def _sentence(names: tuple[str, ...], choices: Sequence[Template], rng: random.Random) -> tuple[str, str, list[str]]:
    """A text with empty slots, the template it was made from, and the names in the order in which they are listed."""
    listed = rng.sample(names, len(names))
    opening, scene, joint, action = rng.choice(choices)
    scene = scene.format(place=rng.choice(PLACES))
    action = action.format(object=rng.choice(OBJECTS))
    text = f"{opening} {LISTING[len(names)]} {scene}{joint}{SUBJECTS[len(names)]} {action}"
    return text, "|".join((opening, scene.split()[0], joint.strip(), action.split()[0])), listed


def divide_names(names: Sequence[str], n_names: int, prompts: dict[str, int], seed: int) -> tuple[list[str], list[str]]:
    """Divides the names into those for training and those for evaluation: a third, or more if more are needed.

    Args:
        prompts: the number of prompts for each split; those of `two_name` have two names.

    Raises:
        UserError: there are too few names.
    """
    pairs = prompts.get("two_name", 0)
    train = _needed(n_names, prompts["train"])
    if n_names == 2:
        others = _needed(2, prompts["heldout"] + pairs)
    else:
        others = max(_needed(n_names, prompts["heldout"]), _needed(2, pairs))
    if train + others > len(names):
        raise UserError(
            f"task.disjoint_names=true: {prompts['train']} training prompts need {train} names and the evaluated ones "
            f"{others} others, {train + others} in all, but there are only {len(names)}; ask for fewer prompts "
            "(task.prompts) or give more names"
        )
    shuffled = random.Random(f"names {seed}").sample(list(names), len(names))
    kept = min(max(others, round(len(names) / 3)), len(names) - train)
    return shuffled[kept:], shuffled[:kept]


def _needed(size: int, count: int) -> int:
    """The smallest number of names that gives `count` distinct sets of the given size."""
    return next(n for n in itertools.count(size) if comb(n, size) >= count)


def splits(
    names: Sequence[str],
    n_names: int,
    counts: dict[str, int],
    seed: int,
    heldout_names: Sequence[str] | None = None,
    *,
    trios: bool = False,
) -> dict[str, list[Prompt]]:
    """Makes the prompts of each split: `train` from the training templates, every other split from the evaluation ones.

    No two splits share a name set. With `heldout_names`, all splits but `train` use these names. With `trios`, three
    prompts share each name set.
    """
    training, evaluation = templates(seed)
    if trios:
        counts = {split: count // 3 for split, count in counts.items()}
    rng = random.Random(f"prompts {n_names} {seed}")
    if heldout_names is None:
        drawn = dict(zip(counts, name_sets(names, n_names, list(counts.values()), rng), strict=True))
    else:
        others = {split: count for split, count in counts.items() if split != "train"}
        drawn = dict(zip(others, name_sets(heldout_names, n_names, list(others.values()), rng), strict=True))
        if "train" in counts:
            (drawn["train"],) = name_sets(names, n_names, [counts["train"]], rng)
    made = generate_trios if trios else generate
    return {split: made(drawn[split], training if split == "train" else evaluation, rng) for split in counts}


def task(
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    n_names: int,
    prompts: dict[str, int],
    names: Sequence[str] | None,
    seed: int,
    disjoint_names: bool = False,
    repeat: int = 1,
    trios: bool = False,
) -> TaskData:
    """Generates the task.

    Args:
        prompts: the number of prompts for `train`, `heldout` and, if wanted, `two_name`.
        disjoint_names: whether evaluated prompts share no name with training prompts.
        repeat: how many times in a row the answer follows a training prompt; the loss is the mean over all of them.
        trios: whether prompts come in threes that differ only in who is the answer, as corruption=trio requires.

    Raises:
        UserError: a name is not one token, there are too few names, or the number of prompts cannot be balanced.
    """
    tokenizer = required(tokenizer)
    if n_names not in LISTING:
        raise UserError(f"task.n_names={n_names}: use 2 or 3")
    unknown = sorted(set(prompts) - {"train", "heldout", "two_name"})
    if unknown or min(prompts.values(), default=0) < 0 or not (prompts.get("train") and prompts.get("heldout")):
        raise UserError(f"task.prompts={prompts}: give positive numbers for train, heldout and, if wanted, two_name")
    usable = single_token_names(tokenizer, names)
    # Pairs and triples share no name set anyway; if the task itself has two names, all splits are drawn together.
    counts = {split: count for split, count in prompts.items() if split != "two_name" or n_names == 2}
    if not isinstance(disjoint_names, bool):
        raise UserError(f"task.disjoint_names={disjoint_names}: give true or false")
    if not isinstance(trios, bool) or (trios and n_names != 3):
        raise UserError(f"task.trios={trios}: give true or false; only prompts with three names come in threes")
    if trios and any(count % 3 for count in counts.values()):
        raise UserError(f"task.prompts={prompts}: with task.trios=true three share a name set; use multiples of 6")
    sets = {split: count // 3 if trios and split != "two_name" else count for split, count in prompts.items()}
    training, heldout = divide_names(usable, n_names, sets, seed) if disjoint_names else (usable, None)
    data = splits(training, n_names, counts, seed, heldout, trios=trios)
    if prompts.get("two_name") and n_names != 2:
        # These are never trained on, so every template of the evaluation quarter is new to the model.
        data["two_name"] = splits(usable, 2, {"two_name": prompts["two_name"]}, seed, heldout)["two_name"]
    notes = pretrained_on(tokenizer, seed)
    audit = {"names": usable, **({"notes": notes} if notes else {}), **describe_splits(data)}
    return TaskData(data, usable, audit, checked_repeat(repeat))


def pretrained_on(tokenizer: PreTrainedTokenizerBase, seed: int) -> list[str]:
    """A note if the model is the embedded one (`mi_sweeps.models.mini`) and was pretrained on evaluation templates."""
    seen = set(templates(mini.TEMPLATE_SEED)[0]) & set(templates(seed)[1])
    if not seen or set(tokenizer.get_vocab()) != mini.vocabulary():
        return []
    return [
        f"task.seed={seed}: the model saw {len(seen)} of the {len(templates(seed)[1])} evaluation templates in "
        f"pre-training; with task.seed={mini.TEMPLATE_SEED} it saw none"
    ]


def single_token_names(tokenizer: PreTrainedTokenizerBase, names: Sequence[str] | None = None) -> list[str]:
    """The lexicon's names that are one token; or the given names, all of which must be.

    Raises:
        UserError: a given name is not one token.
    """
    chosen = [name for name in dict.fromkeys(names or NAMES) if is_one_token(name, tokenizer)]
    if bad := [name for name in names or () if name not in chosen]:
        raise UserError(f"task.names: {', '.join(bad)}: not one token of the model's tokenizer; use other names")
    return chosen
