"""Composition scores: how much a later head reads of what an earlier head writes, from their weights (Elhage et al.
2021, "A Mathematical Framework for Transformer Circuits", "Three Kinds of Composition").

With W_OV = W_V W_O of the earlier head, W_QK = W_Q W_K' and w_OV = W_V W_O of the later one, and Frobenius norms,

    q_composition = |W_OV W_QK | / |W_OV| |W_QK|
    k_composition = |W_OV W_QK'| / |W_OV| |W_QK|
    v_composition = |W_OV w_OV | / |W_OV| |w_OV|

A norm's gain is folded into the weights that read through it, that of a norm after attention into W_O. If norms centre,
everything read and written is centred. Biases and the norms' scales, which depend on the prompt, are left out.

By chance (`null`): if the earlier head's output is rotated at random in the residual stream, so that both heads keep
their singular values, the mean square is exactly 1/d, where d is d_model, or d_model - 1 if norms centre. `null` is
1/√d.

Queries and keys that are rotated by position or normalised by head have no single W_QK for all positions, so
`q_composition` and `k_composition` are left out for them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from mi_sweeps.circuits.network import Block, Linear, Network
from mi_sweeps.circuits.tables import TABLES

ROTATED = "queries and keys are rotated by position, so no single product of weights holds at all positions"
NORMED = "queries and keys are normalised by head, which is not a product of weights"


def left_out(network: Network) -> dict[str, str]:
    """The scores that a network does not have, with the reason."""
    rotated = any(block.rotation is not None for block in network.blocks)
    normed = any(block.query_norm is not None or block.key_norm is not None for block in network.blocks)
    return {"scores of q_composition and k_composition": ROTATED if rotated else NORMED} if rotated or normed else {}


@torch.no_grad()
def table(network: Network) -> pa.Table:
    """The rows of the table `scores`: each head with each head of an earlier layer."""
    null = (network.unembed.weight.shape[0] - network.final_norm.centres) ** -0.5
    parts = [TABLES["scores"].empty_table()]
    for earlier, later, measure, values in scores(network):
        found = values.double().cpu().numpy()
        source_head, head = (grid.ravel() for grid in np.indices(found.shape))
        columns = {
            "measure": [measure] * found.size,
            "of": ["weights"] * found.size,
            "layer": [later] * found.size,
            "head": head,
            "source_layer": [earlier] * found.size,
            "source_head": source_head,
            "value": pa.array(found.ravel(), pa.float64(), from_pandas=True),
            "null": [null] * found.size,
            "n": pa.nulls(found.size, pa.int64()),
            "by_prompt": pa.nulls(found.size, pa.list_(pa.float32())),
        }
        parts.append(pa.table(columns, TABLES["scores"]))
    return pa.concat_tables(parts)


Scores = tuple[int, int, str, Float[Tensor, "earlier_head later_head"]]
"""Earlier and later layer, measure, values."""


def scores(network: Network) -> Iterator[Scores]:
    """Yields the composition scores of all pairs of heads; NaN if one of the two is all zeros."""
    # The norm of a product equals that of its triangular factors, which are d_head wide instead of d_model.
    lefts, sizes = [], []
    for block in network.blocks:
        left = _triangle(_folded(block, block.value))
        lefts.append(left)
        sizes.append((left @ _triangle(_written(network, block).mT).mT).norm(dim=(-2, -1)))
    for later, block in enumerate(network.blocks):
        value = _folded(block, block.value)
        readers = {"v_composition": (value, _triangle(_written(network, block).mT), sizes[later])}
        if not left_out(network):
            query, key = _folded(block, block.query), _folded(block, block.key)
            of_query, of_key = _triangle(query), _triangle(key)
            own = (of_query @ of_key.mT).norm(dim=(-2, -1))
            readers |= {"q_composition": (query, of_key, own), "k_composition": (key, of_query, own)}
        for earlier in range(later):
            written = _written(network, network.blocks[earlier])
            for measure, (reads, right, own) in readers.items():
                inner = torch.einsum("adm,bme->abde", written, reads)
                whole = (lefts[earlier][:, None] @ inner @ right.mT[None]).norm(dim=(-2, -1))
                yield earlier, later, measure, whole / (sizes[earlier][:, None] * own)


def _folded(block: Block, linear: Linear) -> Float[Tensor, "head d_model d_head"]:
    """The weights that each head reads with; key/value heads are repeated for each head that uses them."""
    norm, weight = block.attention_norm, linear.weight
    if norm is not None:
        weight = norm.gain[:, None] * weight
        if norm.centres:
            weight = weight - weight.mean(dim=0)
    n_heads = block.n_heads if linear is block.query else block.n_kv_heads
    heads = weight.unflatten(1, (n_heads, -1)).movedim(1, 0)
    return heads.repeat_interleave(block.n_heads // n_heads, dim=0)


def _written(network: Network, block: Block) -> Float[Tensor, "head d_head d_model"]:
    """W_O of each head, centred if norms centre what they read."""
    written = block.W_O
    if block.attention_post_norm is not None:
        written = block.attention_post_norm.centre(written) * block.attention_post_norm.gain
    return network.final_norm.centre(written)


def _triangle(matrix: Float[Tensor, "head rows columns"]) -> Float[Tensor, "head less columns"]:
    """R of M = QR, so that |M X| = |R X| for all X."""
    return torch.linalg.qr(matrix, mode="r").R
