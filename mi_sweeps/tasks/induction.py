"""Induction: a random sequence, repeated (Elhage et al. 2021; Olsson et al. 2022, arXiv:2209.11895).

"3 1 4 3 1" should be followed by 4: find the earlier occurrence of the last token, and predict the token after it. All
tokens of a sequence differ, so there is exactly one earlier occurrence. Only the repetition is scored, from the
sequence's second token on. Every training step draws new sequences.

| corruption            | replaces, with a token that is not in the sequence                            |
|-----------------------|-------------------------------------------------------------------------------|
| `successor`           | the token after the earlier occurrence, which is the answer                   |
| `previous_occurrence` | the earlier occurrence of the last token, so that there is nothing to find    |

The logit difference is logit(answer) - logit(that other token), the same token under both corruptions.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_sweeps.errors import UserError
from mi_sweeps.tasks.batches import generator
from mi_sweeps.tasks.corruption import unknown_corruption
from mi_sweeps.tasks.metrics import Measured, logit_diffs, share, win_rates
from mi_sweeps.tasks.pairs import Pairs
from mi_sweeps.tasks.tokens import NOT_SCORED, Batch, token_batch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EVALUATION = 1 << 32
"""Number that seeds the held-out sequences; training steps use their own number, from 0."""
PLACES = {"successor": -1, "previous_occurrence": -2}
"""The replaced token under each corruption, counted from the end of the first half."""


class Induction:
    """Sequences of a tokenizer's ordinary tokens, or of token numbers if the model has no tokenizer."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        *,
        length: int,
        heldout: int,
        d_vocab: int | None,
        bos: bool,
        seed: int,
    ) -> None:
        """Checks the sizes.

        Args:
            tokenizer: its tokens, without special ones, are drawn uniformly.
            length: number of tokens in the repeated part.
            heldout: number of sequences kept for evaluation.
            d_vocab: number of tokens if there is no tokenizer; token 0 is BOS.
            bos: whether sequences begin with BOS.
            seed: of the held-out sequences.

        Raises:
            UserError: a size makes no sense, or there is no BOS.
        """
        if tokenizer is None:
            if d_vocab is None:
                raise UserError("task.d_vocab: the model has no tokenizer; give the number of tokens")
            self._ordinary, self._bos = torch.arange(1, d_vocab), [0] * bos
        else:
            if d_vocab is not None:
                raise UserError(f"task.d_vocab={d_vocab}: the model's tokenizer decides that; give null")
            special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
            self._ordinary = torch.tensor(sorted(set(tokenizer.get_vocab().values()) - special))
            if bos and tokenizer.bos_token_id is None:
                raise UserError("task.bos=true: the model's tokenizer has no such token; use task.bos=false")
            self._bos = [tokenizer.bos_token_id] * bos
        if not 3 <= length < len(self._ordinary):
            raise UserError(
                f"task.length={length}: give 3 to {len(self._ordinary) - 1} tokens (all differ, and one is left over)"
            )
        if heldout < 1:
            raise UserError(f"task.heldout={heldout}: give at least 1 sequence")
        self._length, self._heldout, self._seed = length, heldout, seed
        first = "BOS, then " if bos else ""
        self.audit: dict[str, Any] = {
            "heldout": f"{heldout} sequences, {first}{length} of {len(self._ordinary)} tokens, all different, twice",
            "scored": f"the repetition, from its second token on: {length - 1} tokens of a sequence",
            "chance": f"accuracy {100 / len(self._ordinary):.2g}%; any token of the sequence {1 / length:.1%}",
        }

    @cached_property
    def splits(self) -> dict[str, Batch]:
        """The held-out sequences. No training sequence is used twice, so the training loss is a held-out loss too."""
        drawn = self._draw(self._heldout, generator(self._seed, EVALUATION))
        return {"heldout": self._batch(drawn, drawn)}

    def training(self, step: int, size: int, seed: int) -> Batch:
        """Draws new sequences for every step."""
        drawn = self._draw(size, generator(seed, step))
        return self._batch(drawn, drawn)

    def metrics(self, logits: Float[Tensor, "scored d_vocab"], batch: Batch) -> list[Measured]:
        """Accuracy over all scored positions; win rate and logit difference at the last one."""
        prompts, positions, targets = batch.scored
        right = logits.argmax(dim=-1) == targets
        at_end = positions == batch.end[prompts]
        return [
            ("accuracy", share(right), len(right)),
            *win_rates(right[at_end]),
            *logit_diffs(logits[at_end], batch, ("replaced",)),
        ]

    def pairs(self, corruption: str, count: int) -> Pairs:
        """The first `count` held-out sequences, with one token of their first half replaced."""
        if corruption not in PLACES:
            raise unknown_corruption(corruption, PLACES)
        drawn = self._draw(self._heldout, generator(self._seed, EVALUATION))[:count]
        shown = drawn.clone()
        shown[:, self._length + PLACES[corruption]] = drawn[:, self._length]
        return Pairs(self._batch(drawn, drawn), self._batch(drawn, shown), torch.ones(1))

    def _draw(self, count: int, random: torch.Generator) -> Int[Tensor, "prompt token"]:
        """Draws distinct tokens: those of the sequence, and last one that is not in it."""
        chances = torch.rand(count, len(self._ordinary), generator=random)
        return self._ordinary[chances.topk(self._length + 1, dim=1).indices]

    def _batch(self, drawn: Int[Tensor, "prompt token"], shown: Int[Tensor, "prompt token"]) -> Batch:
        """Sequences with `shown` as the first half and `drawn` as the second, without its last token, the answer."""
        again, length = drawn[:, : self._length], self._length
        bos = torch.tensor(self._bos, dtype=torch.long).expand(len(drawn), len(self._bos))
        tokens = torch.cat([bos, shown[:, :length], again[:, :-1]], dim=1)
        targets = torch.full_like(tokens, NOT_SCORED)
        targets[:, len(self._bos) + length :] = again[:, 1:]
        batch = token_batch(tokens, again[:, -1], drawn[:, length:], targets)
        roles = (
            *["bos"] * len(self._bos),
            *(f"first {place}" for place in range(1, length - 1)),
            *("previous occurrence", "successor"),
            *(f"again {place}" for place in range(1, length - 1)),
            "end",
        )
        return replace(batch, roles=(roles,) * len(tokens))
