"""OLMo 2 and 3: attention and MLP read the residual stream without a norm, and their outputs are normalised; queries
and keys are normalised too, over all heads together (OLMo Team 2024, arXiv:2501.00656)."""

from __future__ import annotations

from typing import Any

from mi_sweeps.circuits.families.activations import ACTIVATIONS
from mi_sweeps.circuits.families.parts import linear, rms_norm, rotations, window
from mi_sweeps.circuits.network import Block, Mlp, Network, Rotary


def network(model: Any) -> Network | None:
    """The description of an `Olmo2ForCausalLM` or `Olmo3ForCausalLM`."""
    config, body = model.config, model.base_model
    rotaries = rotations(config, body.rotary_emb, body.embed_tokens)
    if config.hidden_act not in ACTIVATIONS or rotaries is None:
        return None
    return Network(
        embed=lambda tokens, positions: body.embed_tokens(tokens),
        blocks=tuple(_block(config, layer, rotary) for layer, rotary in zip(body.layers, rotaries, strict=True)),
        final_norm=rms_norm(body.norm),
        unembed=linear(model.lm_head),
        longest=window(config) if config.model_type == "olmo3" else None,
    )


def _block(config: Any, layer: Any, rotary: Rotary) -> Block:
    attention, mlp = layer.self_attn, layer.mlp
    return Block(
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_key_value_heads,
        attention_norm=None,
        query=linear(attention.q_proj),
        key=linear(attention.k_proj),
        value=linear(attention.v_proj),
        query_norm=rms_norm(attention.q_norm),
        key_norm=rms_norm(attention.k_norm),
        scale=attention.scaling,
        combine=linear(attention.o_proj),
        mlp_norm=None,
        mlp=Mlp(linear(mlp.up_proj), linear(mlp.gate_proj), linear(mlp.down_proj), ACTIVATIONS[config.hidden_act]),
        rotation=rotary,
        attention_post_norm=rms_norm(layer.post_attention_layernorm),
        mlp_post_norm=rms_norm(layer.post_feedforward_layernorm),
    )
