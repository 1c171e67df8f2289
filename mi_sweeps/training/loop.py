"""Training: from a language model and a task to checkpoints and metrics. The loop is `finetune`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mi_sweeps.config import Config
from mi_sweeps.store.folders import RunFolder
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
    run = begin(config, folder, before_write=before_write, on_checkpoint=on_checkpoint)
    for step in range(run.step, config.train.steps):
        run.losses.append(train_step(run, step))
        run.step = step + 1
        if run.step in run.kept:
            run.keep()
        elif run.step % LOOK == 0:
            run.look()
        on_step(run.step)
    folder.resume.unlink(missing_ok=True)


def train_step(run: Run, step: int) -> torch.Tensor:
    """One update of the weights; the loss before it, which stays where it was computed."""
    train = run.config.train
    run.model.train()
    for group in run.optimizer.param_groups:
        group["lr"] = run.config.optim.lr * run.schedule(step)
    batch = run.task.training(step, train.batch_size, run.config.seed).to(run.device)
    with torch.autocast(run.device.type, torch.bfloat16, enabled=train.precision == "bf16"):
        logits = scored_logits(run.model, batch)
    loss = torch.nn.functional.cross_entropy(logits.float(), batch.scored[2])
    run.optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), train.clip)
    run.optimizer.step()
    return loss.detach()
