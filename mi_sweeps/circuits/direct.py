"""Direct-path patching: gives one input the clean run's output of one node, and nothing else.

In the corrupted run, one reader sees the source's output at all positions from the clean run. Everything after the
reader is computed in full; all other parts, MLPs included, read what they read in the corrupted run. A reader
normalises its input: `recomputed` lets the norm see the change, which is the exact intervention and, for q, k and v,
the same as `transformer_lens.patching.get_act_patch_direct_path`; `frozen` keeps the corrupted run's scale, so that the
input is linear in its sources. For the logits, the reader is the final norm at each prompt's last token. If a block
normalises its heads' summed output, that norm is on the path and treated likewise: the other heads write what they do
in the corrupted run, and the scale is recomputed or frozen.

This is the direct path of Goldowsky-Dill et al. (2023, arXiv:2304.05969), patched corrupted <- clean like all sites
here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_sweeps.circuits.activations import LayerActivations
from mi_sweeps.circuits.narrow import Narrow, applies
from mi_sweeps.circuits.network import SLICE, Linear, Norm, by_head, rotate
from mi_sweeps.circuits.paired_runs import PairedRuns
from mi_sweeps.circuits.propagate import Change, Group, Stage, attend, propagate, rotation_of
from mi_sweeps.graph import Input, Node

How = Literal["recomputed", "frozen"]
Writes = Callable[[Group], Tensor]
"""`changes_of`, computed once for each group."""


@dataclass(frozen=True)
class Reader:
    """One input, and the nodes whose clean output it should see, one at a time."""

    input: Input
    layer: int
    """The reader's layer; for the logits, the number of layers."""
    heads: range
    """For q, k and v: the head, or all heads that share a key/value head."""
    sources: Sequence[int]
    """Indices of nodes."""


def patch_direct(
    runs: PairedRuns, readers: Sequence[Reader], nodes: Sequence[Node], norm: How, tokens: int
) -> Float[Tensor, "edge prompt"]:
    """Logit differences with each reader's sources patched one at a time, reader by reader.

    Args:
        nodes: the nodes that `Reader.sources` indexes.
        tokens: maximum number of columns in flight. Affects memory only, not results.
    """
    n_prompts, count = len(runs.corrupted_logit_diff), sum(len(reader.sources) for reader in readers)
    # Whatever no change reaches keeps the corrupted run's value.
    results = runs.corrupted_logit_diff.repeat(count)
    index = torch.arange(len(results), device=results.device).view(count, n_prompts)
    writes, narrow = cache(partial(changes_of, runs, nodes, norm)), Narrow.of(runs.corrupted)
    changes: list[Change] = []
    start = 0
    for reader in readers:
        stop = start + len(reader.sources)
        if reader.input == "logits":
            results[index[start:stop]] = _read_by_logits(runs, reader, nodes, norm)
        else:
            changes += _changes(runs, reader, norm, index[start:stop], writes, narrow)
        start = stop
    propagate(runs.corrupted, changes, results, tokens)
    return results.view(count, n_prompts)


def changes_of(
    runs: PairedRuns, nodes: Sequence[Node], norm: How, group: Group
) -> Float[Tensor, "prompt node col d_model"]:
    """The change in each node's contribution to the residual stream from the corrupted to the clean run, in a group's
    columns."""
    columns = slice(-group.span, None)

    def of(layer: LayerActivations, site: str) -> Tensor:
        value: Tensor = getattr(layer, site)
        return value[group.prompts, columns]

    changes = []
    for node in nodes:
        clean, corrupted = runs.clean[node.layer or 0], runs.corrupted.layers[node.layer or 0]
        if node.kind != "head":
            site = "mlp_out" if node.kind == "mlp" else "resid_pre"
            changes.append(of(clean, site) - of(corrupted, site))
            continue
        block = runs.corrupted.network.blocks[node.layer or 0]
        z = of(corrupted, "z")
        change = (of(clean, "z") - z)[..., node.head, :] @ block.W_O[node.head]
        if block.attention_post_norm is not None:
            together = block.combine(z.flatten(-2))
            after = _normalise(block.attention_post_norm, together, change, norm)
            change = after - block.attention_post_norm(together)
        changes.append(change * block.multiplier)
    return torch.stack(changes, dim=1)


def _changes(
    runs: PairedRuns, reader: Reader, norm: How, results: Int[Tensor, "source prompt"], writes: Writes, narrow: Narrow
) -> Iterator[Change]:
    """Yields the changes from all sources of one input."""
    last = reader.layer == len(runs.clean) - 1
    enters: int
    stage: Stage
    enters, stage, _ = runs.corrupted.after_attention(reader.layer)
    through: Callable[..., Tensor] = _through_mlp
    if reader.input != "mlp":
        is_narrow = applies(runs.corrupted.network.blocks[reader.layer], len(reader.heads))
        through = partial(_through_head, narrow if is_narrow else None)
    if reader.input == "mlp" or is_narrow:
        enters, stage = reader.layer + 1, "pre"
    for group in runs.starting.values():
        # After the last layer's attention only the last column is read.
        reached = Group(group.prompts, 1) if last else group
        resid = partial(through, runs, reader, norm, group, writes, reached.span)
        yield Change(enters, stage, reached, results[:, group.prompts].T, resid)


