"""What a word-level model can do: its win rate, with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mi_sweeps.tasks.metrics import wilson
from mi_sweeps.tasks.prompts import Prompt


@dataclass(frozen=True)
class WinRate:
    """The share of prompts that are won, with Wilson's 95% interval."""

    wins: int
    n: int

    @property
    def rate(self) -> float:
        return self.wins / self.n

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.wins, self.n)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.rate:.1%} [{low:.1%}, {high:.1%}], n = {self.n}"


@torch.no_grad()
def win_rate(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[Prompt]) -> WinRate:
    """How often the most likely next token, of the whole vocabulary, is the answer."""
    texts = [prompt.text for prompt in prompts]
    encoded = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    last = encoded["attention_mask"].sum(dim=1) - 1
    logits: Float[Tensor, "prompt pos d_vocab"] = model(**encoded).logits
    answers = torch.tensor(tokenizer.convert_tokens_to_ids([prompt.answer for prompt in prompts]))
    won = logits[torch.arange(len(prompts)), last].argmax(dim=-1) == answers
    return WinRate(int(won.sum()), len(prompts))
