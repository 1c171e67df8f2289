"""StarCoder2: Llama with LayerNorm, an MLP without a gate, and biases everywhere (Lozhkov et al. 2024,
arXiv:2402.19173)."""

from __future__ import annotations

from typing import Any

from mi_sweeps.circuits.families.activations import ACTIVATIONS
from mi_sweeps.circuits.families.parts import layer_norm, linear, rotations
from mi_sweeps.circuits.network import Block, Mlp, Network, Rotary


def network(model: Any) -> Network | None:
    """The description of a `Starcoder2ForCausalLM`."""
    config, body = model.config, model.base_model
    rotaries = rotations(config, body.rotary_emb, body.embed_tokens)
    if config.hidden_act not in ACTIVATIONS or rotaries is None:
        return None
    return Network(
        embed=lambda tokens, positions: body.embed_tokens(tokens),
        blocks=tuple(_block(config, layer, rotary) for layer, rotary in zip(body.layers, rotaries, strict=True)),
        final_norm=layer_norm(body.norm),
        unembed=linear(model.lm_head),
        longest=config.sliding_window,
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
        query_norm=None,
        key_norm=None,
        scale=attention.scaling,
        combine=linear(attention.o_proj),
        mlp_norm=layer_norm(layer.post_attention_layernorm),
        mlp=Mlp(linear(layer.mlp.c_fc), None, linear(layer.mlp.c_proj), ACTIVATIONS[config.hidden_act]),
        rotation=rotary,
    )