def _through_head(
    narrow: Narrow | None,
    runs: PairedRuns,
    reader: Reader,
    norm: How,
    group: Group,
    writes: Writes,
    columns: int,
    chosen: slice,
) -> Float[Tensor, "prompt source col d_model"]:
    """The stream after the reader's attention, or after its MLP if the change is narrow, in the last `columns`."""
    run, layer, heads = runs.corrupted, reader.layer, slice(reader.heads.start, reader.heads.stop)
    block, corrupted = run.network.blocks[layer], run.layers[layer]
    prompts, span = group.prompts, group.span
    kv = heads.start * block.n_kv_heads // block.n_heads
    read = corrupted.resid_pre[prompts, -span:].unsqueeze(1)
    normed = _normalise(block.attention_norm, read, writes(group)[:, list(reader.sources[chosen])], norm)

    def of_run(name: Literal["q", "k", "v"], index: slice) -> Tensor:
        own = getattr(corrupted, name)[prompts, -span:, index].unsqueeze(1)
        return own.expand(-1, normed.shape[1], *own.shape[2:])

    q, k, v = of_run("q", heads), of_run("k", slice(kv, kv + 1)), of_run("v", slice(kv, kv + 1))
    width = corrupted.k.shape[1]
    place = rotation_of(run.layout, block, prompts, width - span, width)
    if reader.input == "q":
        q = rotate(project(block.query, block.n_heads, heads, block.query_norm, normed), place)
    elif reader.input == "k":
        k = rotate(project(block.key, block.n_kv_heads, slice(kv, kv + 1), block.key_norm, normed), place)
    else:
        v = project(block.value, block.n_kv_heads, slice(kv, kv + 1), None, normed)
    before = slice(0, width - span)
    z = attend(
        q[:, :, -columns:] * block.scale,
        k,
        v,
        corrupted.k[prompts, before, kv : kv + 1],
        corrupted.v[prompts, before, kv : kv + 1],
        run.layout.mask[prompts, -1, before],
        block.cap,
    )
    change = z - corrupted.z[prompts, -columns:, heads].flatten(2).unsqueeze(1)
    resid = run.with_heads_changed(layer, prompts, change @ block.W_O[heads].flatten(0, 1))
    if narrow:
        halves = narrow.of_run(layer, group, columns), narrow.of_heads(layer, heads.start, heads.stop)
        narrow.add_mlp(block, *halves, change, resid)
    return resid


def _through_mlp(
    runs: PairedRuns, reader: Reader, norm: How, group: Group, writes: Writes, columns: int, chosen: slice
) -> Float[Tensor, "prompt source col d_model"]:
    """The stream after the reader's MLP, in the last `columns`."""
    block, layer = runs.corrupted.network.blocks[reader.layer], runs.corrupted.layers[reader.layer]
    before = (layer.resid_pre + layer.attn_out)[group.prompts, None, -columns:]
    read = layer.resid_pre[group.prompts, None, -columns:] if block.parallel else before
    change = writes(group)[:, list(reader.sources[chosen]), -columns:]
    normed = _normalise(block.mlp_norm, read, change, norm)
    written = torch.cat([block.mlp_written(part) for part in normed.flatten(0, 2).split(SLICE)])
    return before + written.view_as(normed)


def _read_by_logits(
    runs: PairedRuns, reader: Reader, nodes: Sequence[Node], norm: How
) -> Float[Tensor, "source prompt"]:
    """Logit differences if only the final norm sees a source's change."""
    run = runs.corrupted
    resid = run.layers[-1].resid_post[:, None, -1:]
    end = Group(torch.arange(len(resid), device=resid.device), 1)
    change = changes_of(runs, [nodes[source] for source in reader.sources], norm, end)
    normed = _normalise(run.network.final_norm, resid, change, norm)
    return run.read_out.of_normed(normed, slice(None))[..., 0].T


def _normalise(norm: Norm | None, read: Tensor, change: Tensor, how: How) -> Tensor:
    if norm is None:
        return read + change
    if how == "recomputed":
        return norm(read + change)
    return norm(read) + norm.centre(change) / norm.scale(read) * norm.gain


def project(
    linear: Linear, n_heads: int, chosen: slice, norm: Norm | None, read: Float[Tensor, "... d_model"]
) -> Float[Tensor, "... head d_head"]:
    """Some heads' queries, keys or values, before rotation."""
    weight = linear.weight.unflatten(1, (n_heads, -1))
    if norm is not None and len(norm.weight) > weight.shape[2]:  # The norm is over all heads together.
        return by_head(linear(read), n_heads, norm)[..., chosen, :]
    bias = None if linear.bias is None else linear.bias.unflatten(0, (n_heads, -1))[chosen]
    size = len(range(*chosen.indices(n_heads)))
    return by_head(Linear(weight[:, chosen], bias)(read), size, norm)
