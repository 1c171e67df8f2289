"""Checks that a task makes the same prompts in every process.

A run's id covers the task's code, not what that code makes: the order of a set of words, for example, changes with each
Python process. So hashes of the prompts are kept for each configuration of a task (`record_of`) and in run.json, and
compared whenever a process makes the prompts again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mi_sweeps.config import Config
from mi_sweeps.errors import UserError
from mi_sweeps.store import sources
from mi_sweeps.store.files import read_json, write_json
from mi_sweeps.store.hashes import digest
from mi_sweeps.tasks.pairs import Pairs
from mi_sweeps.tasks.prompt_task import PromptTask
from mi_sweeps.tasks.questions import Question, QuestionTask
from mi_sweeps.tasks.task import Task
from mi_sweeps.tasks.tokens import Batch

Hashes = dict[str, str]
"""By what was made: `splits`, `training`, or pairs under a corruption."""

KEY = "prompt_hashes"
"""Where run.json and the records have them."""

log = logging.getLogger(__name__)


def record_of(data: Path) -> Path:
    """The file with the hashes of a configuration's prompts.

    Args:
        data: where the prompts are cached (`mi_sweeps.identity.data_folder`).
    """
    return data.with_suffix(".json")


def of_task(task: Task, *, training: bool) -> Hashes:
    """The hashes of all prompts of a task; of one that draws prompts at each step, of its splits.

    Args:
        training: whether the task trains; then also of the first prompts that it draws.
    """
    if isinstance(task, PromptTask):
        made = {
            split: [(one.text, one.answer, one.slots, one.n_subjects, one.template) for one in rows]
            for split, rows in task.prompts.splits.items()
        }
        return {"splits": digest([made, task.prompts.names])}
    if isinstance(task, QuestionTask):
        return {"splits": digest([[_values(one) for one in rows] for rows in (task.asked.train, task.asked.heldout)])}
    found = {"splits": digest({split: _hash(batch) for split, batch in task.splits.items()})}
    return found | ({"training": _hash(task.training(0, 8, 0))} if training else {})


def of_pairs(pairs: Pairs, config: Config) -> Hashes:
    """The hash of a patch job's pairs on the CPU, by what it asks for."""
    patching = config.patching
    name = f"{patching.prompts} {patching.split} pairs, corruption={config.corruption.name}"
    return {name: digest([_hash(pairs.clean), _hash(pairs.corrupted)])}


def compare(config: Config, found: Hashes, *records: Path) -> None:
    """Compares prompts with those of earlier processes, as far as these were recorded.

    Raises:
        UserError: they differ.
    """
    for record in records:
        about = read_json(record)
        if about is None:
            continue
        if KEY not in about and sources.is_own(config.task.target):
            log.warning("%s: an earlier version kept no hash of its prompts, so today's are not compared", record)
        before = about.get(KEY, {})
        if changed := [name for name, value in found.items() if before.get(name, value) != value]:
            raise refused(config, f"than {record} records ({', '.join(changed)})")


def keep(record: Path, found: Hashes) -> None:
    """Adds hashes to a record."""
    before = (read_json(record) or {}).get(KEY, {})
    if found.items() - before.items():
        write_json(record, {KEY: before | found})


def check_repeatable(config: Config, first: Task, second: Task, *, training: bool) -> Hashes:
    """Returns the hashes of a task that was made twice in this process.

    Raises:
        UserError: they differ, so the task draws from a generator that others draw from, too.
    """
    found, *again = (of_task(task, training=training) for task in (first, first, second))
    if any(found != other for other in again):
        raise refused(config, "each time that it is asked")
    return found


def refused(config: Config, what: str) -> UserError:
    """The error for prompts that are not the same as before."""
    task = config.task
    if not sources.is_own(task.target):
        return UserError(
            f"task={task.name}: makes other prompts {what}; another version of mi-sweeps or tokenizers made "
            "those: use that one, or another output=DIR"
        )
    file = next(iter(sources.own_modules(task.target).values()), task.target)
    return UserError(
        f"task={task.name}: makes other prompts {what}; look in {file} for a set (its order changes from process to "
        "process; sort it) and for random numbers without a seed, and run the sweep again"
    )


def _values(question: Question) -> Sequence[Any]:
    """What a question consists of, as JSON values. Only parts have an order."""
    corrupted = {name: dict(parts) for name, parts in question.corrupted.items()}
    answers = [question.right, question.wrong, question.target, question.group, dict(question.compared)]
    return [list(question.parts.items()), answers, corrupted]


def _hash(batch: Batch) -> str:
    total = hashlib.sha256(repr(batch.roles).encode())
    contrast = (batch.contrast.tokens, batch.contrast.weights) if batch.contrast else ()
    for values in (batch.tokens, batch.end, batch.answers, batch.subjects, batch.targets, *contrast):
        if values is not None:
            total.update(f"{values.dtype} {tuple(values.shape)}".encode() + values.contiguous().numpy().tobytes())
    return total.hexdigest()
