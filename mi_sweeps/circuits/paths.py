"""Direct path patching: one head's output, as one later head's query, key or value input alone sees it, or the logits.

In the corrupted run the source's output at all positions is the clean run's, but only for one reader. What follows
after the reader is computed in full; all other parts, MLPs too, read what they read in the corrupted run. A reader
normalises what it reads: `recomputed` lets its normalisation see the change, which is the exact intervention and for
q, k and v what `transformer_lens.patching.get_act_patch_direct_path` does; `frozen` keeps the corrupted run's scale,
so that what is read is linear in its sources. For the logits the reader is the final normalisation, at each prompt's
last token. Where a block normalises what its heads write together, that is on the source's way and treated alike: the
other heads write what they do in the corrupted run, and the scale is recomputed or frozen.

It is the direct path of Goldowsky-Dill et al. (2023, arXiv:2304.05969), patched corrupted <- clean as all sites are
here. It is not the path patching of Wang et al. (2022, arXiv:2211.00593, appendix B), who keep heads at their values
and let MLPs recompute, so that their paths from head to head also go through the MLPs between; who patch the other way,
clean <- corrupted; and who patch one position (the last, or the second subject's), often into several receivers
together. What they do after the receiver is the same as here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_sweeps.circuits.carry import Change, Group, attend, carry, rotation_of
from mi_sweeps.circuits.fast import MEMORY, budget, n_places
from mi_sweeps.circuits.network import Linear, Network, Norm, by_head, rotate
from mi_sweeps.circuits.packed import pack
from mi_sweeps.circuits.patching import summaries
from mi_sweeps.circuits.runs import Runs, in_groups, run_both
from mi_sweeps.config import PathsConfig
from mi_sweeps.errors import UserError
from mi_sweeps.tasks.pairs import Pairs

Input = Literal["q", "k", "v", "logits"]
Head = tuple[int, int]
"""Layer and index; for inputs k and v of grouped-query attention the index of a key/value head."""
Receiver = Head | None
"""None reads the logits: no head."""


@dataclass(frozen=True)
class Paths:
    """Logit differences of every patched prompt; `path_rows` averages them."""

    clean: Float[Tensor, " prompt"]
    corrupted: Float[Tensor, " prompt"]
    edges: dict[tuple[Head, Receiver, Input], Float[Tensor, " prompt"]]
    """By source, receiver and the receiver's input."""


@torch.no_grad()
def patch_paths(network: Network, pairs: Pairs, paths: PathsConfig, memory: int = MEMORY) -> Paths:
    """Patches the direct path from every head to each receiver's inputs, and to the logits, each alone.

    Args:
        memory: see `mi_sweeps.circuits.fast.FastEngine`.

    Raises:
        UserError: a receiver is no head of the model, or in its first layer.
    """
    n_layers, n_heads = len(network.blocks), network.blocks[0].n_heads
    wanted = [
        (receiver, into)
        for into in paths.inputs
        for receiver in receivers(paths, into, n_layers, n_places(network.blocks[0], into))
    ]
    sources = {
        receiver: list(product(range(receiver[0] if receiver else n_layers), range(n_heads))) for receiver, _ in wanted
    }
    edges = [(source, receiver, into) for receiver, into in wanted for source in sources[receiver]]
    prompts, tokens = budget(network, pairs, memory)
    network = pack(network)
    parts = []
    for part in in_groups(pairs, prompts):
        runs = run_both(network, part)
        n_prompts = len(part.clean)
        results = runs.corrupted_logit_diff.repeat(len(edges))
        index = torch.arange(len(results), device=results.device).view(len(edges), n_prompts)
        changes, start = [], 0
        for receiver, into in wanted:
            stop = start + len(sources[receiver])
            if receiver is None:
                results[index[start:stop]] = _read_by_logits(runs, paths.norm)
            else:
                changes += list(_changes(runs, receiver, into, paths.norm, index[start:stop]))
            start = stop
        carry(runs.corrupted, changes, results, tokens)
        parts.append((runs.clean_logit_diff.cpu(), runs.corrupted_logit_diff.cpu(), results.view(len(edges), -1).cpu()))
    clean, corrupted, values = (torch.cat(part, dim=-1) for part in zip(*parts, strict=True))
    return Paths(clean, corrupted, dict(zip(edges, values, strict=True)))


def receivers(paths: PathsConfig, into: Input, n_layers: int, n_heads: int) -> Sequence[Receiver]:
    """Those that are asked for, for one input. The logits are there whichever heads are named.

    Args:
        n_heads: key/value heads for inputs k and v.

    Raises:
        UserError: one is no head of the model, or in its first layer, where no source is earlier.
    """
    if into == "logits":
        return [None]
    if paths.receivers == "all":
        return list(product(range(1, n_layers), range(n_heads)))
    for layer, head in paths.receivers:
        if not (1 <= layer < n_layers and head < n_heads):
            raise UserError(
                f"patching.paths.receivers: [{layer}, {head}] cannot receive by {into}; choose a layer from 1 to "
                f"{n_layers - 1} and a head from 0 to {n_heads - 1}"
            )
    return list(dict.fromkeys(paths.receivers))


