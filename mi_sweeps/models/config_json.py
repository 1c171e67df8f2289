"""What a model's config.json says. Does not import torch, so that `plan` can read it; only `draws` may have to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mi_sweeps import models
from mi_sweeps.config import ModelConfig, ScratchConfig, SingleModel

HEADS = ("summary", "classifier")
"""Prefixes of config.json keys for heads that language models do not have."""

RANDOM = ("drop", "jitter")
"""Parts of the names of keys that are rates of dropout, or sizes of the noise on what a router reads."""


def model_type(model: SingleModel) -> str | None:
    """The type of a model, from its local files; None if they do not say."""
    if isinstance(model, ScratchConfig):
        return "nope"
    values = _values(model)
    kind = values.get("text_config", values).get("model_type", values.get("model_type"))
    return kind if isinstance(kind, str) else None


def draws(model: SingleModel) -> bool:
    """Whether a model draws random numbers in training, for dropout or for a router's noise. A key that is not in its
    config.json has transformers' default, which takes seconds to import."""
    if isinstance(model, ScratchConfig):
        return False
    values = _values(model)
    if _draws(values | (values.get("text_config") or {})):
        return True
    text = _with_defaults(values)
    return any(map(_draws, [text, *(part for part in text.values() if isinstance(part, dict))]))


def has_router_loss(model: SingleModel) -> bool:
    """Whether Hugging Face's own loss of a mixture of experts adds an auxiliary loss of its router."""
    values = {} if isinstance(model, ScratchConfig) else _values(model)
    values |= values.get("text_config") or {}
    return values.get("output_router_logits") is True and values.get("router_aux_loss_coef", 1) != 0


def _draws(values: Mapping[Any, Any]) -> bool:
    """Whether one of these keys makes training random."""
    return any(
        any(word in str(key) for word in RANDOM)
        and not str(key).startswith(HEADS)
        and isinstance(rate, float)
        and rate > 0
        for key, rate in values.items()
    )


def _with_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the text part as transformers completes it; empty if it does not know the type."""
    from transformers import CONFIG_MAPPING

    try:
        config = CONFIG_MAPPING[values["model_type"]].from_dict(values)
        found: dict[str, Any] = config.get_text_config().to_dict()
    except Exception:  # Loading the model raises the error, whatever it is.
        return {}
    return found


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
