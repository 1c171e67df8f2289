"""The task of prompts that list names."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from jaxtyping import Bool, Float
from torch import Tensor

from mi_sweeps.tasks import data
from mi_sweeps.tasks.batches import batch_rows
from mi_sweeps.tasks.corruption import TRIO, trios
from mi_sweeps.tasks.encoding import encode
from mi_sweeps.tasks.metrics import Measured, prompt_metrics, won
from mi_sweeps.tasks.pairs import Pairs, make_pairs
from mi_sweeps.tasks.prompts import Prompt
from mi_sweeps.tasks.tokens import Batch, repeated

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PromptTask:
    """A task of prompts with name slots."""

    def __init__(self, prompts: data.TaskData, tokenizer: PreTrainedTokenizerBase, *, prepend_bos: bool) -> None:
        self.audit = prompts.audit
        self.prompts = prompts
        self._tokenizer = tokenizer
        self._prepend_bos = prepend_bos
        self._longest = tokenizer.model_max_length

    def _encode(self, prompts: list[Prompt]) -> Batch:
        return encode(prompts, self._tokenizer, prepend_bos=self._prepend_bos)

    @cached_property
    def _train(self) -> Batch:
        return repeated(self._encode(self.prompts.splits["train"]), self.prompts.repeat, self._longest)

    @cached_property
    def splits(self) -> dict[str, Batch]:
        """All evaluation splits, and as many training prompts as held-out ones, balanced over the orders likewise."""
        splits = self.prompts.splits
        compared = data.balanced(splits["train"], len(splits["heldout"]))
        return {split: self._encode(compared if split == "train" else rows) for split, rows in splits.items()}

    def training(self, step: int, size: int, seed: int) -> Batch:
        """Epochs over all training prompts, each shuffled anew."""
        return self._train.select(batch_rows(step, len(self._train), size, seed))

    def metrics(self, logits: Float[Tensor, "scored d_vocab"], batch: Batch) -> list[Measured]:
        """Win rates and logit differences."""
        return prompt_metrics(logits, batch, self._tokenizer)

    def wins(self, logits: Float[Tensor, "prompt d_vocab"], batch: Batch) -> Bool[Tensor, " prompt"]:
        """Whether each prompt counts as won in the win rate."""
        return won(logits, batch, self._tokenizer)

    def pairs(self, corruption: str, count: int, split: str = "heldout") -> Pairs:
        """Pairs balanced over the orders, under a corruption of `mi_sweeps.tasks.corruption`."""
        prompts = self.prompts.splits[split]
        chosen = trios(prompts, count) if corruption == TRIO else data.balanced(prompts, count)
        return make_pairs(chosen, corruption, self._tokenizer, self.prompts.names, self._prepend_bos)
