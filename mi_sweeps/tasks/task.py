"""What a task provides. The training loop and the patch jobs know nothing else about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor

from mi_sweeps.tasks.metrics import Measured
from mi_sweeps.tasks.pairs import Pairs
from mi_sweeps.tasks.tokens import Batch


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
