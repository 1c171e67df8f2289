"""How well a model does a task: loss, win rate and logit difference at the answer position."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_sweeps.tasks.tokens import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CHUNK = 64
"""Prompts in one forward of an evaluation."""

Metric = dict[str, str | int | float]
"""A row of the metrics table: step, split, metric, value, n."""


def end_logits(model: PreTrainedModel, batch: Batch) -> Float[Tensor, "prompt d_vocab"]:
    """Next-token logits at each prompt's last token; the head is applied there only."""
    hidden = model.base_model(input_ids=batch.tokens, use_cache=False).last_hidden_state
    at_end = hidden[torch.arange(len(batch), device=hidden.device), batch.end]
    return model.get_output_embeddings()(at_end)


def wilson(wins: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share, 95% by default (Wilson 1927).

    >>> tuple(round(end, 2) for end in wilson(27, 50))
    (0.4, 0.67)
    """
    if n == 0:
        return 0.0, 1.0
    share = wins / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


@torch.no_grad()
def evaluate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: Batch, *, step: int, split: str
) -> list[Metric]:
    """The metrics of one split at one checkpoint.

    `win_rate` is the share of prompts whose most likely next token, read as a word, is the answer;
    `win_rate_low` and `win_rate_high` are its Wilson 95% interval. Logit differences are means over prompts.
    """
    logits = torch.cat(
        [
            end_logits(model, batch.select(range(start, min(start + CHUNK, len(batch))))).float()
            for start in range(0, len(batch), CHUNK)
        ]
    )
    answer = logits.gather(1, batch.answers[:, None])
    differences = (answer - logits.gather(1, batch.subjects)).mean(dim=0).tolist()
    wins = won(logits, batch, tokenizer)
    rows: list[Metric] = []

    def add(metric: str, value: float, n: int = len(batch)) -> None:
        rows.append({"step": step, "split": split, "metric": metric, "value": float(value), "n": n})

    add("loss", torch.nn.functional.cross_entropy(logits, batch.answers).item())
    add("win_rate", wins.float().mean().item())
    low, high = wilson(int(wins.sum()), len(batch))
    add("win_rate_low", low)
    add("win_rate_high", high)
    for name, difference in zip(("first", "second"), differences, strict=False):
        add(f"logit_diff_{name}", difference)
    places = [f"win_rate_place_{prompt.answer_place}" for prompt in batch.prompts]
    orders = (
        [f"win_rate_order_{prompt.subject_order}" for prompt in batch.prompts] if batch.subjects.shape[1] > 1 else []
    )
    for labels in (places, orders):
        for label in sorted(set(labels)):
            chosen = wins[torch.tensor([other == label for other in labels])]
            add(label, chosen.float().mean().item(), len(chosen))
    return rows


def won(
    logits: Float[Tensor, "prompt d_vocab"], batch: Batch, tokenizer: PreTrainedTokenizerBase
) -> Bool[Tensor, " prompt"]:
    """Whether the most likely token, read as a word, is the answer; " Tom" and "Tom" are the same word."""
    words = [tokenizer.decode([token]).strip() for token in logits.argmax(dim=1).tolist()]
    return torch.tensor([word == prompt.answer for word, prompt in zip(words, batch.prompts, strict=True)])
