"""Sampling for the built-in question tasks: single-token words, splits of them, and balanced prompts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mi_sweeps.errors import UserError
from mi_sweeps.tasks.encoding import is_one_token
from mi_sweeps.tasks.questions import Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def usable(words: Sequence[str], tokenizer: PreTrainedTokenizerBase, what: str, least: int) -> tuple[list[str], str]:
    """The words that are one token after a space, and a line naming those left out ("" if none are).

    Raises:
        UserError: there are fewer than `least`.
    """
    kept = [word for word in words if is_one_token(word, tokenizer)]
    left = [word for word in words if word not in kept]
    few = ", ".join(left[:6]) + (", …" if len(left) > 6 else "")
    if len(kept) < least:
        raise UserError(
            f"task: {len(kept)} of {len(words)} {what} are one token of the model's tokenizer, but {least} are needed "
            f"(not: {few}); use another model"
        )
    return kept, f"{len(left)} of {len(words)} {what} are not one token: {few}" if left else ""


def divide(words: Sequence[Any], share: float, rng: random.Random) -> tuple[list[Any], list[Any]]:
    """Shuffles words and splits them: those for training, and a `share` of them for evaluation."""
    shuffled = rng.sample(list(words), len(words))
    cut = max(1, round(share * len(shuffled)))
    return shuffled[cut:], shuffled[:cut]


def counts(prompts: Mapping[str, int], groups: int) -> tuple[int, int]:
    """The numbers of training and held-out questions.

    Raises:
        UserError: they are not two positive multiples of the number of groups.
    """
    if set(prompts) != {"train", "heldout"} or min(prompts.values()) < 1:
        raise UserError(f"task.prompts={dict(prompts)}: give positive numbers for train and heldout")
    for split, count in prompts.items():
        if count % groups:
            raise UserError(f"task.prompts.{split}={count}: cannot be balanced over {groups} groups; use a multiple")
    return prompts["train"], prompts["heldout"]


def choose(options: Sequence[Any], count: int, rng: random.Random, what: str) -> list[Any]:
    """Draws `count` distinct options.

    Raises:
        UserError: there are fewer.
    """
    if count > len(options):
        raise UserError(f"task.prompts: {count} {what} are requested but only {len(options)} exist; ask for fewer")
    return rng.sample(options, count)


def describe(
    questions: Sequence[Question], rules: Mapping[str, Callable[[Question], str]] | None = None
) -> dict[str, str]:
    """Describes held-out questions: the size of each group, and the win rates of shortcut rules that do not solve the
    task."""
    groups = Counter(question.group for question in questions)
    sizes = ", ".join(f"{name} {count}" for name, count in sorted(groups.items()) if name)
    constant = Counter(word for question in questions for word in question.right).most_common(1)[0][0]
    every = {f"always {constant.strip()}": lambda question: constant, **(rules or {})}
    won = {rule: sum(say(one) in one.right for one in questions) / len(questions) for rule, say in every.items()}
    return {
        **({"held-out groups": sizes} if sizes else {}),
        "held-out win rate of rules": ", ".join(f"{rule} {rate:.0%}" for rule, rate in won.items()),
    }
