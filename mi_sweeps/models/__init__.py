"""Language models: any Hugging Face causal model, and the embedded one."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_sweeps.errors import UserError

if TYPE_CHECKING:
    from mi_sweeps.config import ModelConfig

ADAPTER = "adapter_config.json"
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""The files that transformers looks for, in its order; an index lists the shards next to it."""

VOCABULARIES = ("tokenizer.json", "vocab*", "*.model", "*.tiktoken", "tekken.json", "merges.txt")
"""Files that can hold a tokenizer's vocabulary."""

ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")

APART = {
    "pytorch_model_fsdp.bin": "FSDP saved them in one file: rename it pytorch_model.bin",
    "pytorch_model_fsdp_*": "FSDP saved them in parts: merge these with `accelerate merge-weights`",
    "global_step*": "DeepSpeed saved them in parts: merge these with its zero_to_fp32.py",
}
"""Where trainers leave weights that cannot be loaded yet, and how to convert them."""

TRAINERS_OWN = (
    *("trainer_state.json", "training_args.bin", "pytorch_model_fsdp*.bin"),
    *("optimizer*.bin", "scheduler*.bin", "sampler*.bin"),
    *("all_results.json", "train_results.json", "eval_results.json", "test_results.json"),
)
"""Files that trainers write next to the weights for their own use."""


def folder(model: ModelConfig) -> Path | None:
    """The folder of a model's or adapter's files; None for a model on the hub.

    Raises:
        UserError: `model.path` is not a folder with a model or an adapter.
    """
    if model.hub:
        return None
    if model.path is None:
        from mi_sweeps.models.mini import FOLDER

        return FOLDER
    path = model.path.expanduser()
    if not any((path / name).is_file() for name in ("config.json", ADAPTER)):
        raise UserError(f"model.path={path}: no config.json there; give the folder of a saved Hugging Face model")
    return path


def named(model: ModelConfig) -> str:
    """A model as the user specified it, for messages."""
    path = folder(model)
    return f"model={model.name}: {model.hub}" if path is None else f"model.path={path}"


def base(model: ModelConfig) -> ModelConfig | None:
    """The base model of an adapter; None for a whole model. Downloads nothing.

    Raises:
        UserError: the base is unknown, or there are whole weights next to the adapter.
    """
    found = _adapter(model)
    if found is None:
        if model.base:
            raise UserError(f"model.base={model.base}: {named(model)} is not a PEFT adapter; leave model.base out")
        return None
    config, names = found
    if whole := [name for name in WEIGHTS if name in names]:
        raise UserError(
            f"{named(model)}: has both a PEFT adapter ({ADAPTER}) and whole weights ({whole[0]}), which may already "
            "include it; give a folder with only one of the two"
        )
    below = _at(model, model.base) if model.base else _named_base(model, config)
    if _adapter(below):
        raise UserError(f"{named(model)}: its base, {named(below)}, is an adapter too; merge that one first")
    return below


def _adapter(model: ModelConfig) -> tuple[bytes, Collection[str]] | None:
    """The raw configuration of an adapter, and the names of the files in its folder; None for a whole model."""
    path = folder(model)
    if path is not None:
        if not (path / ADAPTER).is_file():
            return None
        with suppress(OSError):
            return (path / ADAPTER).read_bytes(), os.listdir(path)
        raise UserError(f"{named(model)}: its {ADAPTER} cannot be read; fix its permissions")
    from mi_sweeps.models import hub

    repo = str(model.hub)
    try:
        commit = hub.commit(repo, model.revision)
        files = hub.files(repo, commit)
    except hub.Unreachable:
        return None  # Loading it raises the error.
    return (hub.read(repo, commit, ADAPTER, 0, files[ADAPTER].size), files) if ADAPTER in files else None


