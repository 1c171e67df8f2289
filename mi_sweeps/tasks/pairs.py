"""Clean and corrupted prompts side by side, with the logit difference that measures them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_sweeps.errors import UserError
from mi_sweeps.tasks.corruption import corrupt, metric_weights
from mi_sweeps.tasks.prompts import Prompt
from mi_sweeps.tasks.tokens import Batch, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Pairs:
    """Prompt pairs of the same lengths; answers and subjects are the clean prompts'."""

    clean: Batch
    corrupted: Batch
    subject_weights: Float[Tensor, " subject"]
    """How much of each subject's logit is taken from the answer's."""

    def select(self, rows: Sequence[int]) -> Pairs:
        """Some of the pairs."""
        return Pairs(self.clean.select(rows), self.corrupted.select(rows), self.subject_weights)

    def tokens_and_weights(self) -> tuple[Int[Tensor, "prompt token"], Float[Tensor, " token"]]:
        """The tokens that the logit difference is made of (answer, subjects), and their signed weights."""
        tokens = torch.cat([self.clean.answers[:, None], self.clean.subjects], dim=1)
        one = torch.ones(1, device=tokens.device)
        return tokens, torch.cat([one, -self.subject_weights.to(tokens.device)])

    def logit_diff(self, logits: Float[Tensor, "prompt d_vocab"]) -> Float[Tensor, " prompt"]:
        """logit(answer) - weighted logits of the subjects, from logits at each prompt's end."""
        tokens, weights = self.tokens_and_weights()
        return logits.gather(1, tokens) @ weights

    def at_end(self, values: Float[Tensor, "prompt pos ..."]) -> Float[Tensor, "prompt ..."]:
        """Values at each prompt's last token."""
        return values[torch.arange(len(self.clean), device=values.device), self.clean.end]


def make_pairs(
    prompts: Sequence[Prompt],
    corruption: str,
    tokenizer: PreTrainedTokenizerBase,
    names: Sequence[str],
    prepend_bos: bool,
) -> Pairs:
    """Corrupts prompts and tokenizes both sides.

    Raises:
        UserError: the corruption does not fit the prompts, or changes their length in tokens.
    """
    clean = encode(prompts, tokenizer, prepend_bos=prepend_bos)
    partners = [corrupt(prompt, corruption, names) for prompt in prompts]
    corrupted = encode(partners, tokenizer, prepend_bos=prepend_bos)
    for prompt, partner, length, other in zip(
        prompts, partners, clean.end.tolist(), corrupted.end.tolist(), strict=True
    ):
        if length != other:
            raise UserError(f"prompt {prompt.text!r}: its corruption {partner.text!r} has another number of tokens")
    return Pairs(clean, corrupted, metric_weights(corruption, clean.subjects.shape[1]))
