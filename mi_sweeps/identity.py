"""Ids of runs and patch jobs: short hashes of everything that changes a result, and of nothing else."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mi_sweeps.config import (
    DIVERGED,
    FORMAT,
    Config,
    ModelConfig,
    PatchingConfig,
    ScratchConfig,
    SeriesConfig,
    SingleModel,
    is_path,
)
from mi_sweeps.errors import UserError
from mi_sweeps.models import (
    ADAPTER,
    base,
    config_json,
    has_vocabulary,
    spells_otherwise,
    tokenizer_files,
    weights_files,
)
from mi_sweeps.models import tokenizer as tokenizer_of
from mi_sweeps.models.trainer import global_step
from mi_sweeps.series import checkpoints
from mi_sweeps.series.checkpoints import Checkpoint, Series
from mi_sweeps.store import hashes, sources
from mi_sweeps.store.hashes import ID_LENGTH, digest, hash_files
from mi_sweeps.tasks import PREVIOUS_TOKEN
from mi_sweeps.tasks.rows import parsed_differently_now

NEVER_COPIED = ("gpt2", "llama", "mistral", "nope", "qwen2", "qwen3")
"""Model types whose old patch jobs are right, although models used to be wrapped only once for all checkpoints. This
records what was computed in the past: never add to it."""

HEADS_TOGETHER = ("flex_olmo", "minimax_m2", "olmo2", "olmo3", "olmoe")
"""Model types that normalise the queries of all heads together, and the keys. Patching once came before this
normalisation, so that patching one head changed the others too; now it comes after."""

NORM_AFTER_ATTENTION = ("gemma2", "gemma3_text", "olmo2", "olmo3")
"""Model types whose copying scores once left out the norm after attention."""

READERS = 8
"""Threads that read the checkpoints of a series."""


@dataclass(frozen=True)
class HashedContents:
    """Hashes of models and files, each computed once. Use one object per plan: files may change later."""

    models: dict[SingleModel, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    spellings: dict[SingleModel, bool] = field(default_factory=dict)
    kinds: dict[SingleModel, str | None] = field(default_factory=dict)
    random: dict[SingleModel, bool] = field(default_factory=dict)
    series: dict[tuple[SeriesConfig, tuple[int, ...] | None, int], Series] = field(default_factory=dict)
    code: dict[str, dict[str, str]] = field(default_factory=dict)

    def of(self, config: Config) -> str:
        """Returns the content of a configuration's model; for a series, of each step, with None for a missing one."""
        if not isinstance(config.model, SeriesConfig):
            return self.model(config.model)
        series = self.series_of(config)
        # Disks and hubs serve several requests at once.
        with ThreadPoolExecutor(READERS) as readers:
            found = readers.map(self.model, [checkpoint.model for checkpoint in series.checkpoints])
            content = {one.step: [what, *_label(one)] for one, what in zip(series.checkpoints, found, strict=True)}
        return f"series:{digest([[step, *content.get(step, [None])] for step in config.checkpoint_steps])}"

    def single(self, config: Config) -> SingleModel:
        """As `checkpoints.single`."""
        return self.series_of(config).checkpoints[0].model if isinstance(config.model, SeriesConfig) else config.model

    def series_of(self, config: Config) -> Series:
        """As `checkpoints.of`."""
        assert isinstance(config.model, SeriesConfig)
        key = (config.model, config.checkpoint.steps, config.seed if config.model.has_seeds else 0)
        if key not in self.series:
            self.series[key] = checkpoints.find(*key)
        return self.series[key]

    def model(self, model: SingleModel) -> str:
        """Returns the content of a model's files, local or on the hub, with its base's if it is an adapter; for a model
        from scratch, its sizes.

        Raises:
            UserError: the files are missing, or the hub does not answer.
        """
        if isinstance(model, ScratchConfig):
            return f"scratch:{digest(model.model_dump(mode='json', exclude={'name'}))}"
        if model not in self.models:
            own = _on_hub(model.hub, model.revision) if model.hub else hash_files(weights_files(model))
            below = base(model)
            self.models[model] = digest({"adapter": own, "base": self.model(below)}) if below else own
        return self.models[model]

    def tokenizer(self, model: ModelConfig) -> dict[str, str]:
        """Returns the content of a tokenizer other than the model's own; empty if none is configured.

        Raises:
            UserError: there is no tokenizer at that place.
        """
        if not model.tokenizer:
            return {}
        if (source := tokenizer_of(model)).path is None:
            return {"tokenizer": _on_hub(str(source.hub), source.revision, weights=False)}
        if not (source.path.is_dir() and has_vocabulary(os.listdir(source.path))):
            raise UserError(f"model.tokenizer={model.tokenizer}: no tokenizer there; give a folder with one, or a name")
        return {"tokenizer": hash_files(tokenizer_files(source.path))}

    def spells_otherwise(self, model: ModelConfig) -> bool:
        """Whether a local model's tokenizer changes letters."""
        if model not in self.spellings:
            self.spellings[model] = spells_otherwise(model)
        return self.spellings[model]

    def wrapped_once(self, model: SingleModel) -> bool:
        """Whether old patch jobs of this model may be wrong: TransformerLens wrapped it once for all checkpoints, and
        with many types it kept the first checkpoint's weights."""
        if isinstance(model, ModelConfig):
            model = base(model) or model
        if isinstance(model, ModelConfig) and model.hub:
            return False  # Ids of hub models have changed since.
        return self._kind(model) not in NEVER_COPIED

    def heads_together(self, model: SingleModel) -> bool:
        """Whether a model's type is in HEADS_TOGETHER."""
        if isinstance(model, ModelConfig):
            model = base(model) or model
        if isinstance(model, ModelConfig) and model.hub:
            return False  # As above.
        return self._kind(model) in HEADS_TOGETHER

    def norm_after_attention(self, model: SingleModel) -> bool:
        """Whether a model's type is in NORM_AFTER_ATTENTION."""
        return self._kind(model) in NORM_AFTER_ATTENTION

    def draws(self, model: SingleModel) -> bool:
        """As `config_json.draws`."""
        if model not in self.random:
            self.random[model] = config_json.draws(model)
        return self.random[model]

    def _kind(self, model: SingleModel) -> str | None:
        if model not in self.kinds:
            self.kinds[model] = config_json.model_type(model)
        return self.kinds[model]

    def source(self, target: str) -> dict[str, str]:
        """Returns the hash of each file of the user's own code, by module; empty for ours, which FORMAT covers."""
        if target not in self.code:
            files = sources.own_modules(target) if sources.is_own(target) else {}
            self.code[target] = {name: hash_files([file], names=False) for name, file in sorted(files.items())}
        return self.code[target]

    def file(self, path: object) -> str:
        """Returns the content of a file; its name does not matter."""
        path = str(path)  # YAML reads a name of digits as a number.
        if path not in self.files:
            self.files[path] = hash_files([Path(path)], names=False)
        return self.files[path]


