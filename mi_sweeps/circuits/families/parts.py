"""Modules of Hugging Face as the parts that a description has."""

from __future__ import annotations

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


def rotation(config: Any, module: Any, embedding: Any) -> Rotary | None:
    """The rotation of each position; None where it depends on the length of the whole batch.

    Args:
        module: itself computes it, for every way of scaling that it knows.
        embedding: its weight has the type and the device.
    """
    if (config.rope_parameters or {}).get("rope_type") in ("dynamic", "longrope"):
        return None

    def of_positions(positions: Tensor) -> Rotation:
        cos, sin = module(embedding.weight, position_ids=positions)
        return cos, sin

    return of_positions
