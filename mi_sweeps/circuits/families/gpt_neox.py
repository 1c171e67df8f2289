"""GPT-NeoX: parallel attention and MLP, rotary positions for a part of each head, LayerNorm (Black et al. 2022,
arXiv:2204.06745); the architecture of the Pythia models."""

from __future__ import annotations

from typing import Any

from mi_sweeps.circuits.families.activations import ACTIVATIONS
from mi_sweeps.circuits.families.parts import layer_norm, linear, rotations
from mi_sweeps.circuits.network import Block, Linear, Mlp, Network, Rotary


def network(model: Any) -> Network | None:
    """The description of a `GPTNeoXForCausalLM`."""
    config, body = model.config, model.base_model
    rotaries = rotations(config, body.rotary_emb, body.embed_in)
    if config.hidden_act not in ACTIVATIONS or rotaries is None:
        return None
    return Network(
        embed=lambda tokens, positions: body.embed_in(tokens),
        blocks=tuple(_block(config, layer, rotary) for layer, rotary in zip(body.layers, rotaries, strict=True)),
        final_norm=layer_norm(body.final_layer_norm),
        unembed=linear(model.get_output_embeddings()),
    )


def _block(config: Any, layer: Any, rotary: Rotary) -> Block:
    n_heads, attention = config.num_attention_heads, layer.attention
    query, key, value = (_part(attention.query_key_value, n_heads, index) for index in range(3))
    return Block(
        n_heads=n_heads,
        n_kv_heads=n_heads,
        attention_norm=layer_norm(layer.input_layernorm),
        query=query,
        key=key,
        value=value,
        query_norm=None,
        key_norm=None,
        scale=attention.scaling,
        combine=linear(attention.dense),
        mlp_norm=layer_norm(layer.post_attention_layernorm),
        mlp=Mlp(linear(layer.mlp.dense_h_to_4h), None, linear(layer.mlp.dense_4h_to_h), ACTIVATIONS[config.hidden_act]),
        rotation=rotary,
        parallel=layer.use_parallel_residual,
    )


def _part(module: Any, n_heads: int, index: int) -> Linear:
    """The part for queries, keys or values of one matrix that holds them head by head."""
    weight = module.weight.unflatten(0, (n_heads, 3, -1))[:, index]
    bias = None if module.bias is None else module.bias.unflatten(0, (n_heads, 3, -1))[:, index]
    return Linear(weight.movedim(-1, 0), bias)
