"""Metrics computed from a model's logits, besides the loss."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_sweeps.tasks.prompts import Prompt
from mi_sweeps.tasks.tokens import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Measured = tuple[str, float, int]
"""A metric's name, its value, and the number of prompts that it averages over."""


def wilson(wins: int, n: int) -> tuple[float, float]:
    """Wilson's 95% score interval of a proportion (Wilson 1927); (0, 1) if n is 0.

    SciPy's `binomtest` gives the same (a test holds that), after an import of half a second in every process.

    >>> tuple(round(end, 2) for end in wilson(27, 50))
    (0.4, 0.67)
    """
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.975)
    middle, half = (wins + z**2 / 2) / (n + z**2), z / (n + z**2) * sqrt(wins * (n - wins) / n + z**2 / 4)
    return (0.0 if wins == 0 else middle - half), (1.0 if wins == n else middle + half)


def share(right: Bool[Tensor, " row"]) -> float:
    """The fraction that is right, computed in 64 bits: a 32-bit mean puts 216 of 240 below 0.9."""
    return int(right.sum()) / len(right) if len(right) else nan


def win_rates(wins: Bool[Tensor, " prompt"]) -> list[Measured]:
    """The win rate and its Wilson 95% interval."""
    n = len(wins)
    low, high = wilson(int(wins.sum()), n)
    return [("win_rate", share(wins), n), ("win_rate_low", low, n), ("win_rate_high", high, n)]


def logit_diffs(logits: Float[Tensor, "prompt d_vocab"], batch: Batch, names: Sequence[str]) -> list[Measured]:
    """logit(answer) minus the logit of each token it is compared with, averaged over prompts, as logit_diff_NAME."""
    answer = logits.gather(1, batch.answers[:, None])
    differences = (answer - logits.gather(1, batch.subjects)).mean(dim=0).tolist()
    return [(f"logit_diff_{name}", value, len(batch)) for name, value in zip(names, differences, strict=False)]


def prompt_metrics(
    logits: Float[Tensor, "prompt d_vocab"], batch: Batch, tokenizer: PreTrainedTokenizerBase
) -> list[Measured]:
    """The metrics of prompts with name slots: win rate, logit differences, and win rates by the answer's place and by
    the subjects' order."""
    wins = won(logits, batch, tokenizer)
    prompts = [prompt for prompt in batch.prompts if isinstance(prompt, Prompt)]
    found = [*win_rates(wins), *logit_diffs(logits, batch, ("first", "second"))]
    places = [f"win_rate_place_{prompt.answer_place}" for prompt in prompts]
    orders = [f"win_rate_order_{prompt.subject_order}" for prompt in prompts] if batch.subjects.shape[1] > 1 else []
    for labels in (places, orders):
        for label in sorted(set(labels)):
            chosen = wins[torch.tensor([other == label for other in labels])]
            found.append((label, share(chosen), len(chosen)))
    return found


def won(
    logits: Float[Tensor, "prompt d_vocab"], batch: Batch, tokenizer: PreTrainedTokenizerBase
) -> Bool[Tensor, " prompt"]:
    """Whether the most likely token spells the same word as the answer's token.

    " Tom" and "Tom" are the same word. With an uncased tokenizer the answer is "tom", however the prompt spells it.
    """
    tops, answers = logits.argmax(dim=1).tolist(), batch.answers.tolist()
    words = {token: tokenizer.decode([token]).strip() for token in {*tops, *answers}}
    return torch.tensor([words[top] == words[answer] for top, answer in zip(tops, answers, strict=True)])
