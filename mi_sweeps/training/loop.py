"""Training: from a language model and a task to checkpoints and metrics. The loop is `finetune`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

import torch

from mi_sweeps.config import Config
from mi_sweeps.store.folders import RunFolder
from mi_sweeps.tasks.tokens import Batch
from mi_sweeps.training.evaluate import Metric, scored_logits
from mi_sweeps.training.run import LOOK, Run, begin


def finetune(
    config: Config,
    folder: RunFolder,
    *,
    before_write: Callable[[], None] = lambda: None,
    on_step: Callable[[int], None] = lambda step: None,
    on_checkpoint: Callable[[int, list[Metric]], None] = lambda step, metrics: None,
) -> None:
    """Trains a model, from where an earlier attempt got to. The loss is of what the task scores, as the answer token.

    Args:
        before_write: called before each checkpoint; may raise, and nothing is written then.
        on_step: told the number of steps that are done.
        on_checkpoint: told a checkpoint's step and metrics, when both are on disk.

    Raises:
        UserError: the model, the task or the schedule is wrong.
        Diverged: the loss is not finite, or far above the first one; what is on disk is what came before.
    """
    for run in training(config, folder, before_write=before_write, on_step=on_step, on_checkpoint=on_checkpoint):
        train_step(run, run.batch())


def training(
    config: Config,
    folder: RunFolder,
    *,
    before_write: Callable[[], None],
    on_step: Callable[[int], None],
    on_checkpoint: Callable[[int, list[Metric]], None],
) -> Generator[Run]:
    """All of `finetune` but the steps: gives the run before each, and whoever asked takes it, alone or with others'."""
    run = begin(config, folder, before_write=before_write, on_checkpoint=on_checkpoint)
    for step in range(run.step, config.last_step):
        yield run
        run.step = step + 1
        if run.step in run.kept:
            run.keep()
        elif run.step % LOOK == 0:
            run.look()
        on_step(run.step)


def train_step(run: Run, batch: Batch) -> None:
    """One update of what learns. The loss before it stays where it was computed."""
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
        # As a share of the batch's mean: the parts need not have as many targets as each other.
        loss = torch.nn.functional.cross_entropy(logits.float(), targets) * (len(targets) / scored)
        loss.backward()
        losses.append(loss.detach())
    torch.nn.utils.clip_grad_norm_(run.trainable.learned.values(), train.clip)
    run.optimizer.step()
    run.trainable.settle()
    run.losses.append(torch.stack(losses).sum())


def _parts(batch: Batch, size: int | None) -> Iterator[Batch]:
    """The prompts that are computed at once."""
    if size is None or size >= len(batch):
        yield batch
        return
    for start in range(0, len(batch), size):
        part = batch.select(range(start, min(start + size, len(batch))))
        if len(part.scored[2]):
            yield part
