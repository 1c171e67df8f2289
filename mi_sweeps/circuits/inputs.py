"""Attention in which each head's queries, keys and values are computed from separate residual streams."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mi_sweeps.circuits.direct import project
from mi_sweeps.circuits.network import Block, Linear, Norm


def separate(
    block: Block, streams: Float[Tensor, "... input_head col d_model"]
) -> tuple[Float[Tensor, "... col head d_head"], ...]:
    """Queries, keys and values before rotation, each from its own stream. The streams are in the order of
    `Graph.receivers` in a layer: all heads' queries, then keys, then values. Heads that share a key/value head get
    separate keys and values."""
    n_heads, n_kv = block.n_heads, block.n_kv_heads
    normed = block.read(streams).unflatten(-3, (3, n_heads))

    def of(number: int, linear: Linear, places: int, norm: Norm | None) -> Tensor:
        heads = []
        for head in range(n_heads):
            index = head * places // n_heads
            read = normed.select(-4, number).select(-3, head)
            heads.append(project(linear, places, slice(index, index + 1), norm, read))
        return torch.cat(heads, dim=-2)

    return (
        of(0, block.query, n_heads, block.query_norm),
        of(1, block.key, n_kv, block.key_norm),
        of(2, block.value, n_kv, None),
    )
