"""Mean ablation: the loss if one part of the model has the same output for every input.

A part's output is replaced by its mean over prompts *and* positions (a mean for each position would still reveal the
position). The first token keeps its own output and is left out of the mean: it sees only itself, and in many models its
activations are far from all others (Sun et al. 2024, arXiv:2402.17762, on massive activations). Everything after the
part is computed in full.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mi_sweeps.circuits.activations import LayerActivations, Layout, each_layer, layer_by_layer
from mi_sweeps.circuits.network import Block, Network
from mi_sweeps.tasks.tokens import Batch

Component = tuple[str, int | None, int | None]
"""Kind, layer and head."""

NONE: Component = ("none", None, None)
"""Nothing is ablated."""


@dataclass(frozen=True)
class Means:
    """Mean outputs of one layer's parts."""

    attn_out: Float[Tensor, " d_model"]
    mlp_out: Float[Tensor, " d_model"]
    z: Float[Tensor, "head d_head"]


@torch.no_grad()
def ablated_losses(network: Network, batches: Sequence[Batch]) -> dict[Component, float]:
    """The loss (nats) over all scored positions, without ablation and with each part ablated alone: `attn_out` and, if
    the model has MLPs, `mlp_out` of each layer, and each `head`.

    Args:
        batches: prompts, in parts that fit in memory.
    """
    means = mean_outputs(network, batches)
    totals: dict[Component, float] = {NONE: 0.0}
    for number, parts in enumerate(layer_by_layer(network, batches)):
        later = network.blocks[number + 1 :]
        for batch, (layout, layer) in zip(batches, parts, strict=True):
            for name, head, resid in _ablated(network, number, layer, means[number], layout):
                for after in each_layer(later, resid, layout):
                    resid = after.resid_post
                component = (name, number, head)
                totals[component] = totals.get(component, 0.0) + _loss(network, batch, resid)
            if not later:
                totals[NONE] += _loss(network, batch, layer.resid_post)
    scored = sum(len(batch.scored[0]) for batch in batches)
    return {component: total / scored for component, total in totals.items()}


@torch.no_grad()
def mean_outputs(network: Network, batches: Sequence[Batch]) -> list[Means]:
    """The mean outputs of each layer over all tokens except the first of each prompt."""
    means = []
    for parts in layer_by_layer(network, batches):
        found = []
        for layout, layer in parts:
            chosen = layout.positions >= 1
            sums = [part[chosen].double().sum(dim=0) for part in (layer.attn_out, layer.mlp_out, layer.z)]
            found.append((chosen.sum(), *sums))
        count, *totals = (sum(of_batches) for of_batches in zip(*found, strict=True))
        means.append(Means(*((total / count).float() for total in totals)))
    return means


def _ablated(
    network: Network, number: int, layer: LayerActivations, means: Means, layout: Layout
) -> Iterator[tuple[str, int | None, Float[Tensor, "prompt col d_model"]]]:
    """The residual stream after a layer, with each of its parts ablated."""
    block = network.blocks[number]
    # A change of 0 keeps the output.
    chosen = (layout.positions >= 1)[..., None].to(layer.resid_pre.dtype)
    yield "attn_out", None, _resid_post(block, layer, layer.attn_out + chosen * (means.attn_out - layer.attn_out))
    if network.has_mlps:
        yield "mlp_out", None, layer.resid_post + chosen * (means.mlp_out - layer.mlp_out)
    for head, written in enumerate(block.W_O):
        change = chosen * (means.z[head] - layer.z[:, :, head]) @ written
        changed = block.attn_out_changed(layer.z.flatten(-2), change)
        yield "head", head, _resid_post(block, layer, layer.attn_out + changed)


def _resid_post(
    block: Block, layer: LayerActivations, attn_out: Float[Tensor, "prompt col d_model"]
) -> Float[Tensor, "prompt col d_model"]:
    """The residual stream after a layer whose attention output is replaced."""
    return layer.resid_pre + attn_out + block.mlp_out(layer.resid_pre, attn_out)


def _loss(network: Network, batch: Batch, resid: Float[Tensor, "prompt col d_model"]) -> float:
    """The summed loss over scored positions, from the residual stream after the last layer, aligned at the end."""
    prompts, positions, targets = batch.scored
    columns = positions + (resid.shape[1] - 1 - batch.end)[prompts]
    logits = network.logits(resid[prompts, columns])
    return functional.cross_entropy(logits, targets, reduction="sum").item()
