"""What a model is asked. The training loop and the patch jobs know no more of a task than `Task` says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from jaxtyping import Bool, Float
from torch import Tensor

from mi_sweeps.config import Config, ScratchConfig
from mi_sweeps.errors import UserError
from mi_sweeps.tasks import data
from mi_sweeps.tasks.batches import batch_rows
from mi_sweeps.tasks.corruption import TRIO, trios
from mi_sweeps.tasks.metrics import Measured, prompt_metrics, won
from mi_sweeps.tasks.pairs import Pairs, make_pairs
from mi_sweeps.tasks.prompts import Prompt
from mi_sweeps.tasks.questions import Questions, QuestionTask
from mi_sweeps.tasks.tokens import Batch, encode, repeated

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Task(Protocol):
    """What a configuration's `task._target_` makes, or what is made of its `Questions`. Batches are on the CPU."""

    @property
    def audit(self) -> Mapping[str, Any]:
        """JSON values: what a reader should know of the prompts."""
        ...

    @property
    def splits(self) -> Mapping[str, Batch]:
        """What is evaluated at every checkpoint; `heldout` is one of them."""
        ...

    def training(self, step: int, size: int, seed: int) -> Batch:
        """The `size` prompts of a training step: the same ones whenever it is asked, for a run resumes anywhere."""
        ...

    def metrics(self, logits: Float[Tensor, "scored d_vocab"], batch: Batch) -> Iterable[Measured]:
        """What is measured of a split beside the loss.

        Args:
            logits: next-token logits at `batch.scored`, on the device of `batch`.
        """
        ...

    def pairs(self, corruption: str, count: int) -> Pairs:
        """Held-out prompts and their corrupted partners, `count` of them if there are so many; always the same.

        With an argument `split` it also gives those of `train`.

        Raises:
            UserError: the task has no such corruption.
        """
        ...


class PromptTask:
    """A task of prompts with name slots."""

    def __init__(self, prompts: data.TaskData, tokenizer: PreTrainedTokenizerBase, *, prepend_bos: bool) -> None:
        self.audit = prompts.audit
        self._prompts = prompts
        self._tokenizer = tokenizer
        self._prepend_bos = prepend_bos
        self._longest = tokenizer.model_max_length

    def _encode(self, prompts: list[Prompt]) -> Batch:
        return encode(prompts, self._tokenizer, prepend_bos=self._prepend_bos)

    @cached_property
    def _train(self) -> Batch:
        return repeated(self._encode(self._prompts.splits["train"]), self._prompts.repeat, self._longest)

    @cached_property
    def splits(self) -> dict[str, Batch]:
        """As many training prompts as held-out ones, and spread over the orders like them, so that the two compare."""
        splits = self._prompts.splits
        compared = data.balanced(splits["train"], len(splits["heldout"]))
        return {split: self._encode(compared if split == "train" else rows) for split, rows in splits.items()}

    def training(self, step: int, size: int, seed: int) -> Batch:
        """Epochs of all training prompts, each in an order of its own."""
        return self._train.select(batch_rows(step, len(self._train), size, seed))

    def metrics(self, logits: Float[Tensor, "scored d_vocab"], batch: Batch) -> list[Measured]:
        """Win rates and logit differences."""
        return prompt_metrics(logits, batch, self._tokenizer)

    def wins(self, logits: Float[Tensor, "prompt d_vocab"], batch: Batch) -> Bool[Tensor, " prompt"]:
        """Whether each prompt is won, as win rates count it."""
        return won(logits, batch, self._tokenizer)

    def pairs(self, corruption: str, count: int, split: str = "heldout") -> Pairs:
        """Spread over the orders; `mi_sweeps.tasks.corruption` says which corruptions there are."""
        prompts = self._prompts.splits[split]
        chosen = trios(prompts, count) if corruption == TRIO else data.balanced(prompts, count)
        return make_pairs(chosen, corruption, self._tokenizer, self._prompts.names, self._prepend_bos)


def patched_pairs(task: Task, config: Config, most: int | None = None) -> Pairs:
    """The pairs of a patch job.

    Args:
        task: `config.for_patching`'s.
        most: how many, if that is less than it has.

    Raises:
        UserError: the task has no such corruption, or no such prompts.
    """
    corruption, patching = config.corruption.name, config.patching
    count = patching.prompts if most is None else min(most, patching.prompts)
    if patching.split == "heldout":
        return task.pairs(corruption, count)
    if "split" not in signature(task.pairs).parameters:
        raise UserError(
            f"patching.split={patching.split}: task={config.task.name} gives held-out prompts only; use "
            "patching.split=heldout"
        )
    pairs: Pairs = task.pairs(corruption, count, split=patching.split)  # type: ignore[call-arg]
    return pairs


def load(config: Config, tokenizer: PreTrainedTokenizerBase | None, output: Path | None = None) -> Task:
    """The task of a configuration. Prompts come from the cache in `output`, or are newly made and then kept there.

    Args:
        tokenizer: None for models that have none.

    Raises:
        UserError: the task's arguments or the user's file are wrong, or it needs a tokenizer.
    """
    made = data.load(config, tokenizer, output)
    if isinstance(made, Questions):
        prepend_bos = not isinstance(config.model, ScratchConfig) and config.model.prepend_bos
        return QuestionTask(made, tokenizer, prepend_bos=prepend_bos)
    if not isinstance(made, data.TaskData):
        if not isinstance(config.model, ScratchConfig) and config.model.prepend_bos:
            raise UserError(
                f"model.prepend_bos=true: task={config.task.name} makes its own tokens, and this changes none of them; "
                "use model.prepend_bos=false"
            )
        return made
    assert tokenizer is not None and not isinstance(config.model, ScratchConfig)
    return PromptTask(made, tokenizer, prepend_bos=config.model.prepend_bos)
