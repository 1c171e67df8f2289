"""Fine-tuning: from a language model and prompts to checkpoints and metrics. The loop is `finetune`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from jaxtyping import Int
from torch import Tensor

from mi_sweeps.config import Config
from mi_sweeps.errors import UserError
from mi_sweeps.models.load import load_model, pick_device
from mi_sweeps.store.files import read_json, read_table, write_json, write_table
from mi_sweeps.store.folders import RunFolder
from mi_sweeps.tasks import data
from mi_sweeps.tasks.tokens import Batch, encode
from mi_sweeps.training import checkpoints
from mi_sweeps.training.evaluate import Metric, end_logits, evaluate
from mi_sweeps.training.schedules import resolve

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

HEAD_TOLERANCE = 1e-4
"""Largest difference allowed between our logits at the answer position and the model's own, in nats."""

METRICS = pa.schema(
    [("step", pa.int64()), ("split", pa.string()), ("metric", pa.string()), ("value", pa.float64()), ("n", pa.int64())]
)


def finetune(
    config: Config,
    folder: RunFolder,
    *,
    before_write: Callable[[], None] = lambda: None,
    on_step: Callable[[int], None] = lambda step: None,
    on_checkpoint: Callable[[int, list[Metric]], None] = lambda step, metrics: None,
) -> None:
    """Fine-tunes on the answer token alone, from where an earlier attempt got to.

    Args:
        before_write: called before each checkpoint; may raise, and nothing is written then.
        on_step: told the number of steps that are done.
        on_checkpoint: told a checkpoint's step and metrics, when both are on disk.

    Raises:
        UserError: the model, the task or the schedule is wrong.
    """
    device = pick_device(config.launcher.device)
    torch.manual_seed(config.seed)
    model, tokenizer = load_model(config.model, device)
    prompts = data.load(config, tokenizer, config.output)
    batches = {
        split: encode(rows, tokenizer, prepend_bos=config.model.prepend_bos).to(device)
        for split, rows in prompts.splits.items()
    }
    train = batches["train"]
    # As many training prompts as held-out ones, and spread over the orders like them, so that the two compare.
    compared = data.balanced(prompts.splits["train"], len(batches["heldout"]))
    evaluated = {**batches, "train": encode(compared, tokenizer, prepend_bos=config.model.prepend_bos).to(device)}
    _check_head(model, train)

    base = checkpoints.snapshot(checkpoints.parameters(model))
    schedule = resolve(config.schedule, config.train.steps)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.optim.lr, betas=config.optim.betas, weight_decay=config.optim.weight_decay
    )
    metrics = read_metrics(folder)
    resumed = checkpoints.load_resume(folder.resume, model, optimizer, device) if metrics else None
    metrics = [row for row in metrics if int(row["step"]) <= (-1 if resumed is None else resumed)]
    if resumed is not None:
        check_commit(folder, model)
        log.info("resuming from step %d", resumed)
    write_json(folder.path / "run.json", describe(config, folder, model))
    write_json(folder.audit, prompts.audit)

    def keep(step: int) -> None:
        """A checkpoint: weights first and the resume state last, so that what is resumed from is whole."""
        model.eval()
        new = [
            row
            for split, batch in evaluated.items()
            for row in evaluate(model, tokenizer, batch, step=step, split=split)
        ]
        metrics.extend(new)
        before_write()
        checkpoints.save_weights(
            folder.checkpoint(step), checkpoints.parameters(model), base, config.checkpoint.storage
        )
        write_table(folder.metrics, pa.Table.from_pylist(metrics, METRICS))
        checkpoints.save_resume(folder.resume, step, model, optimizer, device)
        rates = ", ".join(f"{row['split']} {row['value']:.3f}" for row in new if row["metric"] == "win_rate")
        log.info("step %d: win rate %s", step, rates)
        on_checkpoint(step, new)

    kept = set(config.checkpoint_steps)
    if resumed is None:
        keep(0)
    for step in range(resumed or 0, config.train.steps):
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = config.optim.lr * schedule(step)
        batch = train.select(batch_rows(step, len(train), config.train.batch_size, config.seed))
        with torch.autocast(device.type, torch.bfloat16, enabled=config.train.precision == "bf16"):
            logits = end_logits(model, batch)
        loss = torch.nn.functional.cross_entropy(logits.float(), batch.answers)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.train.clip)
        optimizer.step()
        if step + 1 in kept:
            keep(step + 1)
        on_step(step + 1)
    folder.resume.unlink(missing_ok=True)


def batch_rows(step: int, n: int, batch_size: int, seed: int) -> Int[Tensor, " row"]:
    """The training prompts of a step: epochs follow on each other, each in an order of its own.

    A pure function, so that a resumed run needs no state of a data loader.
    """
    start, stop = step * batch_size, (step + 1) * batch_size
    epochs = range(start // n, (stop - 1) // n + 1)
    orders = [torch.randperm(n, generator=torch.Generator().manual_seed(hash_seed(seed, epoch))) for epoch in epochs]
    return torch.cat(orders)[start - epochs[0] * n :][:batch_size]


def hash_seed(seed: int, epoch: int) -> int:
    """A seed for an epoch; neighbouring runs and epochs share none (SplitMix64, Steele et al. 2014)."""
    mask = (1 << 64) - 1
    value = (seed * 0x9E3779B97F4A7C15 + (epoch + 1) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return (value ^ (value >> 31)) >> 1


def read_metrics(folder: RunFolder) -> list[Metric]:
    """The metrics of an earlier attempt as rows; none where they are missing or damaged, and the run starts anew."""
    if not folder.metrics.exists():
        return []
    try:
        rows: list[Metric] = read_table(folder.metrics).to_pylist()
    except UserError as error:
        log.warning("%s; starting from step 0", error)
        return []
    return rows


def check_commit(folder: RunFolder, model: PreTrainedModel) -> None:
    """Holds that a model from the hub is the one that the run began with: a branch there moves.

    Raises:
        UserError: it is another commit.
    """
    began = (read_json(folder.path / "run.json") or {}).get("model", {}).get("commit")
    now = getattr(model.config, "_commit_hash", None)
    if began != now:
        raise UserError(
            f"{folder.path}: began with the model's commit {began}, now it is {now}; give model.revision={began}"
        )


def describe(config: Config, folder: RunFolder, model: PreTrainedModel) -> dict[str, Any]:
    """What run.json says: the configuration, and what it was computed with."""
    return {
        "run_id": folder.run_id,
        "config": config.dump(),
        "model": {
            "architecture": type(model).__name__,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "commit": getattr(model.config, "_commit_hash", None),
        },
        "versions": {name: version(name) for name in ("mi-sweeps", "torch", "transformers", "transformer-lens")},
    }


@torch.no_grad()
def _check_head(model: PreTrainedModel, batch: Batch) -> None:
    """Holds that the head applied at one position gives what the whole model gives there."""
    few = batch.select(range(min(4, len(batch))))
    ours = end_logits(model, few)
    whole = model(input_ids=few.tokens).logits[torch.arange(len(few), device=few.tokens.device), few.end]
    error = (ours - whole).abs().max().item()
    if not error <= HEAD_TOLERANCE:
        raise UserError(
            f"{type(model).__name__}: logits at the answer position differ by {error:.1e} from the whole model's "
            f"(more than {HEAD_TOLERANCE:.0e}); this architecture scales its logits in a way that is not supported"
        )