def _changes(
    runs: Runs, receiver: Head, into: Input, norm: str, results: Int[Tensor, "source prompt"]
) -> Iterator[Change]:
    """All sources to one input of one receiver."""
    last = receiver[0] == len(runs.clean) - 1
    enters, stage, _ = runs.corrupted.after_attention(receiver[0])
    for group in runs.starting.values():
        # After the last layer's attention only the last column is read.
        reached = Group(group.prompts, 1) if last else group
        yield Change(
            enters,
            stage,
            reached,
            results[:, group.prompts].T,
            partial(_written, runs, receiver, into, norm, group, reached.span),
        )


def _written(
    runs: Runs, receiver: Head, into: Input, norm: str, group: Group, columns: int, chosen: slice
) -> Float[Tensor, "prompt source col d_model"]:
    """The stream after the receiver's attention, in the last `columns` columns."""
    layer, head = receiver
    run = runs.corrupted
    block, corrupted = run.network.blocks[layer], run.layers[layer]
    prompts, span = group.prompts, group.span
    size = block.n_heads // n_places(block, into)
    heads = slice(head * size, (head + 1) * size)
    kv = head * block.n_kv_heads // block.n_heads if into == "q" else head
    read = corrupted.resid_pre[prompts, -span:].unsqueeze(1)
    normed = _normalise(block.attention_norm, read, _source_writes(runs, group, layer, chosen, norm), norm)

    def of_run(name: Literal["q", "k", "v"], index: slice) -> Tensor:
        own = getattr(corrupted, name)[prompts, -span:, index].unsqueeze(1)
        return own.expand(-1, normed.shape[1], *own.shape[2:])

    q, k, v = of_run("q", heads), of_run("k", slice(kv, kv + 1)), of_run("v", slice(kv, kv + 1))
    width = corrupted.k.shape[1]
    place = rotation_of(run.layout, block, prompts, width - span, width)
    if into == "q":
        q = rotate(_project(block.query, block.n_heads, heads, block.query_norm, normed), place)
    elif into == "k":
        k = rotate(_project(block.key, block.n_kv_heads, slice(kv, kv + 1), block.key_norm, normed), place)
    else:
        v = _project(block.value, block.n_kv_heads, slice(kv, kv + 1), None, normed)
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
    return run.with_heads_changed(layer, prompts, change @ block.W_O[heads].flatten(0, 1))


def _read_by_logits(runs: Runs, norm: str) -> Float[Tensor, "source prompt"]:
    """Logit differences where the final normalisation alone sees a source, for the heads of all layers."""
    run = runs.corrupted
    resid = run.layers[-1].resid_post[:, -1:]
    n_heads = run.network.blocks[0].n_heads
    end = Group(torch.arange(len(resid), device=resid.device), 1)
    parts = []
    for layer in range(len(run.layers)):
        chosen = slice(layer * n_heads, (layer + 1) * n_heads)
        change = _source_writes(runs, end, len(run.layers), chosen, norm)
        normed = _normalise(run.network.final_norm, resid.unsqueeze(1), change, norm)
        parts.append(run.read_out.of_normed(normed, slice(None))[..., 0])
    return torch.cat(parts, dim=1).T


def _source_writes(
    runs: Runs, group: Group, layer: int, chosen: slice, norm: str
) -> Float[Tensor, "prompt source col d_model"]:
    """How the output of each source changes in the stream, for some of the heads of all layers before `layer`."""
    blocks = runs.corrupted.network.blocks
    writes = []
    for number in range(*chosen.indices(layer * blocks[0].n_heads)):
        at, head = divmod(number, blocks[0].n_heads)
        block = blocks[at]
        clean, corrupted = (run[at].z[group.prompts, -group.span :] for run in (runs.clean, runs.corrupted.layers))
        change = (clean[..., head, :] - corrupted[..., head, :]) @ block.W_O[head]
        if block.attention_post_norm is not None:
            together = block.combine(corrupted.flatten(-2))
            after = _normalise(block.attention_post_norm, together, change, norm)
            change = after - block.attention_post_norm(together)
        writes.append(change * block.multiplier)
    return torch.stack(writes, dim=1)


def _normalise(norm: Norm | None, read: Tensor, change: Tensor, how: str) -> Tensor:
    if norm is None:
        return read + change
    if how == "recomputed":
        return norm(read + change)
    return norm(read) + norm.centre(change) / norm.scale(read) * norm.gain


def _project(linear: Linear, n_heads: int, chosen: slice, norm: Norm | None, read: Tensor) -> Tensor:
    """Some heads' queries, keys or values, before rotation."""
    weight = linear.weight.unflatten(1, (n_heads, -1))
    if norm is not None and len(norm.weight) > weight.shape[2]:  # It is of all heads together.
        return by_head(linear(read), n_heads, norm)[..., chosen, :]
    bias = None if linear.bias is None else linear.bias.unflatten(0, (n_heads, -1))[chosen]
    size = len(range(*chosen.indices(n_heads)))
    return by_head(Linear(weight[:, chosen], bias)(read), size, norm)


def path_rows(paths: Paths) -> list[dict[str, Any]]:
    """Rows of the paths table: means over prompts, and the values of each prompt."""
    if not paths.edges:
        return []
    found = summaries(torch.stack([*paths.edges.values()]), paths.clean, paths.corrupted)
    return [
        {
            "kind": "path",
            "site": into,
            "source_layer": source[0],
            "source_head": source[1],
            "layer": None if receiver is None else receiver[0],
            "head": None if receiver is None else receiver[1],
            **row,
        }
        for (source, receiver, into), row in zip(paths.edges, found, strict=True)
    ]
