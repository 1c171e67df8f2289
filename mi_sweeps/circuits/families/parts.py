"""Converts Hugging Face modules to the parts of a description."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from mi_sweeps.circuits.network import Linear, Norm, Rotary, Rotation


def linear(module: Any) -> Linear:
    """Converts a `torch.nn.Linear`, whose weight is [d_out, d_in]."""
    return Linear(module.weight.T, module.bias)


def layer_norm(module: Any) -> Norm:
    """Converts a `torch.nn.LayerNorm`."""
    return Norm(module.weight, module.bias, module.eps, centres=True)


def rms_norm(module: Any) -> Norm:
    """Converts Llama's RMSNorm, or any with the same attributes."""
    return Norm(module.weight, None, module.variance_epsilon, centres=False)


def rotations(config: Any, module: Any, embedding: Any) -> tuple[Rotary, ...] | None:
    """The rotation of each layer; None if one depends on the length of the whole batch.

    Args:
        module: the model's own rotary module, which implements all kinds of scaling.
        embedding: provides dtype and device.
    """
    layer_types = getattr(config, "layer_types", None) or [None] * config.num_hidden_layers
    # Some families have different rotations for layers with and without a sliding window.
    how = config.rope_parameters or {}
    if any(how.get(kind, how).get("rope_type") in ("dynamic", "longrope") for kind in layer_types):
        return None
    own = {kind: {"layer_type": kind} if kind in how else {} for kind in layer_types}
    functions = {kind: partial(_rotation, module, embedding, arguments) for kind, arguments in own.items()}
    return tuple(functions[kind] for kind in layer_types)


def _rotation(module: Any, embedding: Any, layer_type: dict[str, str], positions: Tensor) -> Rotation:
    cos, sin = module(embedding.weight, position_ids=positions, **layer_type)
    return cos, sin


def window(config: Any) -> int | None:
    """The width of the sliding window, if some layers have one."""
    return config.sliding_window if "sliding_attention" in config.layer_types else None
