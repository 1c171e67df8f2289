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
    """Prompt pairs of the same lengths; answers and subjects are the clean prompts'.

    Raises:
        UserError: the two sides do not correspond token by token, or the weights do not fit the subjects.
    """

    clean: Batch
    corrupted: Batch
    subject_weights: Float[Tensor, " subject"]
    """How much of each subject's logit is taken from the answer's."""

    def __post_init__(self) -> None:
        if len(self.clean) != len(self.corrupted) or not len(self.clean):
            raise UserError(
                f"pairs: {len(self.clean)} clean prompts and {len(self.corrupted)} corrupted ones; give one for one"
            )
        if self.subject_weights.shape != self.clean.subjects.shape[1:]:
            raise UserError(
                f"pairs: {self.clean.subjects.shape[1]} subjects a prompt, and {self.subject_weights.numel()} weights; "
                "give each subject one"
            )
        # To look at values on a GPU is to wait for it; pairs are made on the CPU, so theirs have been looked at.
        if self.clean.tokens.device.type == "cpu":
            _check_prompts(self.clean, self.corrupted)

    def select(self, rows: Sequence[int]) -> Pairs:
        """Some of the pairs."""
        return Pairs(self.clean.select(rows), self.corrupted.select(rows), self.subject_weights)

    def to(self, device: torch.device | str) -> Pairs:
        """The same pairs on another device."""
        return Pairs(self.clean.to(device), self.corrupted.to(device), self.subject_weights.to(device))

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


def _check_prompts(clean: Batch, corrupted: Batch) -> None:
    for row, (end, other) in enumerate(zip(clean.end.tolist(), corrupted.end.tolist(), strict=True)):
        if end != other:
            raise UserError(
                f"pairs: prompt {row} has {end + 1} tokens, and its corrupted partner {other + 1}; patching goes "
                "position by position, so give it a partner with as many tokens"
            )
        if not 0 <= end < clean.tokens.shape[1] or len(clean.roles[row]) != end + 1:
            raise UserError(
                f"pairs: prompt {row} ends at position {end} of {clean.tokens.shape[1]}, and {len(clean.roles[row])} "
                "of its tokens have a role; give each token up to the end one"
            )
    if clean.tokens.shape != corrupted.tokens.shape:
        raise UserError(
            f"pairs: clean prompts are padded to {clean.tokens.shape[1]} tokens and corrupted ones to "
            f"{corrupted.tokens.shape[1]}; pad both alike"
        )
    for name, tokens in {
        "clean tokens": clean.tokens,
        "corrupted tokens": corrupted.tokens,
        "answers": clean.answers,
        "subjects": clean.subjects,
    }.items():
        if tokens.is_floating_point() or (tokens.numel() and int(tokens.min()) < 0):
            raise UserError(f"pairs: {name} are not all token numbers, which begin at 0")


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
