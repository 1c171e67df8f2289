"""Loads other checkpoints of a run to compare with the one being examined."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from mi_sweeps.circuits.fast import memory
from mi_sweeps.circuits.fidelity import compare, known
from mi_sweeps.circuits.network import Network
from mi_sweeps.config import Config
from mi_sweeps.store.folders import RunFolder
from mi_sweeps.tasks.pairs import Pairs
from mi_sweeps.training.models_at import models_at

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Others:
    """Other checkpoints of a run, one at a time. The last one stays loaded in case it is needed again."""

    def __init__(self, config: Config, run: RunFolder, pairs: Pairs, device: torch.device) -> None:
        self._config, self._run, self._pairs, self._device = config, run, pairs, device
        self._step: int | None = None
        self._model: PreTrainedModel | None = None

    @contextmanager
    def at(self, step: int) -> Iterator[Network]:
        """See `View.another`."""
        if step != self._step:
            self._step = self._model = None  # So that no two are in memory.
            ((_, self._model),) = models_at(self._config, self._run, [step], self._device, attention="eager")
            network = known(self._model, self._pairs)
            assert network is not None  # It is supported, as is the checkpoint being examined.
            limit = memory(self._config.patching, self._device)
            compare(self._model, network, self._pairs, limit, f"step {step}")
            self._step = step
        assert self._model is not None
        found = known(self._model, self._pairs)
        assert found is not None
        yield found
