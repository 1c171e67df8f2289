"""The interface of a task. The training loop and the patch jobs use nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor

from mi_sweeps.tasks.metrics import Measured
from mi_sweeps.tasks.pairs import Pairs
from mi_sweeps.tasks.tokens import Batch


class Task(Protocol):
    """Prompts with right answers, for training and for patching. Batches are on the CPU.

    A configuration's `task._target_` returns one, or returns prompts that one is made from.
    """

    @property
    def audit(self) -> Mapping[str, Any]:
        """JSON values: what a reader should know about the prompts."""
        ...

    @property
    def splits(self) -> Mapping[str, Batch]:
        """The prompts evaluated at every checkpoint, by split; one split is `heldout`."""
        ...

    def training(self, step: int, size: int, seed: int) -> Batch:
        """The `size` prompts of a training step: the same ones at every call, so that a run can resume at any step."""
        ...

    def metrics(self, logits: Float[Tensor, "scored d_vocab"], batch: Batch) -> Iterable[Measured]:
        """The metrics of a split, besides the loss.

        Args:
            logits: next-token logits at `batch.scored`, on the device of `batch`.
        """
        ...

    def pairs(self, corruption: str, count: int) -> Pairs:
        """Up to `count` held-out prompts and their corrupted partners; always the same ones.

        A task whose `pairs` takes an argument `split` also gives those of `train`.

        Raises:
            UserError: the task has no such corruption.
        """
        ...
