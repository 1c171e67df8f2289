"""Phi: parallel attention and MLP that share one LayerNorm; rotary positions for a part of each head, biases
everywhere (Li et al. 2023, arXiv:2309.05463)."""

from __future__ import annotations

from typing import Any

from mi_sweeps.circuits.families.activations import ACTIVATIONS
from mi_sweeps.circuits.families.parts import layer_norm, linear, rotations
from mi_sweeps.circuits.network import Block, Mlp, Network, Rotary


def network(model: Any) -> Network | None:
    """The description of a `PhiForCausalLM`."""
    config, body = model.config, model.base_model
    rotaries = rotations(config, body.rotary_emb, body.embed_tokens)
    if config.hidden_act not in ACTIVATIONS or rotaries is None:
        return None
    return Network(
        embed=lambda tokens, positions: body.embed_tokens(tokens),
        blocks=tuple(_block(config, layer, rotary) for layer, rotary in zip(body.layers, rotaries, strict=True)),
        final_norm=layer_norm(body.final_layernorm),
        unembed=linear(model.lm_head),
    )


def _block(config: Any, layer: Any, rotary: Rotary) -> Block:
    attention = layer.self_attn
    return Block(
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_key_value_heads,
        attention_norm=layer_norm(layer.input_layernorm),
        query=linear(attention.q_proj),
        key=linear(attention.k_proj),
        value=linear(attention.v_proj),
        query_norm=layer_norm(attention.q_layernorm) if attention.qk_layernorm else None,
        key_norm=layer_norm(attention.k_layernorm) if attention.qk_layernorm else None,
        scale=attention.scaling,
        combine=linear(attention.dense),
        mlp_norm=layer_norm(layer.input_layernorm),
        mlp=Mlp(linear(layer.mlp.fc1), None, linear(layer.mlp.fc2), ACTIVATIONS[config.hidden_act]),
        rotation=rotary,
        parallel=True,
    )
