"""The training loop: from a language model and a task to checkpoints and metrics."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

import torch

from mi_sweeps.config import Config
from mi_sweeps.store.folders import RunFolder
from mi_sweeps.tasks.tokens import Batch
from mi_sweeps.training.evaluate import Metric, scored_logits
from mi_sweeps.training.run import RECORD_EVERY, TrainingState, begin


def finetune(
    config: Config,
    folder: RunFolder,
    *,
    before_training: Callable[[TrainingState], None] = lambda run: None,
    before_write: Callable[[], None] = lambda: None,
    on_step: Callable[[int], None] = lambda step: None,
    on_checkpoint: Callable[[int, list[Metric]], None] = lambda step, metrics: None,
) -> None:
    """Trains a model, resuming from the newest checkpoint of an earlier attempt. The loss is that of the scored tokens.

    Args:
        before_training: called once, if there is a step to take; may raise.
        before_write: called before each checkpoint; if it raises, nothing is written.
        on_step: called after each step, with the number of steps done.
        on_checkpoint: called with a checkpoint's step and metrics once both are on disk.

    Raises:
        UserError: the model, the task or the schedule is wrong.
        Diverged: the loss is not finite, or far above its first value. Earlier checkpoints stay on disk.
    """
    for run in training_steps(
        config,
        folder,
        before_training=before_training,
        before_write=before_write,
        on_step=on_step,
        on_checkpoint=on_checkpoint,
    ):
        train_step(run, run.batch())


def training_steps(
    config: Config,
    folder: RunFolder,
    *,
    before_training: Callable[[TrainingState], None],
    before_write: Callable[[], None],
    on_step: Callable[[int], None],
    on_checkpoint: Callable[[int, list[Metric]], None],
) -> Generator[TrainingState]:
    """Everything `finetune` does except the updates: yields the run before each step, which the caller takes, alone or
    together with other runs (`mi_sweeps.training.stacked`)."""
    run = begin(config, folder, before_write=before_write, on_checkpoint=on_checkpoint)
    if run.step < config.last_step:
        before_training(run)
    while run.step < config.last_step:
        yield run
        run.step += 1
        if run.step in run.checkpoint_steps:
            run.write_checkpoint()
        elif run.step % RECORD_EVERY == 0:
            run.record_losses()
        on_step(run.step)


def train_step(run: TrainingState, batch: Batch) -> None:
    """Updates the learned weights once. The loss stays on the device."""
    train, batch = run.config.train, batch.to(run.device)
    run.model.train()
    for group in run.optimizer.param_groups:
        group["lr"] = run.rate
    run.optimizer.zero_grad()
    scored = len(batch.scored[2])
    losses = []
    for part in _parts(batch, train.micro_batch):
        with torch.autocast(run.device.type, torch.bfloat16, enabled=train.precision == "bf16"):
            logits = scored_logits(run.model, part)
        targets = part.scored[2]
        # Weighted by its targets, so that the parts sum to the batch's mean; they may differ in number of targets.
        loss = torch.nn.functional.cross_entropy(logits.float(), targets) * (len(targets) / scored)
        loss.backward()
        losses.append(loss.detach())
    torch.nn.utils.clip_grad_norm_(run.trainable.learned.values(), train.clip)
    run.optimizer.step()
    run.trainable.round()
    run.losses.append(torch.stack(losses).sum())


def _parts(batch: Batch, size: int | None) -> Iterator[Batch]:
    """Splits a batch into micro-batches of `size` prompts; parts without a target are skipped."""
    if size is None or size >= len(batch):
        yield batch
        return
    for start in range(0, len(batch), size):
        part = batch.select(range(start, min(start + size, len(batch))))
        if len(part.scored[2]):
            yield part
