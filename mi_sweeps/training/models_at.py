"""Loads the model at each checkpoint of a run or a series."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Literal

import torch

from mi_sweeps.config import Config, ModelConfig, SeriesConfig
from mi_sweeps.errors import UserError
from mi_sweeps.models import base, hub, weights_files
from mi_sweeps.models.load import load_network
from mi_sweeps.series import checkpoints
from mi_sweeps.series.checkpoints import Checkpoint
from mi_sweeps.store import hashes
from mi_sweeps.store.folders import RunFolder
from mi_sweeps.training.checkpoints import copy_to_cpu, load_weights, parameters

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Attention = Literal["eager"] | None


def models_at(
    config: Config, run: RunFolder, steps: Sequence[int], device: torch.device, attention: Attention = None
) -> Iterator[tuple[int, PreTrainedModel]]:
    """Yields the Hugging Face model at one checkpoint after another, in fp32 and evaluation mode.

    A run of ours yields a single model whose weights change in place; a series yields a new model for each checkpoint.
    Drop each model before asking for the next, so that no two are in memory at once.

    Args:
        attention: as for `load_network`.

    Raises:
        UserError: a checkpoint is missing, damaged or from another model.
    """
    if isinstance(config.model, SeriesConfig):
        series = checkpoints.of(config)
        yield from in_turn(config.model, [series.at(step) for step in steps], device, attention)
        return
    model = load_network(config.model, device, attention, seed=config.seed)
    weights = parameters(model)
    whole = config.train.method == "full" and config.checkpoint.storage == "full"
    base = {} if whole else copy_to_cpu(weights)
    for step in steps:
        load_weights(run.checkpoint(step), weights, base)
        yield step, model


def in_turn(
    series: SeriesConfig, chosen: Sequence[Checkpoint], device: torch.device, attention: Attention = None
) -> Iterator[tuple[int, PreTrainedModel]]:
    """Yields the models of some checkpoints of a series, as `models_at` does. The next one is downloaded from the hub
    while the current one is in use.

    Raises:
        UserError: a checkpoint cannot be read, or its files have changed since the start.
    """
    before = [_versions(checkpoint.model) for checkpoint in chosen]
    with _there(series, chosen) as there:
        for checkpoint, then in zip(there, before, strict=True):
            network = load_network(checkpoint.model, device, attention)
            if _versions(checkpoint.model) != then:
                raise UserError(
                    f"{checkpoint.name}: its files changed while this series was examined; run the sweep again once "
                    "nobody writes there"
                )
            yield checkpoint.step, network
            del network  # So that no two are in memory.


def _versions(model: ModelConfig) -> list[hashes.Version]:
    """The versions of a model's local files and of its adapter's base; at a commit on the hub nothing can change."""
    files = [file for one in (model, base(model)) if one and not one.hub for file in weights_files(one)]
    return [hashes.version(file) for file in sorted(files)]


@contextmanager
def _there(series: SeriesConfig, chosen: Sequence[Checkpoint]) -> Iterator[Iterable[Checkpoint]]:
    """Yields an iterable of the checkpoints that gives each one once its files are on this machine."""
    if not (series.hub and chosen):
        yield chosen
        return
    commits = [str(checkpoint.model.revision) for checkpoint in chosen]  # Two steps may share a commit.
    repository = str(chosen[0].model.hub)
    with closing(hub.prefetch(repository, commits, series.keep)) as coming:
        yield (checkpoint for checkpoint, _ in zip(chosen, coming, strict=True))
