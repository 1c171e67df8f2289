"""GPT-2: learned positions, LayerNorm, one matrix for queries, keys and values, no gate (Radford et al. 2019)."""

from __future__ import annotations

from typing import Any

from mi_sweeps.circuits.families.activations import ACTIVATIONS
from mi_sweeps.circuits.families.parts import layer_norm
from mi_sweeps.circuits.network import Block, Linear, Mlp, Network


def network(model: Any) -> Network | None:
    """The description of a `GPT2LMHeadModel`."""
    config, body = model.config, model.base_model
    if config.activation_function not in ACTIVATIONS or config.add_cross_attention:
        return None
    return Network(
        embed=lambda tokens, positions: body.wte(tokens) + body.wpe(positions),
        blocks=tuple(_block(config, layer) for layer in body.h),
        final_norm=layer_norm(body.ln_f),
        unembed=Linear(model.lm_head.weight.T, model.lm_head.bias),
        positional=body.wpe,
    )


def _block(config: Any, layer: Any) -> Block:
    weights, biases = layer.attn.c_attn.weight, layer.attn.c_attn.bias
    query, key, value = (
        Linear(weight, bias) for weight, bias in zip(weights.chunk(3, dim=1), biases.chunk(3), strict=True)
    )
    return Block(
        n_heads=config.n_head,
        n_kv_heads=config.n_head,
        attention_norm=layer_norm(layer.ln_1),
        query=query,
        key=key,
        value=value,
        query_norm=None,
        key_norm=None,
        scale=layer.attn.scaling,
        combine=_conv1d(layer.attn.c_proj),
        mlp_norm=layer_norm(layer.ln_2),
        mlp=Mlp(_conv1d(layer.mlp.c_fc), None, _conv1d(layer.mlp.c_proj), ACTIVATIONS[config.activation_function]),
    )


def _conv1d(module: Any) -> Linear:
    """GPT-2's Conv1D keeps its weight as [d_in, d_out]."""
    return Linear(module.weight, module.bias)
