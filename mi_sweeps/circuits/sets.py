"""Runs sets of edges as circuits.

In a set's run, each input reads the output of every earlier node: from the same run if the edge is in the set, and from
the corrupted run if it is not. The embedding is the clean prompt's. So all edges give the clean run, and no edges, the
*empty graph*, the corrupted one. This is how the MIB track evaluates circuits (Mueller et al. 2025, arXiv:2504.13151,
`evaluate_graph` with patching). It first prunes dangling edges, which does not matter: they carry what they carry in
the corrupted run.

Many sets are run together, as rows of the same matrix products, in the columns that differ.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mi_sweeps.circuits.activations import LayerActivations, Layout, spread
from mi_sweeps.circuits.fast import MEMORY, budget
from mi_sweeps.circuits.inputs import separate
from mi_sweeps.circuits.network import Block, Network, rotate
from mi_sweeps.circuits.paired_runs import PairedRuns, in_groups, run_both
from mi_sweeps.circuits.propagate import CachedRun, rotation_of
from mi_sweeps.graph import Graph
from mi_sweeps.models.head import capped
from mi_sweeps.tasks.pairs import Pairs


@torch.no_grad()
def evaluate(
    network: Network, pairs: Pairs, sets: Bool[Tensor, "set edge"], memory: int = MEMORY
) -> Float[Tensor, "set prompt"]:
    """Logit differences of each set's run.

    Args:
        sets: which of `Graph.edges` are in each set.
    """
    graph = network.graph
    masks = by_receiver(graph, sets)
    # A row holds the outputs of all nodes and the inputs of a layer, in all columns.
    width, d_model = pairs.clean.tokens.shape[1], network.final_norm.weight.shape[0]
    row = 4 * width * d_model * (len(graph.nodes) + 3 * 3 * graph.n_heads)
    prompts, _ = budget(network, pairs, memory)
    at_once = max(1, memory // 2 // row)
    parts = []
    for part in in_groups(pairs, min(prompts, at_once)):
        runs = run_both(network, part)
        size = max(1, at_once // len(part.clean))
        parts.append(torch.cat([_run(runs, graph, some).cpu() for some in masks.split(size)]))
    return torch.cat(parts, dim=1)


def by_receiver(graph: Graph, sets: Bool[Tensor, "set edge"]) -> Float[Tensor, "set receiver node"]:
    """1 where a set contains the edge from a node to an input."""
    masks = torch.zeros(len(sets), len(graph.receivers), len(graph.nodes))
    start = 0
    for number, receiver in enumerate(graph.receivers):
        count = graph.reads(receiver)
        masks[:, number, :count] = sets[:, start : start + count].float()
        start += count
    return masks


@dataclass(frozen=True)
class _Written:
    """The changes in the outputs of nodes from the corrupted run, in the last columns, so far."""

    run: CachedRun
    span: int
    embedded: Float[Tensor, "prompt set col d_model"]
    heads: list[Float[Tensor, "prompt set head col d_model"]] = field(default_factory=list)
    """The heads' outputs by layer, before any norm of their sum."""
    mlps: list[Float[Tensor, "prompt set col d_model"]] = field(default_factory=list)

    def read(self, masks: Float[Tensor, "set receiver node"]) -> Float[Tensor, "prompt set receiver col d_model"]:
        """The changes in what some inputs read."""
        total = torch.einsum("prcd,rk->prkcd", self.embedded, masks[..., 0])
        start = 1
        for layer, heads in enumerate(self.heads):
            stop = start + heads.shape[2]
            change = torch.einsum("prhcd,rkh->prkcd", heads, masks[..., start:stop])
            block = self.run.network.blocks[layer]
            if block.rescales:
                z = self.run.layers[layer].z.flatten(-2)[:, None, None, -self.span :]
                change = block.attn_out_changed(z, change)
            total += change
            start = stop
            if layer < len(self.mlps):
                total += torch.einsum("prcd,rk->prkcd", self.mlps[layer], masks[..., start])
                start += 1
        return total


def _run(runs: PairedRuns, graph: Graph, masks: Float[Tensor, "set receiver node"]) -> Float[Tensor, "set prompt"]:
    """Runs the sets on prompts that fit in memory together."""
    run, span = runs.corrupted, int(runs.spans.max())
    if not span:
        return runs.corrupted_logit_diff.expand(len(masks), -1)
    masks = masks.to(runs.corrupted_logit_diff.device)
    embedded = (runs.clean[0].resid_pre - run.layers[0].resid_pre)[:, None, -span:]
    written = _Written(run, span, embedded.expand(-1, len(masks), -1, -1))
    start = 0
    for block, layer in zip(run.network.blocks, run.layers, strict=True):
        stop = start + 3 * graph.n_heads
        q, k, v = separate(block, layer.resid_pre[:, None, None, -span:] + written.read(masks[:, start:stop]))
        z = _attend(block, layer, run.layout, q, k, v)
        mlp = masks[:, stop : stop + 1]
        seen = written.read(mlp) if block.parallel and graph.has_mlps else None
        written.heads.append(torch.einsum("prchd,hdm->prhcm", z - layer.z[:, None, -span:], block.W_O))
        start = stop
        if graph.has_mlps:
            before = layer.resid_pre if block.parallel else layer.resid_pre + layer.attn_out
            read = before[:, None, -span:] + (written.read(mlp) if seen is None else seen)[:, :, 0]
            written.mlps.append(block.mlp_out(read, torch.zeros_like(read)) - layer.mlp_out[:, None, -span:])
            start += 1
    change = written.read(masks[:, start:])[:, :, 0, -1]
    return run.read_out(run.layers[-1].resid_post[:, None, -1] + change, slice(None)).T


def _attend(
    block: Block,
    layer: LayerActivations,
    layout: Layout,
    q: Float[Tensor, "prompt set col head d_head"],
    k: Float[Tensor, "prompt set col head d_head"],
    v: Float[Tensor, "prompt set col head d_head"],
) -> Float[Tensor, "prompt set col head d_head"]:
    """z of each head, with keys and values of its own in the last columns and the corrupted run's before them."""
    span, width = q.shape[2], layer.k.shape[1]
    place = rotation_of(layout, block, torch.arange(len(q), device=q.device), width - span, width)
    q, k = rotate(q, place), rotate(k, place)
    k, v = (
        torch.cat(
            [spread(before[:, : width - span], block.n_heads)[:, None].expand(-1, q.shape[1], -1, -1, -1), own], dim=2
        )
        for before, own in ((layer.k, k), (layer.v, v))
    )
    scores = capped(torch.einsum("prqhd,prkhd->prhqk", q, k) * block.scale, block.cap)
    pattern = (scores + layout.mask[:, None, None, -span:]).softmax(dim=-1)
    return torch.einsum("prhqk,prkhd->prqhd", pattern, v)
