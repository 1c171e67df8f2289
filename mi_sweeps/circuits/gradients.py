"""Edge attribution patching with integrated gradients: estimates the effect of patching every edge.

With a_clean and a_corrupted the output of a node in the two runs, and g the gradient of the logit difference with
respect to an input,

    LD_patched ~ LD_corrupted + (a_clean - a_corrupted) . mean over k of g_k

where g_k is taken in the run whose embedded tokens are k/m of the way from the corrupted to the clean ones, for
k = 0 ... m-1 (EAP-IG of inputs: Hanna et al. 2024, arXiv:2403.17806; the path is that of Sundararajan et al. 2017,
arXiv:1703.01365). With m = 1 it is edge attribution patching (Syed et al. 2023, arXiv:2310.10348). It is approximate,
and tables say so; if edges were patched too, `mi_sweeps.analysis.edges` shows how far it is from the exact values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from mi_sweeps.circuits.activations import Layout, align, attention_pattern, embed, weigh
from mi_sweeps.circuits.direct import changes_of
from mi_sweeps.circuits.fast import MEMORY, budget
from mi_sweeps.circuits.inputs import separate
from mi_sweeps.circuits.network import Network, rotate
from mi_sweeps.circuits.paired_runs import in_groups, run_both
from mi_sweeps.circuits.propagate import Group
from mi_sweeps.circuits.readout import ReadOut
from mi_sweeps.graph import Graph
from mi_sweeps.tasks.pairs import Pairs


@dataclass(frozen=True)
class Estimates:
    """Logit differences with each edge patched alone, approximately."""

    corrupted: Float[Tensor, " prompt"]
    values: Float[Tensor, "edge prompt"]


def integrated(network: Network, pairs: Pairs, graph: Graph, steps: int, memory: int = MEMORY) -> Estimates:
    """Estimates what `mi_sweeps.circuits.edges.patch_edges` computes exactly.

    Args:
        steps: number of gradients per prompt.
    """
    # In addition to the runs: each input before and after its norm, and its gradient; and as much for the nodes.
    prompts, _ = budget(network, pairs, memory, nodes=len(graph.nodes) + 4 * len(graph.receivers))
    parts = [_integrated(network, part, graph, steps) for part in in_groups(pairs, prompts)]
    return Estimates(torch.cat([part.corrupted for part in parts]), torch.cat([part.values for part in parts], dim=1))


def _integrated(network: Network, pairs: Pairs, graph: Graph, steps: int) -> Estimates:
    layout = align(network, pairs.clean.end)
    with torch.no_grad():
        runs = run_both(network, pairs)
        width = runs.differs.shape[1]
        every = Group(torch.arange(len(pairs.clean), device=layout.positions.device), width)
        changes = changes_of(runs, graph.nodes, "recomputed", every)
        clean, corrupted = (embed(network, batch, layout) for batch in (pairs.clean, pairs.corrupted))
    total: list[Tensor] = []
    for step in range(steps):
        found = _gradients(network, layout, corrupted + step / steps * (clean - corrupted), runs.corrupted.read_out)
        total = [a + b for a, b in zip(total, found, strict=True)] if total else list(found)
    # Receivers in the order of the graph, each with its sources.
    scores = []
    gradients = torch.cat([one if one.dim() == 4 else one[:, None] for one in total], dim=1) / steps
    for number, receiver in enumerate(graph.receivers):
        count = graph.reads(receiver)
        scores.append(torch.einsum("pncd,pcd->np", changes[:, :count], gradients[:, number]))
    base = runs.corrupted_logit_diff
    return Estimates(base.cpu(), (base + torch.cat(scores)).cpu())


@torch.enable_grad()
def _gradients(
    network: Network, layout: Layout, resid: Float[Tensor, "prompt col d_model"], read_out: ReadOut
) -> tuple[Tensor, ...]:
    """The gradients of the logit difference with respect to each input: [prompt, input, col, d_model] for a layer's
    heads, [prompt, col, d_model] for an MLP and for the logits."""
    leaves = []

    def added(*shape: int) -> Tensor:
        leaves.append(torch.zeros(len(resid), *shape, *resid.shape[1:], device=resid.device, requires_grad=True))
        return leaves[-1]

    for block in network.blocks:
        q, k, v = separate(block, resid[:, None] + added(3 * block.n_heads))
        rotation = layout.rotation(block)
        z = weigh(attention_pattern(block, rotate(q, rotation), rotate(k, rotation), layout.mask), v)
        attn_out = block.attn_out(z.flatten(-2))
        read = resid if block.parallel else resid + attn_out
        mlp_out = block.mlp_out(read + added(), torch.zeros_like(attn_out)) if network.has_mlps else 0.0
        resid = resid + attn_out + mlp_out
    logit_diff = read_out((resid + added())[:, -1], slice(None))
    # A prompt's logit difference depends only on its own activations, so one sum gives every prompt's gradient.
    return torch.autograd.grad(logit_diff.sum(), leaves)
