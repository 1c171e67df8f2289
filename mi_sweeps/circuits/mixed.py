"""Networks with some weights from one checkpoint and all others from another.

Every weight belongs to exactly one part: `embed`, `attn` or `mlp` of a layer, or `unembed`. Norms belong to the part
that reads or writes through them, the final norm to `unembed`. If embedding and unembedding share a matrix, `embed`
is its use for looking up tokens and `unembed` its use for logits, and each is replaced separately. So is a norm that
attention and MLP share (Phi, StableLM's parallel blocks): `attn` is its use by attention, `mlp` its use by the MLP.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any, Literal

import torch

from mi_sweeps.circuits.network import Block, Linear, Network

Piece = Literal["attn", "mlp", "norm", "head", "q", "k", "v", "o"]
"""A piece of a block: attention or the MLP, each with its norms; the norms alone; one head's weights for queries, keys,
values or its output, or all of these. The bias of `combine` belongs to no head."""

Part = tuple[str, int | None]
"""`embed`, `attn`, `mlp` or `unembed`, and its layer if it has one."""

ATTENTION = ("attention_norm", "query", "key", "value", "query_norm", "key_norm", "combine", "attention_post_norm")
MLP = ("mlp_norm", "mlp", "mlp_post_norm")
NORMS = tuple(name for name in (*ATTENTION, *MLP) if name.endswith("norm"))


def parts(network: Network) -> list[Part]:
    """All parts of a network, in the order in which they are used."""
    layers: Iterator[Part] = (
        (name, layer)
        for layer in range(len(network.blocks))
        for name in ("attn", *(("mlp",) if network.has_mlps else ()))
    )
    return [("embed", None), *layers, ("unembed", None)]


def mix(into: Network, source: Network, chosen: Collection[Part]) -> Network:
    """`into` with some parts' weights from `source`."""
    blocks = list(into.blocks)
    for name, layer in chosen:
        if layer is not None:
            blocks[layer] = mix_block(blocks[layer], source.blocks[layer], "attn" if name == "attn" else "mlp")
    mixed = replace(into, blocks=tuple(blocks))
    if ("embed", None) in chosen:
        mixed = replace(mixed, embed=source.embed, positional=source.positional)
    if ("unembed", None) in chosen:
        mixed = replace(mixed, final_norm=source.final_norm, unembed=source.unembed)
    return mixed


def mix_positional(into: Network, source: Network) -> Network:
    """`into` with the positional embedding of `source`, which must have one."""
    before, after = into.positional, source.positional
    assert before is not None and after is not None
    return replace(
        into,
        embed=lambda tokens, positions: into.embed(tokens, positions) + (after(positions) - before(positions)),
        positional=after,
    )


def mix_block(into: Block, source: Block, piece: Piece, head: int | None = None) -> Block:
    """`into` with one piece's weights from `source`.

    Args:
        head: for the pieces of a head; for k and v the key/value head. The piece `head` under grouped-query attention
            replaces the key/value head for all heads that use it.
    """
    if piece in ("attn", "mlp", "norm"):
        names = {"attn": ATTENTION, "mlp": MLP, "norm": NORMS}[piece]
        return replace(into, **{name: getattr(source, name) for name in names})
    assert head is not None
    key_value = head if piece in ("k", "v") else head // (into.n_heads // into.n_kv_heads)
    changed: dict[str, Any] = {}
    for letter, name, number, count in (
        ("q", "query", head, into.n_heads),
        ("k", "key", key_value, into.n_kv_heads),
        ("v", "value", key_value, into.n_kv_heads),
        ("o", "combine", head, into.n_heads),
    ):
        if piece in (letter, "head"):
            changed[name] = _head(getattr(into, name), getattr(source, name), number, count, given=letter == "o")
    return replace(into, **changed)


def _head(into: Linear, source: Linear, head: int, count: int, *, given: bool) -> Linear:
    """`into` with the weights of one of `count` heads from `source`: the columns that it writes, or, if `given`, the
    rows that it reads."""
    axis = 0 if given else 1
    weight = into.weight.clone()
    width = weight.shape[axis] // count
    weight.narrow(axis, head * width, width).copy_(source.weight.narrow(axis, head * width, width))
    bias = into.bias
    if bias is not None and not given:
        assert source.bias is not None
        own = torch.arange(len(bias), device=bias.device) // width == head
        bias = torch.where(own, source.bias, bias)
    return Linear(weight, bias)
