"""Evaluates a model on a task at a checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mi_sweeps.errors import UserError
from mi_sweeps.models.head import unembed
from mi_sweeps.tasks.task import Task
from mi_sweeps.tasks.tokens import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOSSES = ("batch", "trainer")
"""The splits of losses that training itself reports: ours, and that of whoever trained a series."""

CHUNK = 64
"""Prompts per forward pass in an evaluation."""

Metric = dict[str, str | int | float]
"""A row of the metrics table: step, split, metric, value, n."""


def scored_logits(model: PreTrainedModel, batch: Batch) -> Float[Tensor, "scored d_vocab"]:
    """Next-token logits at `batch.scored`; the unembedding is applied only there."""
    hidden = model.base_model(input_ids=batch.tokens, use_cache=False).last_hidden_state
    prompts, positions, _ = batch.scored
    return unembed(model, hidden[prompts, positions])


def end_logits(model: PreTrainedModel, batch: Batch) -> Float[Tensor, "prompt d_vocab"]:
    """Next-token logits at each prompt's last token; the unembedding is applied only there."""
    hidden = model.base_model(input_ids=batch.tokens, use_cache=False).last_hidden_state
    at_end = hidden[torch.arange(len(batch), device=hidden.device), batch.end]
    return unembed(model, at_end)


@contextmanager
def fused(model: PreTrainedModel) -> Iterator[None]:
    """Computes GPT-2's GELU in one pass rather than in eight, which is a quarter of a small model's forward.

    Equal up to rounding (`check_logits` holds that). Training keeps the library's own, and with it the bits of runs
    that were made before.
    """
    from transformers.activations import NewGELUActivation

    quick = nn.GELU(approximate="tanh")
    replaced = [
        (module, name, child)
        for module in model.modules()
        for name, child in module.named_children()
        if type(child) is NewGELUActivation
    ]
    for module, name, _ in replaced:
        setattr(module, name, quick)
    try:
        yield
    finally:
        for module, name, child in replaced:
            setattr(module, name, child)


def tolerance(logits: Float[Tensor, "..."]) -> float:
    """The largest acceptable difference between two correct ways of computing these logits in fp32.

    Rounding errors grow with magnitude: GPT-2's logits are near -100, where its own fp32 is 1e-4 from fp64.
    """
    return max(1e-4, 4e-6 * logits.abs().max().item())


@torch.no_grad()
def evaluate(model: PreTrainedModel, task: Task, batch: Batch, *, step: int, split: str) -> list[Metric]:
    """The metrics of one split at one checkpoint: the loss, and the task's own.

    Args:
        batch: on the model's device.

    Raises:
        UserError: two metrics have the same name, or the split has that of training's own losses.
    """
    if split in LOSSES:
        raise UserError(f"task: a split is named {split!r}, like losses of training; rename it")
    with fused(model):
        logits = torch.cat(
            [
                scored_logits(model, batch.select(range(start, min(start + CHUNK, len(batch))))).float()
                for start in range(0, len(batch), CHUNK)
            ]
        )
    targets = batch.scored[2]
    loss = torch.nn.functional.cross_entropy(logits, targets).item()
    measured = [("loss", loss, len(targets)), *task.metrics(logits, batch)]
    name, count = Counter(name for name, _, _ in measured).most_common(1)[0]
    if count > 1:
        raise UserError(f"task: {count} metrics of {split} prompts are named {name!r}; rename its group, or the metric")
    return [
        {"step": step, "split": split, "metric": name, "value": float(value), "n": n} for name, value, n in measured
    ]
