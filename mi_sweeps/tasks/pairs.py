"""Pairs of clean and corrupted prompts, with the logit difference that is measured on them."""

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
from mi_sweeps.tasks.roles import wrong_role
from mi_sweeps.tasks.tokens import Batch, Contrast

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Pairs:
    """Prompt pairs of equal length. Answers, and the tokens they are compared with, are the clean prompts'.

    Raises:
        UserError: the two sides do not correspond token by token and role by role, a prompt's roles are not unique, or
            the weights do not fit the subjects.
    """

    clean: Batch
    corrupted: Batch
    subject_weights: Float[Tensor, " subject"] | None = None
    """The weight of each subject's logit in the logit difference; None if the clean batch has a `contrast`."""

    def __post_init__(self) -> None:
        if len(self.clean) != len(self.corrupted) or not len(self.clean):
            raise UserError(
                f"pairs: {len(self.clean)} clean prompts and {len(self.corrupted)} corrupted ones; give equally many"
            )
        weights = self.subject_weights
        if self.clean.contrast and weights is not None:
            raise UserError("pairs: the prompts have a contrast, which has its own weights; give no subject_weights")
        if not self.clean.contrast and (weights is None or weights.shape != self.clean.subjects.shape[1:]):
            raise UserError(
                f"pairs: {self.clean.subjects.shape[1]} subjects per prompt but "
                f"{'no' if weights is None else weights.numel()} weights; give one for each subject"
            )
        # Pairs are made, and checked, on the CPU; reading values on a GPU would mean waiting for it.
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
        """The tokens in the logit difference (answer, subjects) and their signed weights."""
        if self.clean.contrast:
            return self.clean.contrast
        assert self.subject_weights is not None
        tokens = torch.cat([self.clean.answers[:, None], self.clean.subjects], dim=1)
        one = torch.ones(1, device=tokens.device)
        weights = torch.cat([one, -self.subject_weights.to(tokens.device)])
        return Contrast(tokens, weights.expand(tokens.shape))

    def logit_diff(self, logits: Float[Tensor, "prompt d_vocab"]) -> Float[Tensor, " prompt"]:
        """logit(answer) minus the weighted logits of the subjects, given the logits at each prompt's end."""
        return self.contrast.of(logits)

    def at_end(self, values: Float[Tensor, "prompt pos ..."]) -> Float[Tensor, "prompt ..."]:
        """Values at each prompt's last token."""
        return values[torch.arange(len(self.clean), device=values.device), self.clean.end]


def uncorrupted_note(pairs: Pairs, corruption: str) -> list[str]:
    """A line if some prompts are not corrupted at all: how many, and where the others differ; else nothing."""
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
    checked: set[tuple[str, ...]] = set()
    for row, (end, other) in enumerate(zip(clean.end.tolist(), corrupted.end.tolist(), strict=True)):
        if end != other:
            raise UserError(
                f"pairs: prompt {row} has {end + 1} tokens but its corrupted partner has {other + 1}; patching goes "
                "position by position, so give it a partner with the same number of tokens"
            )
        if not 0 <= end < clean.tokens.shape[1] or len(clean.roles[row]) != end + 1:
            raise UserError(
                f"pairs: prompt {row} ends at position {end} of {clean.tokens.shape[1]} but has "
                f"{len(clean.roles[row])} roles; give one for each token up to the end"
            )
        roles, others = clean.roles[row], corrupted.roles[row]
        if roles not in checked and (wrong := wrong_role(roles)):
            raise UserError(f"pairs: prompt {row} has {wrong}")
        checked.add(roles)
        if roles != others:
            where = next((pair for pair in zip(roles, others, strict=False) if pair[0] != pair[1]), ("end", "none"))
            raise UserError(
                f"pairs: prompt {row} and its corrupted partner do not correspond token by token: where it has "
                f"{where[0]!r}, the partner has {where[1]!r}; replace words only by words of as many tokens"
            )
    if clean.tokens.shape != corrupted.tokens.shape:
        raise UserError(
            f"pairs: clean prompts are padded to {clean.tokens.shape[1]} tokens but corrupted ones to "
            f"{corrupted.tokens.shape[1]}; pad both to the same length"
        )
    for name, tokens in {
        "clean tokens": clean.tokens,
        "corrupted tokens": corrupted.tokens,
        "answers": clean.answers,
        "subjects": clean.subjects,
        **({"tokens of the contrast": clean.contrast.tokens} if clean.contrast else {}),
    }.items():
        if tokens.is_floating_point() or (tokens.numel() and int(tokens.min()) < 0):
            raise UserError(f"pairs: {name} are not all token numbers (0 or more)")


def make_pairs(
    prompts: Sequence[Prompt],
    corruption: str,
    tokenizer: PreTrainedTokenizerBase,
    names: Sequence[str],
    prepend_bos: bool,
) -> Pairs:
    """Corrupts prompts and tokenizes both sides.

    Raises:
        UserError: the corruption does not fit the prompts, or changes the number of tokens in one.
    """
    clean = encode(prompts, tokenizer, prepend_bos=prepend_bos)
    others = partners(prompts, corruption, names)
    corrupted = encode(others, tokenizer, prepend_bos=prepend_bos)
    for prompt, partner, length, other in zip(prompts, others, clean.end.tolist(), corrupted.end.tolist(), strict=True):
        if length != other:
            raise UserError(
                f"prompt {prompt.text!r}: its corrupted partner {partner.text!r} has a different number of tokens"
            )
    return Pairs(clean, corrupted, metric_weights(corruption, clean.subjects.shape[1]))
