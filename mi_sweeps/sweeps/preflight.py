"""Finds errors before anything is computed or written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mi_sweeps.circuits.chosen_sets import halves, named
from mi_sweeps.circuits.measures import check_prompts
from mi_sweeps.circuits.paths import receivers
from mi_sweeps.config import Config, ScratchConfig
from mi_sweeps.errors import UserError
from mi_sweeps.identity import data_folder
from mi_sweeps.models.load import check_files, load_config, load_tokenizer, pick_device
from mi_sweeps.series.checkpoints import single
from mi_sweeps.store.hashes import digest
from mi_sweeps.store.sources import is_own
from mi_sweeps.sweeps import memory, model_notes
from mi_sweeps.sweeps.points import GridPoint
from mi_sweeps.tasks import audit, prompt_hashes
from mi_sweeps.tasks.encoding import adds_bos
from mi_sweeps.tasks.load import load, patched_pairs
from mi_sweeps.tasks.pairs import Pairs, uncorrupted_note
from mi_sweeps.tasks.prompt_task import PromptTask
from mi_sweeps.tasks.questions import QuestionTask
from mi_sweeps.tasks.task import Task
from mi_sweeps.training.schedules import resolve
from mi_sweeps.training.trainable import check_trainable

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def check(points: Sequence[GridPoint]) -> list[str]:
    """Reads the headers of every local model's weights, and builds all prompts, pairs and schedules of a plan.

    Returns:
        The audits of the prompts, as lines for a terminal.

    Raises:
        UserError: the configuration or the user's files are wrong.
    """
    lines = model_notes.lines(points, lambda model: load_config(model).model_type)
    audits: list[list[str]] = []
    tasks: dict[str, Task] = {}
    networks: dict[str, PreTrainedModel | None] = {}
    checked: set[str] = set()
    records: dict[str, Path] = {}
    made: dict[Path, prompt_hashes.Hashes] = {}
    for point in points:
        # Of thousands of points, most agree in what is checked here.
        values = point.values
        source = digest([values["model"], values["patching"].get("task") or values["task"]])
        key = digest([source, *(values[name] for name in ("corruption", "patching", "schedule", "train"))])
        if key in checked:
            continue
        checked.add(key)
        config = point.config.for_patching
        pick_device(config.launcher.device)
        if source not in tasks:
            tokenizer = load_tokenizer(single(config))
            own = data_folder(config) if is_own(config.task.target) else None
            cache = own if own and own.exists() else None
            tasks[source] = load(config, tokenizer, cache=cache)
            lines += [line for line in _without_bos(config, tasks[source], tokenizer) if line not in lines]
            if own:  # The same prompts are made again, later and in other processes.
                records[source] = known = prompt_hashes.record_of(own)
                trains = not (point.is_series or values["patching"].get("task"))
                again = load(config, tokenizer, cache=cache)
                found = prompt_hashes.check_repeatable(config, tasks[source], again, training=trains)
                prompt_hashes.compare(config, found, known)
                made[known] = made.get(known, {}) | found  # Models of one content have one record.
            if (name := digest(values["model"])) not in networks:
                networks[name] = check_files(single(config))
            about = [f"task={config.task.name}", *(f"  {line}" for line in audit.lines(tasks[source].audit))]
            if about not in audits:  # Models of one tokenizer have the same prompts.
                audits.append(about)
                lines += about
        if config.task.arguments.get("repeat", 1) != 1:
            tasks[source].training(0, 1, 0)  # Only training prompts repeat their answers.
        resolve(config.schedule, config.train.steps)
        pairs = patched_pairs(tasks[source], config)
        if record := records.get(source):
            found = prompt_hashes.of_pairs(pairs, config)
            if found != prompt_hashes.of_pairs(patched_pairs(tasks[source], config), config):
                raise prompt_hashes.refused(config, "each time that it is asked")
            prompt_hashes.compare(config, found, record)
            made[record] |= found
        _check_tokens(config, pairs)
        lines += [line for line in uncorrupted_note(pairs, config.prompts_label) if line not in lines]
        _check_patching(config, tasks[source], len(pairs.clean))
        if network := networks[digest(values["model"])]:
            check_trainable(network, config.train)
        for word in ("precision", "weights"):
            slow = f"train.{word}=bf16: slow on most CPUs; meant for GPUs"
            on_cpu = pick_device(config.launcher.device).type == "cpu"
            if getattr(config.train, word) == "bf16" and on_cpu and slow not in lines:
                lines.append(slow)
    for record, hashes in made.items():
        prompt_hashes.keep(record, hashes)
    device = pick_device(points[0].config.launcher.device)
    gpu = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None
    return lines + [line for line in memory.lines(points, gpu=gpu) if line.startswith("warning")]


def _without_bos(config: Config, task: Task, tokenizer: PreTrainedTokenizerBase | None) -> list[str]:
    """A line if prompts of text lack the BOS with which the tokenizer itself begins texts."""
    if not isinstance(task, PromptTask | QuestionTask) or isinstance(config.model, ScratchConfig):
        return []
    if config.model.prepend_bos or tokenizer is None or not adds_bos(tokenizer):
        return []
    return [
        f"model={config.model.name}: its tokenizer begins texts with {tokenizer.bos_token}, but prompts do not "
        "(model.prepend_bos=false); if it was trained with that, use model.prepend_bos=true"
    ]


def _check_tokens(config: Config, pairs: Pairs) -> None:
    """Checks that the model knows every token: a task that makes its own tokens may use too many."""
    rows = load_config(single(config)).vocab_size
    tokens = (pairs.clean.tokens, pairs.corrupted.tokens, pairs.clean.answers, pairs.contrast.tokens)
    largest = max(int(some.max()) for some in tokens if some.numel())
    if largest >= rows:
        raise UserError(
            f"task={config.task.name}: makes token {largest}, but model={config.model.name} has only 0 to {rows - 1}; "
            "give the task fewer tokens or the model more"
        )


def _check_patching(config: Config, task: Task, pairs: int) -> None:
    """Checks what the patch job would otherwise find only after the fine-tune."""
    patching = config.patching
    if not patching.only_for_known_models:
        return
    model = load_config(single(config))
    n_prompts = min(patching.measured_prompts, len(task.splits["heldout"]))
    check_prompts(patching.measures, n_prompts, without_bos="without_bos" in task.splits)
    if patching.paths:
        n_heads = model.num_attention_heads
        n_kv_heads = getattr(model, "num_key_value_heads", n_heads)
        for into in patching.paths.inputs:
            receivers(patching.paths, into, model.num_hidden_layers, n_heads if into == "q" else n_kv_heads)
    if patching.circuits:
        halves(pairs)
        layers, mlps = range(model.num_hidden_layers), [None] if patching.circuits.nodes == "all" else []
        nodes = [(layer, head) for layer in layers for head in [*range(model.num_attention_heads), *mlps]]
        named(nodes, patching.circuits.given or ())
