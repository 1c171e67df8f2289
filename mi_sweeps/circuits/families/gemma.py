"""Gemma: Llama with scaled embeddings and norms that store their weight minus one (Gemma Team 2024, arXiv:2403.08295).
Gemma 2 normalises before and after attention and MLP, and caps attention scores and logits (arXiv:2408.00118). Gemma 3
normalises each head's queries and keys instead of capping scores, and has another rotation in layers with a sliding
window (arXiv:2503.19786)."""

from __future__ import annotations

from typing import Any

from mi_sweeps.circuits.families.activations import ACTIVATIONS
from mi_sweeps.circuits.families.parts import linear, rotations, window
from mi_sweeps.circuits.network import Block, Mlp, Network, Norm, Rotary
from mi_sweeps.models.head import scaling


def network(model: Any) -> Network | None:
    """The description of a `GemmaForCausalLM`, `Gemma2ForCausalLM` or `Gemma3ForCausalLM`."""
    config, body = model.config, model.base_model
    rotaries = rotations(config, body.rotary_emb, body.embed_tokens)
    if (
        rotaries is None
        or _activation(config) not in ACTIVATIONS
        or getattr(config, "use_bidirectional_attention", False)
    ):
        return None
    return Network(
        # The embedding module itself scales.
        embed=lambda tokens, positions: body.embed_tokens(tokens),
        blocks=tuple(_block(config, layer, rotary) for layer, rotary in zip(body.layers, rotaries, strict=True)),
        final_norm=_norm(body.norm),
        unembed=linear(model.lm_head),
        scaling=scaling(model),
        longest=window(config) if config.model_type != "gemma" else None,
    )


def _block(config: Any, layer: Any, rotary: Rotary) -> Block:
    attention, mlp = layer.self_attn, layer.mlp
    after = hasattr(layer, "post_feedforward_layernorm")
    return Block(
        n_heads=config.num_attention_heads,
        n_kv_heads=config.num_key_value_heads,
        attention_norm=_norm(layer.input_layernorm),
        query=linear(attention.q_proj),
        key=linear(attention.k_proj),
        value=linear(attention.v_proj),
        query_norm=_norm(attention.q_norm) if hasattr(attention, "q_norm") else None,
        key_norm=_norm(attention.k_norm) if hasattr(attention, "k_norm") else None,
        scale=attention.scaling,
        combine=linear(attention.o_proj),
        mlp_norm=_norm(layer.pre_feedforward_layernorm if after else layer.post_attention_layernorm),
        mlp=Mlp(linear(mlp.up_proj), linear(mlp.gate_proj), linear(mlp.down_proj), ACTIVATIONS[_activation(config)]),
        rotation=rotary,
        # Gemma 3 has the option but ignores it.
        cap=config.attn_logit_softcapping if config.model_type == "gemma2" else None,
        attention_post_norm=_norm(layer.post_attention_layernorm) if after else None,
        mlp_post_norm=_norm(layer.post_feedforward_layernorm) if after else None,
    )


def _activation(config: Any) -> str:
    return str(config.hidden_act if config.model_type == "gemma" else config.hidden_activation)


def _norm(module: Any) -> Norm:
    return Norm(module.weight, None, module.eps, centres=False, offset=1.0)
