"""Checks that need only the configuration: `plan` makes them without the slow imports of `preflight`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from mi_sweeps.config import Config, LoraConfig, NamedFunction, ScratchConfig, SeriesConfig
from mi_sweeps.errors import UserError
from mi_sweeps.store.hashes import digest
from mi_sweeps.store.sources import is_own, own_modules
from mi_sweeps.sweeps.points import GridPoint
from mi_sweeps.tasks import CORRUPTIONS, NO_BOS, OF_NAMES, OF_NUMBERS, PREVIOUS_TOKEN

NAMES = ("mi_sweeps.tasks.ioi.task", "mi_sweeps.tasks.user.task")
"""Tasks whose prompts contain names."""


def check(points: Sequence[GridPoint]) -> None:
    """Checks that the parts of each configuration fit together; a user's own tasks are not checked here.

    Raises:
        UserError: the task lacks the corruption, or needs a tokenizer that the model lacks.
    """
    _check_adapter(points)
    checked = set()
    for point in points:
        patched = point.values["patching"].get("task")
        key = digest([*(point.values[name] for name in ("model", "task", "corruption", "train")), patched])
        if key not in checked:
            checked.add(key)
            _check(point.config)


def without_effect(points: Sequence[GridPoint], words: Sequence[str]) -> list[str]:
    """Returns the overridden keys that have no effect, because all points are series."""
    if not all(point.is_series for point in points):
        return []
    keys = [word.partition("=")[0].lstrip("+~") for word in words]
    return [
        key
        for key in keys
        if key.split(".")[0] in ("optim", "schedule", "train")
        or (key.startswith("checkpoint.") and key != "checkpoint.steps")
        or (key == "seed" and "seed" not in points[0].config.meant())
    ]


def _check_adapter(points: Sequence[GridPoint]) -> None:
    """Checks that an adapter's settings come with an adapter somewhere in the sweep: it may also have full fine-tunes,
    and zooms into these."""
    trains = [point.values["train"] for point in points if not point.values["checkpoint"].get("zoom_of")]
    if any(train.get("method") == "lora" for train in trains):
        return
    default = LoraConfig().model_dump(mode="json")
    for train in trains:
        for key, value in train.get("lora", {}).items():
            if value != default[key]:
                raise UserError(f"train.lora.{key}={value}: there is no adapter; give train.method=lora too")


def _check(config: Config) -> None:
    model, task, corruption = config.model, config.for_patching.task, config.corruption.name
    _check_train(config)
    if is_own(task.target) and not own_modules(task.target):
        raise UserError(f"task={task.name}: {task.target}: no such module; put its folder on PYTHONPATH")
    known = corruptions(task)
    if known and corruption not in known:
        others = f", or one of {', '.join(known[1:])}" if known[2:] else "".join(f" or {name}" for name in known[1:])
        raise UserError(
            f"corruption={corruption}: task={task.name} has no such corruption; use corruption={known[0]}{others}"
        )
    if task.target == PREVIOUS_TOKEN and corruption == "bos" and task.arguments.get("bos") is False:
        raise UserError(NO_BOS)
    if isinstance(model, ScratchConfig) and task.target in (*NAMES, *CORRUPTIONS) and task.target not in OF_NUMBERS:
        raise UserError(
            f"task={task.name}: makes text, but model={model.name} has no tokenizer; "
            "use task=previous_token or task=induction, or another model"
        )


def _check_train(config: Config) -> None:
    """Checks the training settings without looking at the model's weights."""
    model, train = config.model, config.train
    if isinstance(model, SeriesConfig):
        return  # Nothing is trained.
    if train.method == "lora" and find_spec("peft") is None:
        raise UserError("train.method=lora: needs peft, which is not installed; `pip install peft`")
    if train.gradient_checkpointing and isinstance(model, ScratchConfig):
        raise UserError(
            f"train.gradient_checkpointing=true: model={model.name} does not support it; use train.micro_batch, or a "
            "smaller train.batch_size"
        )


def corruptions(task: NamedFunction) -> list[str]:
    """Lists the corruptions of a built-in task; empty for a user's own, which only it knows."""
    target, arguments = task.target, task.arguments
    if target not in NAMES:
        return list(CORRUPTIONS.get(target, ()))
    subjects = 1 if arguments.get("n_names") == 2 else 2
    return [name for name, one in OF_NAMES.items() if one.needs <= subjects]
