"""One checkpoint as a measurement sees it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from mi_sweeps.circuits.network import Network
from mi_sweeps.config import PatchingConfig
from mi_sweeps.tasks.pairs import Pairs
from mi_sweeps.tasks.task import Task


@dataclass(frozen=True)
class View:
    """What a measurement may look at."""

    step: int
    network: Network
    """With the weights of this checkpoint: what it computes was compared with the Hugging Face model itself."""
    pairs: Pairs
    """The patch job's prompts, on the device that computes."""
    task: Task
    """Where further prompts come from."""
    patching: PatchingConfig
    memory: int
    """Bytes that activations may take, about; at least what one prompt needs. Changes no result."""
    steps: tuple[int, ...]
    """The checkpoints of the run that can be looked at."""
    another: Callable[[int], AbstractContextManager[Network]]
    """The same run at another of `steps`, in memory beside this one, compared likewise; one of them at a time."""
