"""Exact ablation of sets of nodes (heads and MLPs) in the clean run, and the logit difference that remains.

In a set's run, every node outside the set writes its average over other prompts, role by role (Wang et al. 2022,
arXiv:2211.00593), or what it writes in the corrupted run. Nodes in the set compute from what reaches them. Across many
sets, only the differences are computed:

- Sets that agree on all nodes up to a layer share one residual stream up to that layer. Ablating a single node costs
  only the layers after it.
- An ablated node is a constant. Its queries, keys, values and hidden layer are not computed, so a set with one head in
  ten costs about a tenth of a forward pass.
- After the last layer in which a set keeps a head, only the last column is computed, because nothing else is read.
- Columns in which clean and ablated runs cannot differ, such as those before the first corrupted token, are taken from
  the clean run.

Shapes: `prompt` counts prompts with the same span, the number of last columns that ablation can change; `col` counts
those columns, or only the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_sweeps.circuits.activations import LayerActivations, Layout, align, embed, forward
from mi_sweeps.circuits.fast import budget
from mi_sweeps.circuits.means import Means
from mi_sweeps.circuits.network import Block, Linear, Network, Norm, by_head, rotate
from mi_sweeps.circuits.packed import pack
from mi_sweeps.circuits.propagate import attend, rotation_of
from mi_sweeps.circuits.readout import read_out
from mi_sweeps.tasks.pairs import Pairs

Node = tuple[int, int | None]
"""Layer and head; None for the layer's MLP."""

AT_ONCE = 32
"""Number of sets that should fit in memory together. The fewer prompts at a time, the more sets share computation."""


def nodes_of(network: Network, *, mlps: bool = True) -> list[Node]:
    """All heads, and the MLPs if `mlps`, layer by layer."""
    found: list[Node] = []
    for layer, block in enumerate(network.blocks):
        found += [(layer, head) for head in range(block.n_heads)]
        if mlps and network.has_mlps:
            found.append((layer, None))
    return found