def _label(checkpoint: Checkpoint) -> list[int]:
    """Returns the step that a checkpoint's trainer recorded if its name says another, which makes it a missing step."""
    counted = global_step(checkpoint.model.path) if checkpoint.model.path else None
    return [] if counted in (None, checkpoint.step) else [counted]


def _on_hub(repo: str, revision: str | None, *, weights: bool = True) -> str:
    """Returns the content of a hub model; without weights, that of its tokenizer."""
    from mi_sweeps.models import hub

    files = hub.files(repo, hub.commit(repo, revision), weights=weights)
    if not weights:
        files = {name: file for name, file in files.items() if name not in ("config.json", ADAPTER)}
    return f"hub:{digest(hub.content(files))}"


def data_fingerprint(config: Config, contents: HashedContents | None = None) -> str:
    """Hashes what the prompts depend on: the task and its arguments, the content of the user's files, the tokenizer."""
    contents = contents or HashedContents()
    arguments = dict(config.task.arguments)
    if config.task.target == PREVIOUS_TOKEN and arguments.get("bos") is True:
        del arguments["bos"]  # Before this key existed, sequences always began with BOS; those runs keep their ids.
    if config.task.target in ("mi_sweeps.tasks.ioi.task", "mi_sweeps.tasks.user.task"):
        for key, before in (("disjoint_names", False), ("repeat", 1), ("trios", False)):
            if arguments.get(key) is before:
                del arguments[key]  # Runs from before this key existed keep their ids.
    for key in [key for key in arguments if is_path(key)]:
        value = arguments.pop(key)
        # The content counts, not the path.
        arguments[f"{key} content"] = contents.file(value) if value else None
        if value and config.task.target == "mi_sweeps.tasks.user.task" and parsed_differently_now(Path(value)):
            arguments["reading"] = "two names, accents, openers"
    # Only the model's tokenizer matters here; a model from scratch has none.
    tokenizer: dict[str, Any] = {}
    if not isinstance(config.model, ScratchConfig):
        tokenizer = {"model": contents.of(config), "prepend_bos": config.model.prepend_bos}
        single = contents.single(config)
        assert isinstance(single, ModelConfig)
        tokenizer |= contents.tokenizer(single)
        if contents.spells_otherwise(single):
            # Before answers were compared in the tokenizer's spelling, win rates were zero.
            tokenizer["answers"] = "in the tokenizer's spelling"
    identity = {"format": FORMAT, "target": config.task.target, "arguments": arguments, **tokenizer}
    if source := contents.source(config.task.target):
        identity["source"] = source
    return digest(identity)[:ID_LENGTH]


