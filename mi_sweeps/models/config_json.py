"""What a model's config.json says. Does not import torch, so that `plan` can read it."""

from __future__ import annotations

import json
from typing import Any

from mi_sweeps import models
from mi_sweeps.config import ModelConfig, ScratchConfig, SingleModel

HEADS = ("summary", "classifier")
"""Prefixes of config.json keys for heads that language models do not have."""


def model_type(model: SingleModel) -> str | None:
    """The type of a model, from its local files; None if they do not say."""
    if isinstance(model, ScratchConfig):
        return "nope"
    values = _values(model)
    kind = values.get("text_config", values).get("model_type", values.get("model_type"))
    return kind if isinstance(kind, str) else None


def drops(model: SingleModel) -> bool:
    """Whether a model uses dropout in training, according to its config.json."""
    values = {} if isinstance(model, ScratchConfig) else _values(model)
    values |= values.get("text_config", {})
    return any(
        "drop" in key and not key.startswith(HEADS) and isinstance(rate, float) and rate > 0
        for key, rate in values.items()
    )


def _values(model: ModelConfig) -> dict[str, Any]:
    """A model's config.json, or that of an adapter's base; empty if it cannot be read."""
    try:
        values = json.loads(_config(models.base(model) or model))
    except (OSError, ValueError):
        return {}  # Loading the model raises the error.
    return values if isinstance(values, dict) else {}


def _config(model: ModelConfig) -> bytes:
    if folder := models.folder(model):
        return (folder / "config.json").read_bytes()
    from mi_sweeps.models import hub

    assert model.hub is not None
    try:
        commit = hub.commit(model.hub, model.revision)
        file = hub.files(model.hub, commit).get("config.json")
        return hub.read(model.hub, commit, "config.json", 0, file.size) if file else b"{}"
    except hub.Unreachable:  # The file list may be known from before, but not the file.
        return b"{}"
