"""Llama and its kin: rotary positions, RMSNorm, gated MLP, grouped-query attention, biases or none (Touvron et al.
2023, arXiv:2302.13971). Mistral is the same; Qwen2 has biases on queries, keys and values; Qwen3 normalises queries
and keys of each head (Henry et al. 2020, arXiv:2010.04245)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mi_sweeps.circuits.families.activations import ACTIVATIONS
from mi_sweeps.circuits.network import Block, Linear, Mlp, Network, Norm, Rotary, Rotation


def network(model: Any) -> Network | None:
    """The description of a `LlamaForCausalLM`, `MistralForCausalLM`, `Qwen2ForCausalLM` or `Qwen3ForCausalLM`."""
    config, body = model.config, model.base_model
    if config.hidden_act not in ACTIVATIONS or _rescales(config):
        return None

    def rotation(positions: Tensor) -> Rotation:
        # The module itself, for every way of scaling that it knows; it takes the first argument's type and device.
        cos, sin = body.rotary_emb(body.embed_tokens.weight, position_ids=positions)
        return cos, sin

    return Network(
        embed=lambda tokens, positions: body.embed_tokens(tokens),
        blocks=tuple(_block(config, layer, rotation) for layer in body.layers),
        final_norm=_norm(body.norm),
        unembed=_linear(model.lm_head),
        longest=getattr(config, "sliding_window", None),
    )


def _rescales(config: Any) -> bool:
    """Whether the rotation depends on the length of the whole batch."""
    return (config.rope_parameters or {}).get("rope_type") in ("dynamic", "longrope")


def _block(config: Any, layer: Any, rotation: Rotary) -> Block:
    attention, mlp = layer.self_attn, layer.mlp
    return Block(
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_key_value_heads,
        attention_norm=_norm(layer.input_layernorm),
        query=_linear(attention.q_proj),
        key=_linear(attention.k_proj),
        value=_linear(attention.v_proj),
        query_norm=_norm(attention.q_norm) if hasattr(attention, "q_norm") else None,
        key_norm=_norm(attention.k_norm) if hasattr(attention, "k_norm") else None,
        scale=attention.scaling,
        combine=_linear(attention.o_proj),
        mlp_norm=_norm(layer.post_attention_layernorm),
        mlp=Mlp(_linear(mlp.up_proj), _linear(mlp.gate_proj), _linear(mlp.down_proj), ACTIVATIONS[config.hidden_act]),
        rotation=rotation,
    )


def _norm(module: Any) -> Norm:
    return Norm(module.weight, None, module.variance_epsilon, centres=False)


def _linear(module: Any) -> Linear:
    return Linear(module.weight.T, module.bias)
