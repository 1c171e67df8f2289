"""Modules of Hugging Face as the parts that a description has."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from mi_sweeps.circuits.network import Linear, Norm, Rotary, Rotation


def linear(module: Any) -> Linear:
    """A `torch.nn.Linear`, which keeps its weight as [d_out, d_in]."""
    return Linear(module.weight.T, module.bias)


def layer_norm(module: Any) -> Norm:
    """A `torch.nn.LayerNorm`."""
    return Norm(module.weight, module.bias, module.eps, centres=True)


def rms_norm(module: Any) -> Norm:
    """Llama's RMSNorm, and whichever has its names."""
    return Norm(module.weight, None, module.variance_epsilon, centres=False)


def rotations(config: Any, module: Any, embedding: Any) -> tuple[Rotary, ...] | None:
    """The rotation of each layer; None where one depends on the length of the whole batch.

    Args:
        module: itself computes it, for every way of scaling that it knows.
        embedding: its weight has the type and the device.
    """
    layer_types = getattr(config, "layer_types", None) or [None] * config.num_hidden_layers
    # Some families have one for layers with a sliding window and another for the rest.
    how = config.rope_parameters or {}
    if any(how.get(kind, how).get("rope_type") in ("dynamic", "longrope") for kind in layer_types):
        return None
    own = {kind: {"layer_type": kind} if kind in how else {} for kind in layer_types}
    functions = {kind: partial(_rotation, module, embedding, asked) for kind, asked in own.items()}
    return tuple(functions[kind] for kind in layer_types)


def _rotation(module: Any, embedding: Any, layer_type: dict[str, str], positions: Tensor) -> Rotation:
    cos, sin = module(embedding.weight, position_ids=positions, **layer_type)
    return cos, sin


def window(config: Any) -> int | None:
    """How far a layer looks back at most, where some type of layer does not see all."""
    return config.sliding_window if "sliding_attention" in config.layer_types else None