def data_folder(config: Config) -> Path:
    """Returns where the prompts of a configuration are cached."""
    return config.output / "data" / data_fingerprint(config)


def own_sources(config: Config, contents: HashedContents | None = None) -> dict[str, dict[str, str]]:
    """Returns the hashes of the user's own code for "task" and "schedule", by module; ours is left out."""
    contents = contents or HashedContents()
    targets = {"task": config.task.target, "schedule": config.schedule.target}
    if isinstance(config.model, SeriesConfig):
        del targets["schedule"]
    return {name: source for name, target in targets.items() if (source := contents.source(target))}


def beside_configuration(config: Config, contents: HashedContents | None = None) -> dict[str, str]:
    """Returns what a run's result depends on that its configuration does not hold, by name: the content of the model,
    of its tokenizer and of the user's files and code. For a series, whose seeds have a model each, without the model.
    """
    contents = contents or HashedContents()
    found = task_contents(config, contents)
    if not isinstance(config.model, SeriesConfig):
        if source := contents.source(config.schedule.target):
            found["schedule_code"] = digest(source)
        if (size := _train(config, contents).get("micro_batch")) is not None:
            found["micro_batch"] = str(size)
    if not isinstance(config.model, ScratchConfig):
        if not (isinstance(config.model, SeriesConfig) and config.model.has_seeds):
            found["model_content"] = contents.of(config)
        single = contents.single(config)
        assert isinstance(single, ModelConfig)
        if tokenizer := contents.tokenizer(single):
            found["tokenizer_content"] = tokenizer["tokenizer"]
    return {name: value.rpartition(":")[2][:ID_LENGTH] for name, value in found.items()}


def task_contents(config: Config, contents: HashedContents | None = None) -> dict[str, str]:
    """Returns the same of a configuration's task alone: its files and its code."""
    contents = contents or HashedContents()
    files = {key: value for key, value in config.task.arguments.items() if is_path(key) and value}
    found = {f"task_{key}_content": contents.file(value)[:ID_LENGTH] for key, value in files.items()}
    source = contents.source(config.task.target)
    return found | ({"task_code": digest(source)[:ID_LENGTH]} if source else {})


def run_identity(config: Config, contents: HashedContents) -> dict[str, Any]:
    """Returns everything that changes what a run computes. For a series: the weights and the prompts."""
    if isinstance(config.model, SeriesConfig):
        return {"format": FORMAT, "series": contents.of(config), "data": data_fingerprint(config, contents)}
    return {
        "format": FORMAT,
        "model": contents.model(config.model),
        "data": data_fingerprint(config, contents),
        "optim": config.optim.model_dump(mode="json"),
        # Weight decay once applied to biases and norms too; runs without it are not affected.
        **({"decay": "matrices"} if config.optim.weight_decay else {}),
        "schedule": {"target": config.schedule.target, **config.schedule.arguments},
        **({"schedule source": source} if (source := contents.source(config.schedule.target)) else {}),
        "train": _train(config, contents),
        "checkpoints": config.checkpoint_steps,
        # An adapter is kept as it is.
        "storage": config.checkpoint.storage if config.train.method == "full" else "adapter",
        # A zoom is checked against its run. Its last step is in `checkpoints`.
        **({"zoom of": config.checkpoint.zoom_of} if config.checkpoint.zoom_of else {}),
        "seed": config.seed,
    }


