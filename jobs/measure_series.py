"""The stage that replaces training for a series: audits its checkpoints and measures the task's metrics on each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from mi_sweeps.circuits.examine import rehearse
from mi_sweeps.config import Config, SeriesConfig
from mi_sweeps.errors import UserError
from mi_sweeps.identity import data_folder
from mi_sweeps.models.load import load_tokenizer, pick_device
from mi_sweeps.series import audit, checkpoints, logged
from mi_sweeps.series.checkpoints import Series
from mi_sweeps.store.files import write_json, write_table
from mi_sweeps.store.folders import RunFolder
from mi_sweeps.tasks import prompt_hashes
from mi_sweeps.tasks.load import load
from mi_sweeps.training.evaluate import Metric, evaluate
from mi_sweeps.training.models_at import in_turn
from mi_sweeps.training.run import METRICS, check_logits, check_tokens, describe, read_metrics, summary
from mi_sweeps.training.trainable import Trainable

log = logging.getLogger(__name__)


def measure_series(
    config: Config,
    folder: RunFolder,
    *,
    before_write: Callable[[], None] = lambda: None,
    on_step: Callable[[int], None] = lambda step: None,
    on_checkpoint: Callable[[int, list[Metric]], None] = lambda step, metrics: None,
) -> None:
    """Measures every checkpoint of a series that has not been measured. No weights are copied.

    Args:
        before_write: called before each write; if it raises, nothing is written.
        on_step: called with the number of checkpoints done.
        on_checkpoint: called with a checkpoint's step and metrics once they are on disk.

    Raises:
        UserError: the model or the task is wrong, a checkpoint cannot be read, or no usable one is left.
    """
    assert isinstance(config.model, SeriesConfig)
    device = pick_device(config.launcher.device)
    series = checkpoints.of(config)
    audited = audit.of(series)
    missing = audited.missing_steps
    for one in audited.findings:
        log.warning("step %d%s: %s", one.step, " counts as missing" if one.missing else "", one.reason)
    chosen = [checkpoint for checkpoint in series.checkpoints if checkpoint.step not in missing]
    if not chosen:
        why = next(iter(missing.values()))
        raise UserError(f"model={config.model.name}: no checkpoint is usable ({why}); see `mi-sweeps audit`")
    before_write()
    folder.note_missing_steps(missing)
    write_json(folder.series, _about(series, missing))

    tokenizer = load_tokenizer(series.checkpoints[0].model)
    data = data_folder(config)
    task = load(config, tokenizer, cache=data)
    made = prompt_hashes.of_task(task, training=False)
    prompt_hashes.compare(config, made, folder.about, prompt_hashes.record_of(data))
    prompt_hashes.keep(prompt_hashes.record_of(data), made)
    write_json(folder.audit, dict(task.audit))
    evaluated = {split: batch.to(device) for split, batch in task.splits.items()}
    theirs = logged.read(chosen)
    ours = [row for row in read_metrics(folder) if row["split"] != logged.SPLIT and row["step"] not in missing]
    metrics, done = [*theirs, *ours], {row["step"] for row in ours}
    waiting = [checkpoint for checkpoint in chosen if checkpoint.step not in done]
    ready = len(chosen) - len(waiting)
    for step, model in in_turn(config.model, waiting, device):
        if step == waiting[0].step:
            check_tokens(model, evaluated)
            rehearse(config, model, tokenizer, task)
            write_json(folder.about, describe(config, folder, Trainable(model, {}), made))
        check_logits(model, evaluated["heldout"])
        new = [
            row for split, batch in evaluated.items() for row in evaluate(model, task, batch, step=step, split=split)
        ]
        del model  # Free it before the next one is read.
        metrics.extend(new)
        before_write()
        write_table(folder.metrics, pa.Table.from_pylist(metrics, METRICS))
        log.info("step %d: %s", step, summary(new))
        before = max((one.step for one in chosen if one.step < step), default=None)
        on_checkpoint(step, [*new, *logged.at(theirs, step, before)])
        ready += 1
        on_step(ready)


def _about(series: Series, missing: Mapping[int, str]) -> dict[str, Any]:
    """The contents of series.json: where each checkpoint is, and why some steps are missing."""
    return {
        "checkpoints": [
            {"step": one.step, "name": one.name, "revision": one.model.revision}
            for one in series.checkpoints
            if one.step not in missing
        ],
        "missing_steps": [{"step": step, "reason": why} for step, why in sorted(missing.items())],
    }
