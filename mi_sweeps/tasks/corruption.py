"""Corrupted prompts: the same sentence with other names in its subject slots.

Clean and corrupted differ in the named slots and nowhere else, so positions correspond and whatever patching
recovers comes from those slots (Zhang & Nanda 2023, arXiv:2309.16042, on why symmetric replacement of tokens
is to be preferred to noise). The corruption also decides against which subject the answer is measured:

    logit difference = logit(answer) - mean over the metric's subjects of logit(subject)

| corruption | changes                                   | metric's subjects |
|------------|-------------------------------------------|-------------------|
| `first`    | first subject -> the answer's name        | the first         |
| `second`   | second subject -> the answer's name       | the second        |
| `both`     | both subjects -> two names new to the sentence | both         |
| `order`    | the subjects change places                | both              |

`both` takes new names because the sentence has only one other name left, the answer: with new names no listed
name is repeated, and nothing in the prompt says who the answer is (the ABC prompts of Wang et al. 2022).
`order` is a control: the answer stays, so a circuit for the task should not care.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mi_sweeps.errors import UserError
from mi_sweeps.tasks import METRIC_SUBJECTS
from mi_sweeps.tasks.prompts import Prompt


def corrupt(prompt: Prompt, corruption: str, names: Sequence[str] = ()) -> Prompt:
    """The corrupted partner of a prompt; its `answer` stays the clean one.

    Args:
        names: where `both` finds new names; the choice depends on the prompt's text only.

    Raises:
        UserError: there is no such corruption, or the prompt has too few subjects for it, or there are no two new
            names.
    """
    if corruption not in METRIC_SUBJECTS:
        raise UserError(
            f"corruption={corruption}: prompts with names have none of that name; choose {', '.join(METRIC_SUBJECTS)}"
        )
    first = len(prompt.slots) - prompt.n_subjects
    needed = max(METRIC_SUBJECTS[corruption]) + 1
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
    """How much of each subject's logit is taken from the answer's; sums to 1."""
    chosen = METRIC_SUBJECTS[corruption]
    weights = torch.zeros(n_subjects)
    weights[list(chosen)] = 1 / len(chosen)
    return weights


def unknown_corruption(corruption: str, known: Iterable[str]) -> UserError:
    """What a task says of a corruption that it has not."""
    return UserError(f"corruption={corruption}: this task has none of that name; choose among {', '.join(known)}")
