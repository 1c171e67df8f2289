"""Networks that have some weights of one checkpoint and all others of another.

All weights are in `embed`, `attn` and `mlp` of each layer, or `unembed`, and in one of them only. Normalisations go
with the part that reads or writes through them, the final one with `unembed`. Where embedding and unembedding are one
matrix, `embed` is what tokens are looked up in and `unembed` what logits are read with: each is replaced alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any, Literal

import torch

from mi_sweeps.circuits.network import Block, Linear, Network

Piece = Literal["attn", "mlp", "norm", "head", "q", "k", "v", "o"]
"""Of a block: attention or the MLP, each with its normalisations; the normalisations alone; one head's weights for
queries, keys, values or its output, or all of these. Biases of `combine` are no head's."""

Part = tuple[str, int | None]
"""`embed`, `attn`, `mlp` or `unembed`, and its layer."""

ATTENTION = ("attention_norm", "query", "key", "value", "query_norm", "key_norm", "combine", "attention_post_norm")
MLP = ("mlp_norm", "mlp", "mlp_post_norm")
NORMS = tuple(name for name in (*ATTENTION, *MLP) if name.endswith("norm"))


def parts(network: Network) -> list[Part]:
    """All weights of a network, in the order in which they are used."""
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
    """`into` with what positions add from `source`; it must have such."""
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
        head: of the pieces that have one; of k and v the key/value head. Of the piece `head` under grouped-query
            attention the key/value head is replaced for all heads that use it.
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
    """A map with what one of so many heads has in it from another map: what it maps to, or what it is `given`."""
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
