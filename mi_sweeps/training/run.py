"""A run in training: its model and optimiser, its files, and how it begins, keeps checkpoints and diverges."""

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
from mi_sweeps.identity import HashedContents, beside_configuration, data_folder, own_sources, run_identity
from mi_sweeps.models.load import load_model, pick_device
from mi_sweeps.series.checkpoints import single
from mi_sweeps.store.endings import Diverged
from mi_sweeps.store.files import read_json, read_table, write_json, write_table
from mi_sweeps.store.folders import RunFolder
from mi_sweeps.tasks import prompt_hashes
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

RECORD_EVERY = 20
"""Steps between two readings of the training losses; each one waits for the GPU."""

LOGGED = ("win_rate", "accuracy")
"""Metrics that are logged at every checkpoint."""

MEAN_OF = 10
"""Steps over which the loss is averaged to detect divergence, so that one bad batch is not enough."""

METRICS = pa.schema(
    [("step", pa.int64()), ("split", pa.string()), ("metric", pa.string()), ("value", pa.float64()), ("n", pa.int64())]
)


@dataclass
class TrainingState:
    """The state of a run in training, and everything that a step needs."""

    config: Config
    folder: RunFolder
    device: torch.device
    trainable: Trainable
    task: Task
    optimizer: torch.optim.AdamW
    schedule: Callable[[int], float]
    base: checkpoints.Tensors
    """The weights before training, if checkpoints are stored as differences from them; else empty."""
    evaluated: dict[str, Batch]
    metrics: list[Metric]
    """The metrics table so far."""
    before_write: Callable[[], None]
    on_checkpoint: Callable[[int, list[Metric]], None]
    step: int = 0
    """Number of steps done."""
    losses: list[Tensor] = field(default_factory=list)
    """Losses of the steps since `record_losses` was last called."""

    def __post_init__(self) -> None:
        self.checkpoint_steps = set(self.config.checkpoint_steps)

    @property
    def model(self) -> PreTrainedModel:
        """The model as a training step uses it; `trainable.plain` is the model as it is examined."""
        return self.trainable.model

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return self.config.optim.lr * self.schedule(self.step)

    def batch(self) -> Batch:
        """The prompts of the next step, not yet on the device."""
        return self.task.training(self.step, self.config.train.batch_size, self.config.seed)

    def record_losses(self) -> None:
        """Moves the collected training losses into the metrics, as split `batch`.

        Raises:
            Diverged: a loss is not finite, or the mean of the last MEAN_OF exceeds `train.diverged` times the first
                loss. If the first loss is below that of guessing, log(vocabulary), the latter is used instead: a model
                that knows its task may forget it for a while.
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

    def write_checkpoint(self) -> None:
        """Evaluates and writes a checkpoint: weights first and the resume state last, so that it never precedes them.

        Raises:
            Diverged: a training loss or an evaluation loss shows it.
        """
        self.record_losses()
        self.optimizer.zero_grad()  # The gradients are no longer needed, and are as large as the learned weights.
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
            weights = self.trainable.weights_to_store(model)
            checkpoints.save_weights(self.folder.checkpoint(self.step), weights, self.base, storage)
        zoom.prove(self.config, self.folder, self.step)
        self._write_metrics()
        learned = self.trainable.learned
        checkpoints.save_resume(self.folder.resume, self.step, learned, self.optimizer, self.device)
        log.info("step %d: %s", self.step, summary(new))
        self.on_checkpoint(self.step, new)

    def _stop(self, step: int, why: str) -> None:
        if self.config.checkpoint.zoom_of:
            raise zoom.not_the_same(self.config, self.folder, step, f"diverged ({why}), but that run did not")
        log.warning("step %d: %s: diverged; training stops here", step, why)
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
) -> TrainingState:
    """Resumes a run where an earlier attempt stopped, or starts it and writes its first checkpoint.

    Raises:
        UserError: the model, the task or the schedule is wrong.
        Diverged: the untrained model's loss is not finite.
    """
    device = pick_device(config.launcher.device)
    torch.manual_seed(config.seed)
    model, tokenizer = load_model(single(config), device, seed=config.seed)
    data = data_folder(config)
    task = load(config, tokenizer, cache=data)
    made = prompt_hashes.of_task(task, training=True)
    prompt_hashes.compare(config, made, folder.about, prompt_hashes.record_of(data))
    prompt_hashes.keep(prompt_hashes.record_of(data), made)
    evaluated = {split: batch.to(device) for split, batch in task.splits.items()}
    check_tokens(model, evaluated)
    check_logits(model, evaluated["heldout"])

    delta = config.checkpoint.storage == "delta" and config.train.method == "full"
    base = checkpoints.copy_to_cpu(checkpoints.parameters(model)) if delta else {}
    trainable = prepare(model, config.train, config.seed)
    schedule = resolve(config.schedule, config.train.steps)
    groups = parameter_groups(trainable.learned.values(), config.optim.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=config.optim.lr, betas=config.optim.betas)
    metrics = read_metrics(folder)
    resumed = checkpoints.load_resume(folder.resume, trainable.learned, optimizer, device) if metrics else None
    trainable.round()
    metrics = [row for row in metrics if resumed is not None and _known_at(row, resumed)]
    if resumed is not None:
        log.info("resuming from step %d", resumed)
    write_json(folder.about, describe(config, folder, trainable, made, resumed))
    write_json(folder.audit, dict(task.audit))
    run = TrainingState(
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
        run.write_checkpoint()
    return run


def parameter_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """The optimiser's parameter groups: first matrices and embeddings, with weight decay, then biases and norm scales,
    without it, as in Hugging Face's Trainer."""
    every = list(parameters)
    matrices = [parameter for parameter in every if parameter.dim() >= 2]
    vectors = [parameter for parameter in every if parameter.dim() < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def summary(rows: Sequence[Metric]) -> str:
    """A checkpoint's main metrics in one line, for the log."""
    return ", ".join(f"{row['split']} {row['metric']} {row['value']:.3f}" for row in rows if row["metric"] in LOGGED)


def read_metrics(folder: RunFolder) -> list[Metric]:
    """The metrics of an earlier attempt as rows; none if they are missing or damaged, and then the run starts anew."""
    if not folder.metrics.exists():
        return []
    try:
        rows: list[Metric] = read_table(folder.metrics).to_pylist()
    except UserError as error:
        log.warning("%s; starting from step 0", error)
        return []
    return rows


def describe(
    config: Config, folder: RunFolder, trainable: Trainable, made: prompt_hashes.Hashes, resumed: int | None = None
) -> dict[str, Any]:
    """The contents of run.json: the configuration, hashes of what else the run depends on (`contents`), what its id is
    a hash of (`identity`), hashes of the prompts (`made`), the software used, and what an earlier attempt recorded for
    the steps before the one resumed from."""
    known = {} if resumed is None else read_json(folder.about) or {}
    contents = HashedContents()
    stacks = [stack for stack in known.get("stacks", []) if stack["from"] < (resumed or 0)]
    return {
        "run_id": folder.run_id,
        "config": config.meant(),
        "model": {
            "architecture": type(trainable.model).__name__,
            **trainable.sizes(),
            "commit": _commit(config.model),
        },
        "contents": beside_configuration(config, contents),
        prompt_hashes.KEY: made,
        **({"sources": sources} if (sources := own_sources(config, contents)) else {}),
        "identity": run_identity(config, contents),
        "versions": {name: version(name) for name in ("mi-sweeps", "torch", "transformers", "transformer-lens")},
        **({"stacks": stacks} if stacks else {}),
        **zoom.proof(config, known, resumed or 0),
    }


def _commit(model: AnyModel) -> str | None:
    """The commit that a branch of the hub points to; None for a model that is not on the hub."""
    if not (isinstance(model, ModelConfig) and model.hub):
        return None
    from mi_sweeps.models import hub

    return hub.commit(model.hub, model.revision)


def _known_at(row: Metric, step: int) -> bool:
    """Whether a row had been recorded when the checkpoint of a step was written. The loss of step n's batch is recorded
    after that step."""
    return int(row["step"]) < step + (row["split"] != "batch")


def check_tokens(model: PreTrainedModel, batches: dict[str, Batch]) -> None:
    """Checks that the task's tokens are in the model's vocabulary, for tasks that make their own.

    Raises:
        UserError: the vocabulary is too small.
    """
    highest = max(int(batch.tokens.max()) for batch in batches.values())
    rows = model.get_output_embeddings().weight.shape[0]
    if highest >= rows:
        raise UserError(f"task: uses token {highest}, but the model's vocabulary has {rows}; make one fit the other")


@torch.no_grad()
def check_logits(model: PreTrainedModel, batch: Batch) -> None:
    """Checks that the logits at one position of a padded batch, with the unembedding applied only there, equal those of
    the whole model for each prompt truncated at that position: later tokens must have no influence.

    Raises:
        UserError: they differ, or are not finite.
    """
    # Includes the prompts with the most and the least padding.
    few = batch.select(sorted({int(batch.end.argmin()), int(batch.end.argmax()), *range(min(2, len(batch)))}))
    cut = replace(few, end=(few.end - 1).clamp(min=0))  # So that a token follows in each prompt.
    kind = type(model).__name__
    for _ in range(2):  # A second try, because a library's first choice of a kernel can be off.
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
        f"than {limit:.0e}); the model sees later tokens, or scales its logits in an unsupported way"
    )
