"""Language models: any Hugging Face causal one, and the embedded one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mi_sweeps.errors import UserError

if TYPE_CHECKING:
    from mi_sweeps.config import ModelConfig


def folder(model: ModelConfig) -> Path | None:
    """Where the model's files are, or None for a model on the hub.

    Raises:
        UserError: `model.path` is not a folder with a model.
    """
    if model.hub:
        return None
    if model.path is None:
        from mi_sweeps.models.mini import FOLDER

        return FOLDER
    path = model.path.expanduser()
    if not (path / "config.json").is_file():
        raise UserError(f"model.path={path}: no config.json there; give the folder of a saved Hugging Face model")
    return path


def weights_files(model: ModelConfig) -> list[Path]:
    """The files of a local model that change what it computes: weights, configuration and tokenizer."""
    path = folder(model)
    assert path is not None, "a model on the hub has no files here"
    keep = [*path.glob("*.safetensors"), *path.glob("*.bin"), *path.glob("*.json"), *path.glob("merges.txt")]
    return [file for file in keep if file.is_file()]