@torch.no_grad()
def ablate_sets(
    network: Network,
    pairs: Pairs,
    nodes: Sequence[Node],
    kept: Bool[Tensor, "set node"],
    means: Means | None,
    memory: int,
) -> Float[Tensor, "set prompt"]:
    """The logit difference of each clean prompt if only the nodes in a set are kept. Equal sets have equal results.

    Args:
        nodes: the nodes that may be ablated, from `nodes_of`; everything else is always kept.
        means: what ablated nodes write; None for what they write in the corrupted run.
        memory: approximate limit for activations, in bytes. Does not change results.
    """
    each, which = torch.unique(kept.cpu(), dim=0, return_inverse=True)
    sets = _Sets.of(network, nodes, each)
    spans = _spans(pairs, whole=means is not None)
    most, tokens = budget(network, pairs, memory)
    fast = pack(network)
    results = pairs.clean.tokens.new_zeros((len(each), len(pairs.clean)), dtype=torch.float32)
    for span in spans.unique().tolist():
        rows = (spans == span).nonzero()[:, 0].tolist()
        size = max(1, min(most, tokens // (AT_ONCE * max(1, span))))
        for start in range(0, len(rows), size):
            chosen = rows[start : start + size]
            run = _prepare(network, fast, pairs.select(chosen), span, means)
            at_once = max(1, tokens // (len(chosen) * max(1, span)))
            results[:, chosen] = torch.cat([_left(run, part) for part in sets.split(at_once)])
    return results[which.to(results.device)]


def _spans(pairs: Pairs, *, whole: bool) -> Int[Tensor, " prompt"]:
    """The number of last columns that ablation can change in each prompt: all, or from the first corrupted token on."""
    clean, end = pairs.clean.tokens, pairs.clean.end
    if whole:
        return end + 1
    differs = (clean != pairs.corrupted.tokens) & (torch.arange(clean.shape[1], device=end.device) <= end[:, None])
    return torch.where(differs.any(dim=1), end + 1 - differs.int().argmax(dim=1), 0)


@dataclass(frozen=True)
class _Sets:
    """Sets of kept nodes by layer, sorted so that neighbours agree on as many layers as possible."""

    heads: Bool[Tensor, "set layer head"]
    mlps: Bool[Tensor, "set layer"]

    @classmethod
    def of(cls, network: Network, nodes: Sequence[Node], kept: Bool[Tensor, "set node"]) -> _Sets:
        # In an attention-only model MLPs write nothing, and are not computed.
        heads = torch.ones(len(kept), len(network.blocks), network.blocks[0].n_heads, dtype=torch.bool)
        mlps = torch.full((len(kept), len(network.blocks)), network.has_mlps)
        for (layer, head), column in zip(nodes, kept.T, strict=True):
            if head is None:
                mlps[:, layer] = column
            else:
                heads[:, layer, head] = column
        return cls(heads, mlps)

    def split(self, size: int) -> list[_Sets]:
        """Splits into parts of at most `size` sets."""
        parts = zip(self.heads.split(size), self.mlps.split(size), strict=True)
        return [_Sets(heads, mlps) for heads, mlps in parts]


@dataclass(frozen=True)
class _Run:
    """The clean run of prompts with the same span, and what their ablated nodes write."""

    network: Network
    fast: Network
    """The network with packed weights, for whole matrices."""
    pairs: Pairs
    layout: Layout
    span: int
    layers: Sequence[LayerActivations]
    resid: Float[Tensor, "prompt d_model"]
    """The residual stream after the last layer, in the last column."""
    z: Sequence[Float[Tensor, "prompt col head d_head"]]
    mlp_out: Sequence[Float[Tensor, "prompt col d_model"]]

    @property
    def start(self) -> int:
        """The first column of the span."""
        return self.layout.positions.shape[1] - self.span


def _prepare(network: Network, fast: Network, pairs: Pairs, span: int, means: Means | None) -> _Run:
    layout = align(network, pairs.clean.end)
    layers, resid = forward(fast, embed(network, pairs.clean, layout), layout)
    if means is not None:
        z, mlp_out = means.of(pairs.clean)
    else:
        corrupted, _ = forward(fast, embed(network, pairs.corrupted, layout), layout)
        z, mlp_out = [layer.z for layer in corrupted], [layer.mlp_out for layer in corrupted]
    z, mlp_out = ([values[:, values.shape[1] - span :] for values in part] for part in (z, mlp_out))
    return _Run(network, fast, pairs, layout, span, layers, resid[:, -1], z, mlp_out)


@dataclass(frozen=True)
class _Rows:
    """Residual streams at some layer, each shared by several sets."""

    resid: Float[Tensor, "prompt row col d_model"]
    sets: Int[Tensor, " set"]
    row: Int[Tensor, " set"]
    """The stream of each set."""


def _left(run: _Run, sets: _Sets) -> Float[Tensor, "set prompt"]:
    """The logit differences of some sets: layer by layer, from the first in which one of them ablates something."""
    count, n_layers = len(sets.heads), len(run.layers)
    device = run.resid.device
    all_kept = sets.heads.all(dim=2) & (sets.mlps | (not run.network.has_mlps))
    first = next((layer for layer in range(n_layers) if not all_kept[:, layer].all()), n_layers)
    results = torch.empty(count, len(run.resid), device=device)
    last = torch.zeros(count, dtype=torch.long)
    if run.span == 0 or first == n_layers:
        rows = [_Rows(run.resid[:, None, None], torch.arange(count), last)]
    else:
        # Whether a head is kept in a layer or behind it.
        later = sets.heads.any(dim=2).flip(1).cummax(dim=1).values.flip(1)
        later = torch.cat([later, torch.zeros(count, 1, dtype=torch.bool)], dim=1)
        resid = run.layers[first].resid_pre[:, None, run.start :]
        whole, end = later[:, first].nonzero()[:, 0], (~later[:, first]).nonzero()[:, 0]
        rows = [_Rows(resid, whole, last[whole]), _Rows(resid[:, :, -1:], end, last[end])]
        for number in range(first, n_layers):
            rows = _through_layer(run, number, rows, sets, later[:, number + 1])
    reader = read_out(run.network, run.pairs)
    for part in rows:
        results[part.sets.to(device)] = reader(part.resid[:, :, -1], slice(None)).T[part.row.to(device)]
    return results


def _through_layer(
    run: _Run, number: int, rows: Sequence[_Rows], sets: _Sets, later: Bool[Tensor, " set"]
) -> list[_Rows]:
    """The streams after a layer: those whose columns are all read later, and those of which only the last column is."""
    ongoing: list[_Rows] = []
    ending: list[_Rows] = []
    for part in rows:
        if not len(part.sets):
            continue
        for goes_on, found in ((True, ongoing), (False, ending)):
            of = later[part.sets] == goes_on
            if of.any():
                found.append(_layer(run, number, part, of, sets, run.span if goes_on else 1))
    return [_joined(found) for found in (ongoing, ending) if found]


def _joined(parts: Sequence[_Rows]) -> _Rows:
    if len(parts) == 1:
        return parts[0]
    offsets = [0, *torch.tensor([part.resid.shape[1] for part in parts]).cumsum(0).tolist()]
    return _Rows(
        torch.cat([part.resid for part in parts], dim=1),
        torch.cat([part.sets for part in parts]),
        torch.cat([part.row + offset for part, offset in zip(parts, offsets, strict=False)]),
    )


def _layer(run: _Run, number: int, rows: _Rows, of: Bool[Tensor, " set"], sets: _Sets, columns: int) -> _Rows:
    """Some sets' streams after a layer, in the last `columns`."""
    block, chosen, device = run.fast.blocks[number], rows.sets[of], rows.resid.device
    heads, mlps = sets.heads[chosen, number], sets.mlps[chosen, number]
    # Each combination of a stream and kept heads is computed once.
    each, after_heads = torch.unique(torch.cat([rows.row[of, None], heads], dim=1), dim=0, return_inverse=True)
    row, live = each[:, 0], each[:, 1:].bool()
    before = rows.resid[:, :, -columns:]
    attn_out = _attn_out(run, number, rows.resid, row, live, columns)
    # And so is each combination of these with a kept or ablated MLP.
    each, after = torch.unique(torch.stack([after_heads, mlps], dim=1), dim=0, return_inverse=True)
    child, kept = each[:, 0].to(device), each[:, 1].bool().to(device)
    row = row.to(device)
    if block.parallel:
        mlp_rows = torch.unique(row[child[kept]])
        resid = before[:, row[child]] + attn_out[:, child]
        if len(mlp_rows):
            read = before[:, mlp_rows].contiguous()
            read_flat = read.clone().flatten(0, 2)
            block.add_mlp(read_flat)
            written = read_flat.view_as(read) - read
            place = torch.searchsorted(mlp_rows, row[child[kept]])
            resid[:, kept] += written[:, place]
    else:
        resid = before[:, row[child]] + attn_out[:, child]
        if kept.any():
            read = resid[:, kept].contiguous()
            block.add_mlp(read.view(-1, read.shape[-1]))
            resid[:, kept] = read
    resid[:, ~kept] += run.mlp_out[number][:, None, -columns:]
    return _Rows(resid, chosen, after)


def _attn_out(
    run: _Run,
    number: int,
    resid: Float[Tensor, "prompt row span d_model"],
    row: Int[Tensor, " child"],
    live: Bool[Tensor, "child head"],
    columns: int,
) -> Float[Tensor, "prompt child col d_model"]:
    """The output of attention in the last columns, with some heads live and the others ablated.

    Args:
        row: the stream that each child reads.
    """
    block, off = run.fast.blocks[number], run.z[number][:, None, -columns:]
    base = block.attn_out(off.flatten(-2))
    shape = (base.shape[0], len(row), *base.shape[2:])
    if not live.any():
        return base.expand(shape)
    device = resid.device
    group_size = block.n_heads // block.n_kv_heads
    # Heads that share keys and values are computed together.
    asked = live.unflatten(1, (-1, group_size)).any(dim=2)
    needs = torch.zeros(resid.shape[1], block.n_kv_heads).index_add_(0, row, asked.float()) > 0
    there = needs.any(dim=1).nonzero()[:, 0]
    read = block.read(resid[:, there.to(device)])
    change = torch.zeros(shape, device=device)
    for groups, rows in _together(block, needs[there]):
        z = _z(run, number, read if len(rows) == len(there) else read[:, rows.to(device)], groups, columns)
        heads = torch.arange(block.n_heads).unflatten(0, (-1, group_size))[groups].flatten()
        place = torch.full((resid.shape[1],), -1)
        place[there[rows]] = torch.arange(len(rows))
        children = live[:, heads].any(dim=1).nonzero()[:, 0]
        kept = live[children][:, heads].to(device)
        difference = (z[:, place[row[children]].to(device)] - off[:, :, :, heads]) * kept[None, :, None, :, None]
        written = difference.flatten(-2) @ block.W_O[heads.to(device)].flatten(0, 1)
        if len(children) == len(row):
            change += written
        else:
            change[:, children.to(device)] += written
    return base + block.attn_out_changed(off.flatten(-2), change)


def _together(
    block: Block, needs: Bool[Tensor, "row kv_head"]
) -> list[tuple[Int[Tensor, " _kv_head"], Int[Tensor, " _row"]]]:
    """Key/value heads and the rows for which to compute them: all heads in all rows if that costs little more, or if
    queries or keys are normalised across heads."""
    every = torch.arange(needs.shape[1])
    width = len(block.query.weight.T) // block.n_heads
    normed_together = any(norm is not None and len(norm.weight) != width for norm in (block.query_norm, block.key_norm))
    if normed_together or needs.float().mean() > 0.5:
        return [(every, torch.arange(len(needs)))]
    patterns, which = torch.unique(needs.T, dim=0, return_inverse=True)
    return [
        (every[which == number], pattern.nonzero()[:, 0]) for number, pattern in enumerate(patterns) if pattern.any()
    ]


def _z(
    run: _Run,
    number: int,
    read: Float[Tensor, "prompt row span d_model"],
    groups: Int[Tensor, " kv_head"],
    columns: int,
) -> Float[Tensor, "prompt row col head d_head"]:
    """The outputs in the last columns of some key/value heads and of all heads that share them."""
    block, cached, start = run.fast.blocks[number], run.layers[number], run.start
    width = run.layout.positions.shape[1]
    asking = read[:, :, -columns:]
    if len(groups) == block.n_kv_heads:
        q, k, v = block.queries(asking), block.keys(read), block.values(read)
    else:
        plain = run.network.blocks[number]
        q = _some_heads(plain.query, block.n_kv_heads, groups, asking, block.n_heads, plain.query_norm)
        k = _some_heads(plain.key, block.n_kv_heads, groups, read, block.n_kv_heads, plain.key_norm)
        v = _some_heads(plain.value, block.n_kv_heads, groups, read, block.n_kv_heads, None)
    prompts = torch.arange(len(read), device=read.device)
    q = rotate(q, rotation_of(run.layout, block, prompts, width - columns, width)) * block.scale
    k = rotate(k, rotation_of(run.layout, block, prompts, start, width))
    of = groups.to(read.device)
    before = cached.k[:, :start, of], cached.v[:, :start, of]
    z = attend(q, k, v, *before, run.layout.mask[:, -1, :start], block.cap)
    return z.unflatten(-1, (q.shape[-2], -1))


def _some_heads(
    linear: Linear,
    n_groups: int,
    groups: Int[Tensor, " kv_head"],
    read: Float[Tensor, "prompt row col d_model"],
    n_heads: int,
    norm: Norm | None,
) -> Float[Tensor, "prompt row col head d_head"]:
    """Queries, keys or values of some key/value heads' groups only, before rotation."""
    of = groups.to(read.device)
    weight = linear.weight.unflatten(1, (n_groups, -1))[:, of].flatten(1)
    flat = read @ weight
    if linear.bias is not None:
        flat = flat + linear.bias.unflatten(0, (n_groups, -1))[of].flatten()
    return by_head(flat, len(groups) * (n_heads // n_groups), norm)
