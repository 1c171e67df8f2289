"""Llama and its kin: rotary positions, RMSNorm, gated MLP, grouped-query attention, biases or none (Touvron et al.
2023, arXiv:2302.13971). Mistral is the same; Qwen2 has biases on queries, keys and values; Qwen3 normalises queries
and keys of each head (Henry et al. 2020, arXiv:2010.04245); Granite scales embeddings, the outputs of attention and
MLP, and logits."""

from __future__ import annotations

from typing import Any

from mi_sweeps.circuits.families.activations import ACTIVATIONS
from mi_sweeps.circuits.families.parts import linear, rms_norm, rotations
from mi_sweeps.circuits.network import Block, Mlp, Network, Rotary
from mi_sweeps.models.head import scaling


def network(model: Any) -> Network | None:
    """The description of a `LlamaForCausalLM`, `MistralForCausalLM`, `Qwen2ForCausalLM`, `Qwen3ForCausalLM` or
    `GraniteForCausalLM`."""
    config, body = model.config, model.base_model
    rotaries = rotations(config, body.rotary_emb, body.embed_tokens)
    if config.hidden_act not in ACTIVATIONS or rotaries is None:
        return None
    multiplier = getattr(config, "embedding_multiplier", 1.0)
    return Network(
        embed=lambda tokens, positions: body.embed_tokens(tokens) * multiplier,
        blocks=tuple(_block(config, layer, rotary) for layer, rotary in zip(body.layers, rotaries, strict=True)),
        final_norm=rms_norm(body.norm),
        unembed=linear(model.lm_head),
        scaling=scaling(model),
        longest=getattr(config, "sliding_window", None),
    )


def _block(config: Any, layer: Any, rotary: Rotary) -> Block:
    attention, mlp = layer.self_attn, layer.mlp
    return Block(
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_key_value_heads,
        attention_norm=rms_norm(layer.input_layernorm),
        query=linear(attention.q_proj),
        key=linear(attention.k_proj),
        value=linear(attention.v_proj),
        query_norm=rms_norm(attention.q_norm) if hasattr(attention, "q_norm") else None,
        key_norm=rms_norm(attention.k_norm) if hasattr(attention, "k_norm") else None,
        scale=attention.scaling,
        combine=linear(attention.o_proj),
        mlp_norm=rms_norm(layer.post_attention_layernorm),
        mlp=Mlp(linear(mlp.up_proj), linear(mlp.gate_proj), linear(mlp.down_proj), ACTIVATIONS[config.hidden_act]),
        rotation=rotary,
        multiplier=getattr(config, "residual_multiplier", 1.0),
    )
