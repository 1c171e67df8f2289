"""The prompts of a run: made once per fingerprint and cached with `datasets`, their audit beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_sweeps.config import Config
from mi_sweeps.errors import UserError
from mi_sweeps.store import sources
from mi_sweeps.store.files import read_json, replacing, write_json
from mi_sweeps.store.hashes import hash_files
from mi_sweeps.tasks.audit import spelling
from mi_sweeps.tasks.prompts import Prompt
from mi_sweeps.tasks.questions import Questions
from mi_sweeps.tasks.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TaskData:
    """The prompts of each split, the names they may use, and the audit of both."""

    splits: dict[str, list[Prompt]]
    """`train`, `heldout`, and other evaluation splits such as `two_name`."""
    names: list[str]
    """Names that are one token of the model's tokenizer."""
    audit: dict[str, Any]
    """JSON values: what was kept and dropped, and what a reader should know about the prompts."""
    repeat: int = 1
    """How many times in a row the answer follows a training prompt."""


def checked_repeat(repeat: object) -> int:
    """Returns a task's `repeat`.

    Raises:
        UserError: it is not a positive integer.
    """
    if not isinstance(repeat, int) or isinstance(repeat, bool) or repeat < 1:
        raise UserError(f"task.repeat={repeat}: give how many times the answer is repeated, 1 or more")
    return repeat


def load(
    config: Config, tokenizer: PreTrainedTokenizerBase | None, *, cache: Path | None = None
) -> TaskData | Questions | Task:
    """Calls the task's function, which returns prompts with name slots, questions, or a whole task.

    Args:
        cache: where prompts with name slots are kept, and read from if they are there; see
            `mi_sweeps.identity.data_folder`.

    Raises:
        UserError: the task's arguments or the user's file are wrong, or the task needs a tokenizer.
    """
    from hydra.utils import get_object

    if cache and (cached := read_json(cache / "audit.json")) is not None:
        if cached.get("files") not in (None, _hash(cache)):  # Earlier versions stored no hash.
            raise _damaged(cache, "its checksum is wrong")
        return TaskData(_read(cache), cached["names"], cached["audit"], cached.get("repeat", 1))
    arguments = config.task.arguments
    sources.hold(config.task.target)
    try:
        made: TaskData | Questions | Task = get_object(config.task.target)(tokenizer, **arguments)
    except (ImportError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"task={config.task.name}: {reason}; compare its keys with conf/task") from error
    if isinstance(made, TaskData) and tokenizer is not None:
        notes = [*made.audit.get("notes", ()), *spelling(made.names, tokenizer)]
        made = replace(made, audit={**made.audit, "notes": notes} if notes else made.audit)
    if cache and isinstance(made, TaskData):
        try:
            with replacing(cache) as temporary:
                _write(made, temporary)
        except OSError:
            # Another process may have written the same prompts first.
            if not cache.exists():
                raise
    return made


def _write(data: TaskData, folder: Path) -> None:
    from datasets import Dataset, DatasetDict

    columns = {split: Dataset.from_list([_row(prompt) for prompt in prompts]) for split, prompts in data.splits.items()}
    DatasetDict(columns).save_to_disk(folder)
    about = {"names": data.names, "audit": data.audit, "repeat": data.repeat, "files": _hash(folder)}
    write_json(folder / "audit.json", about)


def _hash(folder: Path) -> str:
    """The hash of everything that `datasets` wrote."""
    return hash_files(path for path in folder.rglob("*") if path.is_file() and path != folder / "audit.json")


def _read(folder: Path) -> dict[str, list[Prompt]]:
    from datasets import load_from_disk

    try:
        return {split: [_prompt(row) for row in dataset] for split, dataset in load_from_disk(folder).items()}
    except Exception as error:
        raise _damaged(folder, type(error).__name__) from None


def _damaged(folder: Path, how: str) -> UserError:
    return UserError(f"{folder}: damaged ({how}); delete it and run again with --retry")


def _row(prompt: Prompt) -> dict[str, Any]:
    return {
        "text": prompt.text,
        "answer": prompt.answer,
        "slots": [list(slot) for slot in prompt.slots],
        "n_subjects": prompt.n_subjects,
        "template": prompt.template,
    }


def _prompt(row: dict[str, Any]) -> Prompt:
    slots = tuple((first, last) for first, last in row["slots"])
    return Prompt(row["text"], row["answer"], slots, row["n_subjects"], row["template"])


def balanced(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """Chooses `count` prompts, spread as evenly over the orders as possible; always the same ones."""
    groups: dict[tuple[int, str], list[Prompt]] = {}
    for prompt in prompts:
        groups.setdefault((prompt.answer_place, prompt.subject_order), []).append(prompt)
    queues = [list(reversed(groups[order])) for order in sorted(groups)]
    chosen: list[Prompt] = []
    while len(chosen) < count and any(queues):
        chosen += [queue.pop() for queue in queues if queue]
    return chosen[:count]
