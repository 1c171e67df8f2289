"""Makes the task of a configuration, and the prompt pairs of a patch job."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING

from mi_sweeps.config import Config, ScratchConfig
from mi_sweeps.errors import UserError
from mi_sweeps.tasks import data
from mi_sweeps.tasks.pairs import Pairs
from mi_sweeps.tasks.prompt_task import PromptTask
from mi_sweeps.tasks.questions import Questions, QuestionTask
from mi_sweeps.tasks.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def patched_pairs(task: Task, config: Config, most: int | None = None) -> Pairs:
    """The pairs of a patch job.

    Args:
        task: `config.for_patching`'s.
        most: an upper limit on the number of pairs.

    Raises:
        UserError: the task has no such corruption, or no such prompts.
    """
    corruption, patching = config.corruption.name, config.patching
    count = patching.prompts if most is None else min(most, patching.prompts)
    if patching.split == "heldout":
        return task.pairs(corruption, count)
    if "split" not in signature(task.pairs).parameters:
        raise UserError(
            f"patching.split={patching.split}: task={config.task.name} has pairs of held-out prompts only; use "
            "patching.split=heldout"
        )
    pairs: Pairs = task.pairs(corruption, count, split=patching.split)  # type: ignore[call-arg]
    return pairs


def load(config: Config, tokenizer: PreTrainedTokenizerBase | None, *, cache: Path | None = None) -> Task:
    """The task of a configuration.

    Args:
        tokenizer: None for a model without one.
        cache: where its prompts are kept (`mi_sweeps.identity.data_folder`).

    Raises:
        UserError: the task's arguments or the user's file are wrong, or it needs a tokenizer.
    """
    made = data.load(config, tokenizer, cache=cache)
    if isinstance(made, Questions):
        prepend_bos = not isinstance(config.model, ScratchConfig) and config.model.prepend_bos
        return QuestionTask(made, tokenizer, prepend_bos=prepend_bos)
    if not isinstance(made, data.TaskData):
        if not isinstance(config.model, ScratchConfig) and config.model.prepend_bos:
            raise UserError(
                f"model.prepend_bos=true: has no effect, because task={config.task.name} makes its own tokens; "
                "use model.prepend_bos=false"
            )
        return made
    assert tokenizer is not None and not isinstance(config.model, ScratchConfig)
    return PromptTask(made, tokenizer, prepend_bos=config.model.prepend_bos)
