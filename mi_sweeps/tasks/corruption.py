"""Corrupted prompts: the same sentence with other names in its subject slots.

Clean and corrupted prompts differ only in the replaced slots, so their positions correspond, and whatever patching
recovers comes from those slots (Zhang & Nanda 2023, arXiv:2309.16042, explain why replacing tokens is better than
adding noise). The corruption also decides which subjects the answer is compared with:

    logit difference = logit(answer) - mean over the metric's subjects of logit(subject)

| corruption | changes                                        |
|------------|------------------------------------------------|
| `first`    | first subject -> the answer's name             |
| `second`   | second subject -> the answer's name            |
| `both`     | both subjects -> two names new to the sentence |
| `order`    | the subjects swap places                       |
| `trio`     | in two of three prompts both subjects          |

`mi_sweeps.tasks.OF_NAMES` declares them, with the metric's subjects.

`both` uses new names because the only other name in the sentence is the answer. With new names no listed name is
repeated, and nothing in the prompt tells the answer (the ABC prompts of Wang et al. 2022).
`order` is a control: the answer stays the same, so a circuit for the task should not care.
`trio` reproduces the corruption of the experiment that this project grew out of, faults included: among three prompts
that differ only in who is the answer, the first two are each other's partners and the third is its own. So a third of
the prompts are not corrupted at all, the others in both subjects, and the answer is compared with the first alone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from mi_sweeps.errors import UserError
from mi_sweeps.tasks import OF_NAMES
from mi_sweeps.tasks.prompts import Prompt

TRIO = "trio"
SWAPPED = (1, 0, 2)
"""The partner of each of three prompts, by index."""


def partners(prompts: Sequence[Prompt], corruption: str, names: Sequence[str] = ()) -> list[Prompt]:
    """The corrupted partners of prompts. Each keeps the clean prompt's `answer`.

    Args:
        prompts: for `trio`, in the order in which `trios` returns them.
        names: the new names for `both` are drawn from these; the draw depends only on each prompt's text.

    Raises:
        UserError: the corruption does not exist, needs more subjects, or needs two new names and none are left.
    """
    if corruption not in OF_NAMES:
        raise UserError(
            f"corruption={corruption}: prompts with names have no such corruption; choose {', '.join(OF_NAMES)}"
        )
    if corruption == TRIO:
        others = [prompts[at - at % 3 + SWAPPED[at % 3]] for at in range(len(prompts))]
        return [replace(other, answer=prompt.answer) for prompt, other in zip(prompts, others, strict=True)]
    return [corrupt(prompt, corruption, names) for prompt in prompts]


def trios(prompts: Iterable[Prompt], count: int) -> list[Prompt]:
    """Up to `count` prompts, in threes that differ only in who is the answer, and so in their subjects.

    Raises:
        UserError: there are none, or `count` is not a multiple of three.
    """
    if count % 3:
        raise UserError(f"corruption={TRIO}: prompts come in threes, and {count} is not a multiple of 3; give one")
    found: dict[str, dict[str, Prompt]] = {}
    for prompt in prompts:
        first = len(prompt.slots) - prompt.n_subjects
        sentence = prompt.with_slots(dict.fromkeys(range(first, len(prompt.slots)), "…")).text
        found.setdefault(sentence, {}).setdefault(prompt.answer, prompt)
    chosen = [prompt for three in found.values() if len(three) == 3 for prompt in three.values()][:count]
    if not chosen:
        raise UserError(
            f"corruption={TRIO}: needs prompts in threes that differ only in who is the answer; use task.trios=true, "
            "or rows of your own that do"
        )
    return chosen


def corrupt(prompt: Prompt, corruption: str, names: Sequence[str] = ()) -> Prompt:
    """The corrupted partner of one prompt, for every corruption but `trio`.

    Raises:
        UserError: as for `partners`.
    """
    first = len(prompt.slots) - prompt.n_subjects
    needed = OF_NAMES[corruption].needs
    if prompt.n_subjects < needed:
        raise UserError(
            f"corruption={corruption}: needs {needed} subjects, and the task's prompts have {prompt.n_subjects}; "
            "use corruption=first, or a task with three names"
        )
    if corruption == "first":
        return prompt.with_slots({first: prompt.answer})
    if corruption == "second":
        return prompt.with_slots({first + 1: prompt.answer})
    if corruption == "order":
        return prompt.with_slots({first: prompt.subjects[1], first + 1: prompt.subjects[0]})
    others = sorted(set(names) - set(re.findall(r"\w+", prompt.text)) - set(prompt.slot_names()))
    if len(others) < 2:
        raise UserError("corruption=both: needs two names that are not in the prompt; give more names with task.names")
    new = random.Random(f"both {prompt.text}").sample(others, 2)
    return prompt.with_slots({first: new[0], first + 1: new[1]})


def metric_weights(corruption: str, n_subjects: int) -> Float[Tensor, " subject"]:
    """The weight of each subject's logit in the logit difference; the weights sum to 1."""
    chosen = OF_NAMES[corruption].against
    weights = torch.zeros(n_subjects)
    weights[list(chosen)] = 1 / len(chosen)
    return weights


def unknown_corruption(corruption: str, known: Iterable[str]) -> UserError:
    """The error for a corruption that a task does not have."""
    return UserError(f"corruption={corruption}: this task has no such corruption; choose among {', '.join(known)}")
