"""Language models: any Hugging Face causal one, and the embedded one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_sweeps.errors import UserError

if TYPE_CHECKING:
    from mi_sweeps.config import ModelConfig

ADAPTER = "adapter_config.json"
MERGE = (
    f"has a PEFT adapter ({ADAPTER}), which would not be applied; merge it (merge_and_unload() of peft) and save the "
    "whole model in a folder of its own"
)


TRAINERS_OWN = (
    *("trainer_state.json", "training_args.bin", "optimizer*.bin", "scheduler*.bin", "sampler*.bin"),
    *("all_results.json", "train_results.json", "eval_results.json", "test_results.json"),
)
"""What trainers write beside the weights for themselves."""


def folder(model: ModelConfig) -> Path | None:
    """Where the model's files are, or None for a model on the hub.

    Raises:
        UserError: `model.path` is not a folder with a model, or there is an adapter in it.
    """
    if model.hub:
        return None
    if model.path is None:
        from mi_sweeps.models.mini import FOLDER

        return FOLDER
    path = model.path.expanduser()
    if (path / ADAPTER).is_file():
        raise UserError(f"model.path={path}: {MERGE}")
    if not (path / "config.json").is_file():
        raise UserError(f"model.path={path}: no config.json there; give the folder of a saved Hugging Face model")
    return path


def weights_files(model: ModelConfig) -> list[Path]:
    """The files of a local model that change what it computes: weights, configuration and tokenizer."""
    path = folder(model)
    assert path is not None, "a model on the hub has no files here"
    keep = [*path.glob("*.safetensors"), *path.glob("*.bin"), *path.glob("*.json"), *path.glob("merges.txt")]
    if not (path / "tokenizer.json").is_file():  # What the tokenizer is made of then.
        keep += [*path.glob("vocab*.txt"), *path.glob("*.model"), *path.glob("*.tiktoken")]
    return [file for file in keep if file.is_file() and not any(map(file.match, TRAINERS_OWN))]


def spells_otherwise(model: ModelConfig) -> bool:
    """Whether the tokenizer of a local model changes letters before it looks them up, as uncased ones do."""
    path = folder(model)
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