def _train(config: Config, contents: HashedContents) -> dict[str, Any]:
    """Returns the training settings that change results beyond rounding. Newer settings appear only if they differ from
    their defaults, so that earlier runs keep their ids."""
    train = config.train
    values = train.model_dump(mode="json", include={"steps", "batch_size", "clip", "precision"})
    if train.diverged != DIVERGED:
        values["diverged"] = train.diverged
    if train.method == "lora":
        targets = train.lora.targets
        values["lora"] = train.lora.model_dump(mode="json") | {"targets": targets and sorted(set(targets))}
    if train.only:
        values["only"] = sorted(set(train.only))
    if train.weights != "fp32":
        values["weights"] = train.weights
    if (size := train.micro_batch) and size < train.batch_size:
        adapter = train.method == "lora" and train.lora.dropout > 0
        if adapter or contents.draws(contents.single(config)):
            values["micro_batch"] = size  # Each micro-batch draws its own random numbers.
    return values


def run_id(config: Config, contents: HashedContents | None = None) -> str:
    """Returns the id of a run."""
    hashes.recall(config.output)
    return digest(run_identity(config, contents or HashedContents()))[:ID_LENGTH]


def _measures(patching: PatchingConfig) -> dict[str, Any]:
    """Returns the measures, if any: patch jobs without them keep their ids from before measures existed."""
    if not patching.measures:
        return {}
    return {"measures": sorted(set(patching.measures)), "measured_prompts": patching.measured_prompts}


def _roles(config: Config) -> dict[str, Any]:
    """Marks tables by position that use today's roles, which number scenes and actions from their ends and give a
    scene's full stop a role. A patch job must not mix them with the earlier roles; all others keep their ids."""
    by_position = {"resid_pre", "attn_out", "mlp_out"} & set(config.patching.sites)
    target = config.for_patching.task.target
    found = {"roles": "numbered from the end"} if by_position and target != PREVIOUS_TOKEN else {}
    if target == "mi_sweeps.tasks.docstring.task" and (by_position or config.patching.looks):
        found["parts"] = "self argument"  # Its name was `self`, which tables of attention use for the query's token.
    return found


def _prompts(config: Config, contents: HashedContents) -> dict[str, Any]:
    """Returns whose prompts are used, if not the run's own held-out ones."""
    patching = config.patching
    found: dict[str, Any] = {} if patching.split == "heldout" else {"split": patching.split}
    if patching.task:
        found["task"] = data_fingerprint(config.for_patching, contents)
        found["won"] = patching.measured_prompts
    return found


def _crossed(config: Config) -> dict[str, Any]:
    """Returns the other checkpoints of `cross`, if they depend on which checkpoints are examined."""
    cross, steps = config.patching.cross, config.patch_steps
    if cross is None or not steps or steps == config.checkpoint_steps:
        return {}
    if cross.with_ == "first" and steps[0] != config.checkpoint_steps[0]:
        return {"crossed with": steps[0]}
    return {"crossed at": steps} if cross.with_ == "previous" else {}


def patch_id(config: Config, run: str | None = None, contents: HashedContents | None = None) -> str:
    """Returns the id of a patch job.

    The engine is not part of it, because every engine is exact. Neither are the checkpoints: each has its own table,
    and more can be added.

    Args:
        run: the run id, if known.
    """
    patching, contents = config.patching, contents or HashedContents()
    single = contents.single(config)
    return digest(
        {
            "run": run or run_id(config, contents),
            "corruption": config.corruption.name,
            "sites": sorted(set(patching.sites)),
            "heads": patching.heads,
            "exact": patching.exact,
            "approximate": patching.approximate,
            "paths": patching.paths and patching.paths.model_dump(mode="json"),
            "prompts": patching.prompts,
            "tf32": patching.tf32,
            **_measures(patching),
            **{key: section.model_dump(mode="json", by_alias=True) for key, section in patching.measured.items()},
            **_crossed(config),
            **_roles(config),
            **_prompts(config, contents),
            **({"weights": "each checkpoint's"} if contents.wrapped_once(single) else {}),
            **({"q, k": "normalised"} if {"q", "k"} & set(patching.sites) and contents.heads_together(single) else {}),
            **({"copying": "normalised"} if patching.looks and contents.norm_after_attention(single) else {}),
        }
    )[:ID_LENGTH]
