"""The interface between a checkpoint and its measurements."""

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
    """Everything about one checkpoint that a measurement may use."""

    step: int
    network: Network
    """The network at this checkpoint, already checked against the Hugging Face model."""
    pairs: Pairs
    """The patch job's prompts, on the device."""
    task: Task
    """The task, for further prompts."""
    patching: PatchingConfig
    memory: int
    """Approximate limit for activations, in bytes, but at least one prompt's need. Does not change results."""
    steps: tuple[int, ...]
    """The usable checkpoints of the run."""
    another: Callable[[int], AbstractContextManager[Network]]
    """Loads the run at another of `steps`, checked likewise; only one at a time."""