def _named_base(model: ModelConfig, config: bytes) -> ModelConfig:
    """The base model that an adapter names. A relative path is tried from every parent folder, because the trainer may
    have run in any of them."""
    try:
        values = json.loads(config)
        name, revision = values["base_model_name_or_path"], values.get("revision")
    except (ValueError, KeyError, AttributeError, TypeError):
        name, revision = None, None
    if not isinstance(name, str) or not name:
        raise UserError(f"{named(model)}: its {ADAPTER} names no base model; give model.base=DIR or a name")
    if name.startswith(("/", "~")):
        places = [Path(name).expanduser()]
    else:
        path = folder(model)
        places = [above / name for above in path.parents] if path else []
    if there := next((place for place in places if (place / "config.json").is_file()), None):
        return _at(model, str(there))
    if name.startswith(("/", "~", ".")) or name.count("/") > 1 or "\\" in name:
        raise UserError(
            f"{named(model)}: its base model {name} is not here; give model.base=DIR, or its name on the hub"
        )
    return _at(model, name, revision if isinstance(revision, str) else None)


def no_weights(path: Path) -> str | None:
    """Why a folder has no weights of a model or adapter, judged by file names; None if it has."""
    adapter = (path / ADAPTER).is_file()
    if any((path / name).is_file() for name in (ADAPTER_WEIGHTS if adapter else WEIGHTS)):
        return None
    hint = "" if adapter else next((f"; {hint}" for pattern, hint in APART.items() if any(path.glob(pattern))), "")
    return f"no weights there ({' or '.join(ADAPTER_WEIGHTS if adapter else WEIGHTS[::2])}){hint}"


def tokenizer(model: ModelConfig) -> ModelConfig:
    """The model whose tokenizer is used: `model.tokenizer`, or an adapter's base if its own folder has no tokenizer.

    Raises:
        UserError: as for `base`.
    """
    if model.tokenizer:
        return _at(model, model.tokenizer)
    below = base(model)
    found = _adapter(model) if below else None
    return below if below and found and not has_vocabulary(found[1]) else model


def has_vocabulary(names: Iterable[str]) -> bool:
    """Whether any of these files can hold a tokenizer's vocabulary."""
    return any(fnmatch(name, pattern) for name in names for pattern in VOCABULARIES)


def _at(model: ModelConfig, source: str, revision: str | None = None) -> ModelConfig:
    """The model in a folder (an absolute path) or on the hub (a name)."""
    place = {"path": Path(source), "hub": None} if Path(source).is_absolute() else {"path": None, "hub": source}
    return model.model_copy(update={**place, "revision": revision, "tokenizer": None, "base": None})


def weights_files(model: ModelConfig) -> list[Path]:
    """The files in a local model's folder that determine what it computes: weights, configuration and tokenizer."""
    path = folder(model)
    assert path is not None, "a model on the hub has no files here"
    keep = [*path.glob("*.safetensors"), *path.glob("*.bin"), *_tokenizer_files(path)]
    return [file for file in keep if file.is_file() and not any(map(file.match, TRAINERS_OWN))]


def tokenizer_files(path: Path) -> list[Path]:
    """The files in a folder that determine how text becomes tokens, without those of a model."""
    models = ("config.json", "generation_config.json", ADAPTER, *WEIGHTS, *TRAINERS_OWN)
    return [file for file in _tokenizer_files(path) if file.is_file() and not any(map(file.match, models))]


def _tokenizer_files(path: Path) -> list[Path]:
    files = [*path.glob("*.json"), *path.glob("merges.txt")]
    if not (path / "tokenizer.json").is_file():  # Then the tokenizer is made from these.
        files += [*path.glob("vocab*.txt"), *path.glob("*.model"), *path.glob("*.tiktoken")]
    return files


def spells_otherwise(model: ModelConfig) -> bool:
    """Whether the tokenizer of a local model changes letters before looking them up, as uncased ones do."""
    source = tokenizer(model)
    path = source.path or folder(source)
    try:
        normalizer = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))["normalizer"] if path else None
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return _changes_letters(normalizer)


def _changes_letters(normalizer: Any) -> bool:
    if not isinstance(normalizer, dict):
        return False
    if normalizer.get("type") == "Sequence":
        return any(map(_changes_letters, normalizer.get("normalizers", ())))
    if normalizer.get("type") == "BertNormalizer":
        return bool(normalizer.get("lowercase") or normalizer.get("strip_accents"))
    return normalizer.get("type") in ("Lowercase", "StripAccents")
