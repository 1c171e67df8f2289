"""Predict the previous token in sequences of uniformly random tokens.

The answer is in the context, so all that a model must learn is which position is the previous one; without positional
embeddings that is the whole difficulty. A sequence begins with BOS, which is token 0 and occurs nowhere else; the
target at position i is the token at i - 1. The target at position 1 would always be BOS, so scoring starts at
`first_scored`, which must then be at least 2.

BOS is a landmark: every later token can attend to it, and the share of attention that it gets reveals how many tokens
precede. With `bos` false there is no BOS, and the first token is drawn like the others. The held-out sequences with and
without BOS differ only in their first token; the split `without_bos` has no BOS, whatever the model was trained on.

| corruption | replaces                      | compares the answer with                                          |
|------------|-------------------------------|-------------------------------------------------------------------|
| `previous` | the token before the last     | its replacement                                                   |
| `earlier`  | the token two before the last | the token that was replaced                                       |
| `bos`      | BOS, with an ordinary token   | the token two before the last, or another if that is the answer   |

Under `earlier`, a control, and under `bos` the answer stays the same. A model that cannot tell positions apart without
BOS predicts the token two before the last as readily as the one before it.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_sweeps.errors import UserError
from mi_sweeps.tasks import NO_BOS, REPLACED
from mi_sweeps.tasks.batches import generator
from mi_sweeps.tasks.corruption import unknown_corruption
from mi_sweeps.tasks.metrics import Measured, logit_diffs, share, win_rates
from mi_sweeps.tasks.pairs import Pairs
from mi_sweeps.tasks.tokens import NOT_SCORED, Batch, token_batch

BOS = 0

EVALUATION = 1 << 32
"""Number that seeds the held-out sequences; training steps use their own number, from 0."""


class PreviousToken:
    """Sequences are drawn anew for every training step: there are no epochs."""

    def __init__(
        self,
        tokenizer: object,
        *,
        d_vocab: int,
        length: int,
        first_scored: int,
        heldout: int,
        seed: int,
        bos: bool = True,
    ) -> None:
        """Checks the sizes.

        Args:
            tokenizer: unused; tokens are numbers.
            d_vocab: number of tokens including BOS, which is never seen if `bos` is false.
            length: tokens in a sequence, including the first.
            first_scored: the first position, from 0, that the loss counts.
            heldout: number of sequences kept for evaluation.
            seed: of those sequences.
            bos: whether sequences begin with BOS.

        Raises:
            UserError: a size makes no sense.
        """
        if not isinstance(bos, bool):
            raise UserError(f"task.bos={bos}: give true or false")
        if d_vocab < 3:
            raise UserError(f"task.d_vocab={d_vocab}: give at least 3: BOS and two tokens to tell apart")
        if length < 4:
            raise UserError(f"task.length={length}: give at least 4 tokens, including the first")
        least, reason = (2, "before it the previous token is always BOS") if bos else (1, "nothing is before the first")
        if not least <= first_scored < length:
            raise UserError(
                f"task.first_scored={first_scored}: give {least} ({reason}) to {length - 1}, the last position"
            )
        if heldout < 1:
            raise UserError(f"task.heldout={heldout}: give at least 1 sequence")
        self._d_vocab, self._length, self._first_scored = d_vocab, length, first_scored
        self._heldout, self._seed, self._bos = heldout, seed, bos
        first = f"BOS first, then uniform from {d_vocab - 1}" if bos else f"all uniform from {d_vocab - 1}, no BOS"
        self.audit: dict[str, Any] = {
            "heldout": f"{heldout} sequences of {length} tokens, {first}",
            **({"without_bos": "the same sequences, with the first token drawn like the others"} if bos else {}),
            "scored": f"positions {first_scored} to {length - 1}, counted from 0",
            "chance": f"accuracy {1 / (d_vocab - 1):.1%}",
        }

    @cached_property
    def splits(self) -> dict[str, Batch]:
        """The held-out sequences, as they are and without BOS. No training sequence is used twice, so the training loss
        is a held-out loss too."""
        tokens = {
            "heldout": self._draw(self._heldout, generator(self._seed, EVALUATION), bos=self._bos),
            "without_bos": self._draw(self._heldout, generator(self._seed, EVALUATION), bos=False),
        }
        return {split: self._batch(drawn, self._other(drawn[:, -2])) for split, drawn in tokens.items()}

    def _batch(self, tokens: Int[Tensor, "prompt pos"], against: Int[Tensor, " prompt"]) -> Batch:
        return token_batch(tokens, tokens[:, -2], against[:, None], self._targets(tokens))

    def training(self, step: int, size: int, seed: int) -> Batch:
        """Draws new sequences for every step."""
        tokens = self._draw(size, generator(seed, step), bos=self._bos)
        return self._batch(tokens, tokens[:, -2])

    def metrics(self, logits: Float[Tensor, "scored d_vocab"], batch: Batch) -> list[Measured]:
        """Accuracy over all scored positions; win rate and logit difference at the last one."""
        _, positions, targets = batch.scored
        right = logits.argmax(dim=-1) == targets
        at_end = positions == self._length - 1
        return [
            ("accuracy", share(right), len(right)),
            *win_rates(right[at_end]),
            *logit_diffs(logits[at_end], batch, ("replaced",)),
        ]

    def pairs(self, corruption: str, count: int) -> Pairs:
        """The first `count` held-out sequences, with one token replaced."""
        if corruption not in REPLACED:
            raise unknown_corruption(corruption, REPLACED)
        if corruption == "bos" and not self._bos:
            raise UserError(NO_BOS)
        place = REPLACED[corruption]
        tokens = self.splits["heldout"].tokens[:count]
        if corruption == "bos":
            replaced = self.splits["without_bos"].tokens[:count]
            answers, against = tokens[:, -2], tokens[:, -3]
            against = torch.where(against == answers, self._other(answers), against)
        else:
            replaced = tokens.clone()
            replaced[:, place] = self._other(tokens[:, place])
            against = replaced[:, place] if corruption == "previous" else tokens[:, place]
        return Pairs(self._batch(tokens, against), self._batch(replaced, against), torch.ones(1))

    def _draw(self, count: int, random: torch.Generator, *, bos: bool) -> Int[Tensor, "prompt pos"]:
        tokens = torch.randint(1, self._d_vocab, (count, self._length), generator=random)
        if bos:
            tokens[:, 0] = BOS
        return tokens

    def _targets(self, tokens: Int[Tensor, "prompt pos"]) -> Int[Tensor, "prompt pos"]:
        targets = torch.full_like(tokens, NOT_SCORED)
        targets[:, self._first_scored :] = tokens[:, self._first_scored - 1 : -1]
        return targets

    def _other(self, tokens: Int[Tensor, " prompt"]) -> Int[Tensor, " prompt"]:
        """A different token for each, drawn uniformly, never BOS; depends only on the token and its row."""
        others = self._d_vocab - 1
        shift = torch.randint(1, others, (len(tokens),), generator=generator(self._seed, EVALUATION + 1))
        return (tokens - 1 + shift) % others + 1
