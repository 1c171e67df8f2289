"""A run in the making: its model and optimiser, what is on disk of it, and what becomes of it."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from torch import Tensor, nn

from mi_sweeps.config import AnyModel, Config, ModelConfig
from mi_sweeps.errors import UserError
from mi_sweeps.identity import own_sources
from mi_sweeps.models.load import load_model, pick_device
from mi_sweeps.series.checkpoints import single
from mi_sweeps.store.endings import Diverged
from mi_sweeps.store.files import read_json, read_table, write_json, write_table
from mi_sweeps.store.folders import RunFolder
from mi_sweeps.tasks.load import load
from mi_sweeps.tasks.task import Task
from mi_sweeps.tasks.tokens import Batch
from mi_sweeps.training import checkpoints, zoom
from mi_sweeps.training.evaluate import Metric, end_logits, evaluate, fused, tolerance
from mi_sweeps.training.schedules import resolve
from mi_sweeps.training.trainable import Trainable, prepare

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

LOOK = 20
"""Steps between two looks at the training losses: on a GPU each look waits for it."""

TOLD = ("win_rate", "accuracy")
"""Metrics that the log tells of every checkpoint."""

MEAN_OF = 10
"""Over how many steps the loss of a diverging run is averaged: one bad batch is a spike."""

METRICS = pa.schema(
    [("step", pa.int64()), ("split", pa.string()), ("metric", pa.string()), ("value", pa.float64()), ("n", pa.int64())]
)


@dataclass
class Run:
    """What a training step changes, and what it needs."""

    config: Config
    folder: RunFolder
    device: torch.device
    trainable: Trainable
    task: Task
    optimizer: torch.optim.AdamW
    schedule: Callable[[int], float]
    base: checkpoints.Tensors
    """The weights before training, where checkpoints are differences to them."""
    evaluated: dict[str, Batch]
    metrics: list[Metric]
    """The table so far."""
    before_write: Callable[[], None]
    on_checkpoint: Callable[[int, list[Metric]], None]
    step: int = 0
    """How many are done."""
    losses: list[Tensor] = field(default_factory=list)
    """Of the steps since the last look."""

    def __post_init__(self) -> None:
        self.kept = set(self.config.checkpoint_steps)

    @property
    def model(self) -> PreTrainedModel:
        """As a step computes it; `trainable.plain` is as it is examined."""
        return self.trainable.model

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return self.config.optim.lr * self.schedule(self.step)

    def batch(self) -> Batch:
        """The prompts of the next step, not yet on the device."""
        return self.task.training(self.step, self.config.train.batch_size, self.config.seed)

    def look(self) -> None:
        """Takes the losses over into the metrics, as those of the training batches.

        Raises:
            Diverged: one of them is not finite, or the mean of the last MEAN_OF is above `train.diverged` times the
                first one. Where that one is lower than the loss of guessing, log(vocabulary), it is times the latter:
                a model that knows its task at first may well forget it for a while.
        """
        if not self.losses:
            return
        values = torch.stack(self.losses).tolist()
        first_step = self.step - len(values)
        self.losses.clear()
        size = self.config.train.batch_size
        before = [float(row["value"]) for row in self.metrics if row["split"] == "batch"]
        every = before + values
        limit = (self.config.train.diverged or math.inf) * max(every[0], math.log(self.model.config.vocab_size))
        for index in range(len(before), len(every)):
            recent = every[max(0, index + 1 - MEAN_OF) : index + 1]
            if not math.isfinite(every[index]) or (len(recent) == MEAN_OF and sum(recent) / MEAN_OF > limit):
                self._stop(first_step + index - len(before), f"training loss {every[index]:.3g}")
            step = first_step + index - len(before)
            self.metrics.append({"step": step, "split": "batch", "metric": "loss", "value": every[index], "n": size})

    def keep(self) -> None:
        """A checkpoint: weights first and the resume state last, so that what is resumed from is whole.

        Raises:
            Diverged: the loss of the last steps, or of an evaluation, says so.
        """
        self.look()
        self.optimizer.zero_grad()  # Gradients are of no more use, and take as much memory as what learns.
        with self.trainable.plain() as model:
            new = [
                row
                for split, batch in self.evaluated.items()
                for row in evaluate(model, self.task, batch, step=self.step, split=split)
            ]
            for row in new:
                if row["metric"] == "loss" and not math.isfinite(float(row["value"])):
                    self._stop(self.step, f"loss of {row['split']} {row['value']}")
            self.metrics.extend(new)
            self.before_write()
            storage = "adapter" if self.trainable.adapters else self.config.checkpoint.storage
            weights = self.trainable.kept(model)
            checkpoints.save_weights(self.folder.checkpoint(self.step), weights, self.base, storage)
        zoom.prove(self.config, self.folder, self.step)
        self._write_metrics()
        learned = self.trainable.learned
        checkpoints.save_resume(self.folder.resume, self.step, learned, self.optimizer, self.device)
        log.info("step %d: %s", self.step, told(new))
        self.on_checkpoint(self.step, new)

    def _stop(self, step: int, why: str) -> None:
        if self.config.checkpoint.zoom_of:
            raise zoom.not_the_same(self.config, self.folder, step, f"diverged ({why}), and that run did not")
        log.warning("step %d: %s: diverged, and is not trained on", step, why)
        self.before_write()
        self._write_metrics()
        raise Diverged(step)

    def _write_metrics(self) -> None:
        write_table(self.folder.metrics, pa.Table.from_pylist(self.metrics, METRICS))


def begin(
    config: Config,
    folder: RunFolder,
    *,
    before_write: Callable[[], None] = lambda: None,
    on_checkpoint: Callable[[int, list[Metric]], None] = lambda step, metrics: None,
) -> Run:
    """A run as an earlier attempt left it, or with its first checkpoint.

    Raises:
        UserError: the model, the task or the schedule is wrong.
        Diverged: the model is of no use from the beginning.
    """
    device = pick_device(config.launcher.device)
    torch.manual_seed(config.seed)
    model, tokenizer = load_model(single(config), device, seed=config.seed)
    task = load(config, tokenizer, config.output)
    evaluated = {split: batch.to(device) for split, batch in task.splits.items()}
    check_tokens(model, evaluated)
    check_logits(model, evaluated["heldout"])

    delta = config.checkpoint.storage == "delta" and config.train.method == "full"
    base = checkpoints.snapshot(checkpoints.parameters(model)) if delta else {}
    trainable = prepare(model, config.train, config.seed)
    schedule = resolve(config.schedule, config.train.steps)
    groups = parameter_groups(trainable.learned.values(), config.optim.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=config.optim.lr, betas=config.optim.betas)
    metrics = read_metrics(folder)
    resumed = checkpoints.load_resume(folder.resume, trainable.learned, optimizer, device) if metrics else None
    trainable.settle()
    metrics = [row for row in metrics if resumed is not None and _known_at(row, resumed)]
    if resumed is not None:
        log.info("resuming from step %d", resumed)
    write_json(folder.about, describe(config, folder, trainable, resumed))
    write_json(folder.audit, dict(task.audit))
    run = Run(
        config,
        folder,
        device,
        trainable,
        task,
        optimizer,
        schedule,
        base,
        evaluated,
        metrics,
        before_write,
        on_checkpoint,
    )
    run.step = resumed or 0
    if resumed is None:
        run.keep()
    return run


def parameter_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """For the optimiser: matrices and embeddings, which decay; then biases and the scales of norms, which do not, as in
    Hugging Face's Trainer."""
    every = list(parameters)
    matrices = [parameter for parameter in every if parameter.dim() >= 2]
    vectors = [parameter for parameter in every if parameter.dim() < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def told(rows: Sequence[Metric]) -> str:
    """What the log tells of a checkpoint's metrics."""
    return ", ".join(f"{row['split']} {row['metric']} {row['value']:.3f}" for row in rows if row["metric"] in TOLD)


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


def describe(config: Config, folder: RunFolder, trainable: Trainable, resumed: int | None = None) -> dict[str, Any]:
    """What run.json says: the configuration, what it was computed with, and what it says already of the steps before
    the one that is gone on from."""
    known = {} if resumed is None else read_json(folder.about) or {}
    stacks = [stack for stack in known.get("stacks", []) if stack["from"] < (resumed or 0)]
    return {
        "run_id": folder.run_id,
        "config": config.meant(),
        "model": {
            "architecture": type(trainable.model).__name__,
            **trainable.sizes(),
            "commit": _commit(config.model),
        },
        **({"sources": sources} if (sources := own_sources(config)) else {}),
        "versions": {name: version(name) for name in ("mi-sweeps", "torch", "transformers", "transformer-lens")},
        **({"stacks": stacks} if stacks else {}),
        **zoom.proof(config, known, resumed or 0),
    }


def _commit(model: AnyModel) -> str | None:
    """On the hub: which of a branch's."""
    if not (isinstance(model, ModelConfig) and model.hub):
        return None
    from mi_sweeps.models import hub

    return hub.commit(model.hub, model.revision)


def _known_at(row: Metric, step: int) -> bool:
    """Whether a row was there at a checkpoint. The loss of a step's batch is told after that step."""
    return int(row["step"]) < step + (row["split"] != "batch")


def check_tokens(model: PreTrainedModel, batches: dict[str, Batch]) -> None:
    """Holds that the model knows the task's tokens, where these are numbers.

    Raises:
        UserError: it has fewer.
    """
    highest = max(int(batch.tokens.max()) for batch in batches.values())
    rows = model.get_output_embeddings().weight.shape[0]
    if highest >= rows:
        raise UserError(f"task: has token {highest}, and the model's vocabulary is {rows}; make one fit the other")


@torch.no_grad()
def check_logits(model: PreTrainedModel, batch: Batch) -> None:
    """Holds that the logits of a padded batch, with the head applied at one position, are what the whole model gives
    for each prompt cut at that position: nothing that follows may reach it.

    Raises:
        UserError: they differ, or are not finite.
    """
    # Those of the most and of the least padding are among them.
    few = batch.select(sorted({int(batch.end.argmin()), int(batch.end.argmax()), *range(min(2, len(batch)))}))
    cut = replace(few, end=(few.end - 1).clamp(min=0))  # Something follows in each prompt.
    kind = type(model).__name__
    for _ in range(2):  # A kernel that a library chose badly once is not chosen badly twice.
        try:
            with fused(model):
                evaluated = end_logits(model, cut)
            ours = torch.cat([end_logits(model, cut), evaluated])
            ends = cut.end.tolist()
            alone = torch.cat(
                [
                    model(input_ids=cut.tokens[row : row + 1, : end + 1], use_cache=False).logits[:, end]
                    for row, end in enumerate(ends)
                ]
            )
        except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
            reason = next(iter(str(error).splitlines()), "")
            raise UserError(f"{kind}: models of this architecture cannot be trained here ({reason[:200]})") from error
        if not (ours.isfinite().all() and alone.isfinite().all()):
            raise UserError(f"{kind}: its logits are not finite (NaN or inf); check its weights and its configuration")
        apart, limit = (ours - alone.repeat(2, 1)).abs().max().item(), tolerance(alone)
        if apart <= limit:
            return
    raise UserError(
        f"{kind}: logits at one position differ by {apart:.1e} from the whole model's for the prompt cut there (more "
        f"than {limit:.0e}); it sees tokens that follow, or scales its logits in a way that is not known here"
    )
