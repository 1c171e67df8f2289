"""Models without positional embeddings (`mi_sweeps.models.nope`): LayerNorm, and an MLP with ReLU or none."""

from __future__ import annotations

from typing import Any

from mi_sweeps.circuits.families.activations import ACTIVATIONS
from mi_sweeps.circuits.families.parts import layer_norm, linear
from mi_sweeps.circuits.network import Block, Linear, Mlp, Network


def network(model: Any) -> Network:
    """The description of a `NopeForCausalLM`."""
    body = model.base_model
    return Network(
        embed=lambda tokens, positions: body.embed(tokens),
        blocks=tuple(_block(layer) for layer in body.layers),
        final_norm=layer_norm(body.norm),
        unembed=linear(model.lm_head),
        has_mlps=all(layer.mlp is not None for layer in body.layers),
    )


def _block(layer: Any) -> Block:
    attention = layer.attention
    return Block(
        n_heads=attention.n_heads,
        n_kv_heads=attention.n_heads,
        attention_norm=layer_norm(layer.attention_norm),
        query=linear(attention.query),
        key=linear(attention.key),
        value=linear(attention.value),
        query_norm=None,
        key_norm=None,
        scale=attention.scale,
        combine=linear(attention.combine),
        mlp_norm=layer_norm(layer.mlp_norm or layer.attention_norm),
        mlp=_mlp(layer),
    )


def _mlp(layer: Any) -> Mlp:
    if layer.mlp is not None:
        return Mlp(linear(layer.mlp.up), None, linear(layer.mlp.down), ACTIVATIONS["relu"])
    # Attention only: a single hidden unit that is never active and writes nothing.
    weight = layer.attention.combine.weight
    d_model = weight.shape[0]
    up, down = Linear(weight.new_zeros(d_model, 1), None), Linear(weight.new_zeros(1, d_model), None)
    return Mlp(up, None, down, ACTIVATIONS["relu"])
