"""Clean and corrupted prompts side by side, with the logit difference that measures them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from mi_sweeps.errors import UserError
from mi_sweeps.tasks.corruption import metric_weights, partners
from mi_sweeps.tasks.encoding import encode
from mi_sweeps.tasks.prompts import Prompt
from mi_sweeps.tasks.tokens import Batch, Contrast

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Pairs:
    """Prompt pairs of the same lengths; answers and what they are measured against are the clean prompts'.

    Raises:
        UserError: the two sides do not correspond token by token, or the weights do not fit the subjects.
    """

    clean: Batch
    corrupted: Batch
    subject_weights: Float[Tensor, " subject"] | None = None
    """How much of each subject's logit is taken from the answer's; None where the clean batch has a `contrast`."""

    def __post_init__(self) -> None:
        if len(self.clean) != len(self.corrupted) or not len(self.clean):
            raise UserError(
                f"pairs: {len(self.clean)} clean prompts and {len(self.corrupted)} corrupted ones; give one for one"
            )
        weights = self.subject_weights
        if self.clean.contrast and weights is not None:
            raise UserError("pairs: the prompts have a contrast, which has weights of its own; give no subject_weights")
        if not self.clean.contrast and (weights is None or weights.shape != self.clean.subjects.shape[1:]):
            raise UserError(
                f"pairs: {self.clean.subjects.shape[1]} subjects a prompt, and "
                f"{'no' if weights is None else weights.numel()} weights; give each subject one"
            )
        # To look at values on a GPU is to wait for it; pairs are made on the CPU, so theirs have been looked at.
        if self.clean.tokens.device.type == "cpu":
            _check_prompts(self.clean, self.corrupted)

    def select(self, rows: Sequence[int]) -> Pairs:
        """Some of the pairs."""
        return Pairs(self.clean.select(rows), self.corrupted.select(rows), self.subject_weights)

    def to(self, device: torch.device | str) -> Pairs:
        """The same pairs on another device."""
        weights = self.subject_weights
        return Pairs(self.clean.to(device), self.corrupted.to(device), None if weights is None else weights.to(device))

    @property
    def contrast(self) -> Contrast:
        """The tokens that the logit difference is made of (answer, subjects), and their signed weights."""
        if self.clean.contrast:
            return self.clean.contrast
        assert self.subject_weights is not None
        tokens = torch.cat([self.clean.answers[:, None], self.clean.subjects], dim=1)
        one = torch.ones(1, device=tokens.device)
        weights = torch.cat([one, -self.subject_weights.to(tokens.device)])
        return Contrast(tokens, weights.expand(tokens.shape))

    def logit_diff(self, logits: Float[Tensor, "prompt d_vocab"]) -> Float[Tensor, " prompt"]:
        """logit(answer) - weighted logits of the subjects, from logits at each prompt's end."""
        return self.contrast.of(logits)

    def at_end(self, values: Float[Tensor, "prompt pos ..."]) -> Float[Tensor, "prompt ..."]:
        """Values at each prompt's last token."""
        return values[torch.arange(len(self.clean), device=values.device), self.clean.end]


def told(pairs: Pairs, corruption: str) -> list[str]:
    """A line for a reader where some prompts are not corrupted at all: how many, and by what the others differ."""
    differs = pairs.clean.tokens != pairs.corrupted.tokens
    roles = [
        " and ".join(role for role, other in zip(names, row, strict=False) if other)
        for names, row in zip(pairs.clean.roles, differs.tolist(), strict=True)
    ]
    same = roles.count("")
    if not same:
        return []
    others = " or ".join(dict.fromkeys(filter(None, roles)))
    rest = f", and the others differ in {others}" if others else ""
    return [f"corruption={corruption}: of {len(roles)} prompts {same} are not corrupted{rest}"]


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
        **({"tokens of the contrast": clean.contrast.tokens} if clean.contrast else {}),
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
    others = partners(prompts, corruption, names)
    corrupted = encode(others, tokenizer, prepend_bos=prepend_bos)
    for prompt, partner, length, other in zip(prompts, others, clean.end.tolist(), corrupted.end.tolist(), strict=True):
        if length != other:
            raise UserError(f"prompt {prompt.text!r}: its corruption {partner.text!r} has another number of tokens")
    return Pairs(clean, corrupted, metric_weights(corruption, clean.subjects.shape[1]))
