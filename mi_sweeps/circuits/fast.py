"""The fast engine: exact activation patching that computes only what a patch can change (see `propagate`).

Every patch becomes a change of the corrupted run's residual stream. A patch of resid_pre, attn_out or mlp_out changes
one column. A patch of a head changes its output z, and so the output of attention by (change of z) W_O, at every column
from the first that differs between clean and corrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mi_sweeps.circuits.activations import LayerActivations, align, attention_pattern, embed, forward, weigh
from mi_sweeps.circuits.attribution import EndActivations, Heads, constant_z
from mi_sweeps.circuits.engine import POSITION_SITES, Patched, by_role
from mi_sweeps.circuits.network import Block, Linear, Network
from mi_sweeps.circuits.packed import pack
from mi_sweeps.circuits.paired_runs import PairedRuns, in_groups, run_both
from mi_sweeps.circuits.propagate import CachedRun, Change, Group, Stage, propagate
from mi_sweeps.config import PatchingConfig, Site
from mi_sweeps.tasks.pairs import Pairs
from mi_sweeps.tasks.roles import role_order

MEMORY = 512 << 20
"""Default memory for activations, in bytes."""


class FastEngine:
    """Patches a network that `families.describe` has described.

    Args:
        memory: approximate limit for activations, in bytes; a single prompt may exceed it. Does not change results.
    """

    def __init__(self, network: Network, memory: int = MEMORY) -> None:
        self.network = network
        self.memory = memory

    @torch.no_grad()
    def patch(self, pairs: Pairs, patching: PatchingConfig) -> Patched:
        """See `mi_sweeps.circuits.engine.Engine`."""
        roles = role_order(pairs.clean)
        prompts, tokens = budget(self.network, pairs, self.memory)
        network = pack(self.network)
        parts = [_patch(network, part, patching, roles, tokens) for part in in_groups(pairs, prompts)]
        return Patched.join(parts)

    @torch.no_grad()
    def at_end(self, pairs: Pairs) -> EndActivations:
        """See `mi_sweeps.circuits.engine.Engine`."""
        prompts, _ = budget(self.network, pairs, self.memory)
        return EndActivations.join([_at_end(self.network, part) for part in in_groups(pairs, prompts)])


def budget(network: Network, pairs: Pairs, memory: int, nodes: int = 0) -> tuple[int, int]:
    """How many prompts, and how many of their columns in flight, take about `memory` bytes.

    Half is for the two runs of the prompts, half for the changes in flight.

    Args:
        nodes: number of nodes whose full output is kept in addition to the runs.
    """
    block = network.blocks[0]
    d_model, width = network.final_norm.weight.shape[0], pairs.clean.tokens.shape[1]
    d_heads = block.combine.weight.shape[0]
    scores = block.n_heads * width
    # In each layer, five activations are as wide as the residual stream and four are at most as wide as all heads;
    # head sites keep the change of z.
    run = 4 * width * len(network.blocks) * (2 * (5 * d_model + 4 * d_heads + scores) + 5 * d_heads)
    run += 4 * width * nodes * d_model
    # A column in flight: the stream before, after and normalised; q, k, v and z, some of them copied; scores.
    column = 4 * (6 * d_model + 8 * d_heads + 3 * scores)
    return max(1, memory // 2 // run), max(1, memory // 2 // column)


def memory(patching: PatchingConfig, device: torch.device) -> int:
    """The memory for activations, in bytes."""
    if patching.memory is not None:
        return patching.memory * 1_000_000
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else MEMORY


def _at_end(network: Network, pairs: Pairs) -> EndActivations:
    layout = align(network, pairs.clean.end)
    layers, resid = forward(network, embed(network, pairs.clean, layout), layout)
    blocks = network.blocks
    ends = {
        name: torch.stack([getattr(layer, name)[:, -1] for layer in layers])
        for name in ("resid_pre", "resid_mid", "attn_out", "mlp_out")
        # A parallel block has no residual stream between attention and MLP.
        if name != "resid_mid" or not any(block.parallel for block in blocks)
    }
    norm, unembed, factor = network.final_norm, network.unembed, network.scaling.factor
    if factor != 1.0:
        unembed = Linear(unembed.weight * factor, None if unembed.bias is None else unembed.bias * factor)
    return EndActivations(
        resid_mid=ends.pop("resid_mid", None),
        **ends,
        heads=_heads(blocks, torch.stack([layer.z[:, -1] for layer in layers])),
        resid=resid[:, -1],
        scale=norm.scale(resid[:, -1]),
        norm=norm,
        unembed=unembed,
        cap=network.scaling.cap,
    )


def _heads(blocks: Sequence[Block], z: Float[Tensor, "layer prompt head d_head"]) -> Heads:
    biases = [block.combine.bias for block in blocks if block.combine.bias is not None]
    scales = [_scale(block, of_layer) for block, of_layer in zip(blocks, z, strict=True)]
    return Heads(
        z=z,
        W_O=torch.stack([block.W_O for block in blocks]),
        b_O=torch.stack(biases) if biases else None,
        constant_z=torch.stack(
            [
                constant_z(
                    block.n_heads, block.n_kv_heads, block.value, block.attention_norm and block.attention_norm.bias
                )
                for block in blocks
            ]
        ),
        scale=torch.stack(scales) if any(block.rescales for block in blocks) else None,
    )


def _scale(block: Block, z: Float[Tensor, "prompt head d_head"]) -> Float[Tensor, "prompt d_model"]:
    """The factor on the heads' sum before it is added to the residual stream, with the scale of any norm fixed."""
    written, norm = block.combine(z.flatten(-2)), block.attention_post_norm
    scale = torch.ones_like(written) if norm is None else norm.gain / norm.scale(written)
    return scale * block.multiplier


def _patch(network: Network, pairs: Pairs, patching: PatchingConfig, roles: list[str], tokens: int) -> Patched:
    """All sites for prompts that fit in memory together."""
    runs = run_both(network, pairs)
    n_prompts, width = runs.differs.shape
    n_layers = len(network.blocks)
    places = {site: width if site in POSITION_SITES else n_places(network.blocks[0], site) for site in patching.sites}
    # Where no change reaches the answer, the value stays that of the corrupted run.
    results = runs.corrupted_logit_diff.repeat(n_layers * sum(places.values()))
    index = torch.arange(len(results), device=results.device).split(
        [n_layers * count * n_prompts for count in places.values()]
    )
    indices = {
        site: part.view(n_layers, count, n_prompts) for (site, count), part in zip(places.items(), index, strict=True)
    }
    changes = [
        change
        for site in patching.sites
        for change in (
            _position_changes(site, runs, indices[site])
            if site in POSITION_SITES
            else _head_changes(site, runs, indices[site], at_end=patching.heads == "end")
        )
    ]
    propagate(runs.corrupted, changes, results, tokens)
    values = {site: results[indices[site]] for site in patching.sites}
    for site in places.keys() & set(POSITION_SITES):
        values[site] = by_role(values[site], pairs, roles)
    return Patched(
        runs.clean_logit_diff.cpu(),
        runs.corrupted_logit_diff.cpu(),
        {site: value.cpu() for site, value in values.items()},
        roles,
    )


def n_places(block: Block, site: str) -> int:
    """The number of heads at a head site: key/value heads for k and v."""
    return block.n_kv_heads if site in ("k", "v") else block.n_heads


def _position_changes(site: Site, runs: PairedRuns, results: Int[Tensor, "layer col prompt"]) -> Iterator[Change]:
    """Patches of one column."""
    n_layers, width, _ = results.shape
    for layer in range(n_layers):
        clean, corrupted = runs.clean[layer], runs.corrupted.layers[layer]
        enters: int
        stage: Stage
        enters, stage = layer, "pre"
        if site == "resid_pre":
            resid = clean.resid_pre
        elif site == "attn_out":
            enters, stage, others = runs.corrupted.after_attention(layer)
            resid = others + clean.attn_out
        elif site == "mlp_out":
            enters, resid = layer + 1, corrupted.resid_mid + clean.mlp_out
        else:
            raise ValueError(f"the fast engine does not know how a patch of {site} changes the residual stream")
        # Where an activation is the same in both runs (before the first layer, at all tokens but the corrupted ones),
        # the result is the corrupted run's.
        differs = (getattr(clean, site) != getattr(corrupted, site)).any(dim=-1)
        for span, group in runs.reached.items():
            column = width - span
            if not differs[group.prompts, column].any():
                continue
            if site != "resid_pre" and layer == n_layers - 1 and span > 1:
                continue  # nothing after this layer reads this column
            yield Change(
                enters,
                stage,
                group,
                results[layer, column, group.prompts, None],
                partial(_column, resid, group, column),
            )


def _column(resid: Tensor, group: Group, column: int, chosen: slice) -> Float[Tensor, "prompt 1 1 d_model"]:
    """One column of the stream, for the only change."""
    return resid[group.prompts, None, column : column + 1]


def _head_changes(
    site: Site, runs: PairedRuns, results: Int[Tensor, "layer head prompt"], *, at_end: bool
) -> Iterator[Change]:
    """Patches of one head, or of one key/value head and so of all heads that use it."""
    run = runs.corrupted
    for layer in range(len(results)):
        block = run.network.blocks[layer]
        corrupted = run.layers[layer]
        if torch.equal(getattr(runs.clean[layer], site), getattr(corrupted, site)):
            continue
        clean = _last_column(runs.clean[layer], corrupted) if at_end else runs.clean[layer]
        change_of_z = cache(partial(head_change, site, clean, corrupted, block, run.layout.mask))
        enters, stage, _ = run.after_attention(layer)
        # After the last layer's attention, only the last column is read.
        one_column = at_end or layer == len(results) - 1
        for group in list(runs.reached.values())[:1] if one_column else runs.starting.values():
            yield Change(
                enters,
                stage,
                group,
                results[layer][:, group.prompts].T,
                partial(_written, change_of_z, run, layer, group, results.shape[1]),
            )


def _last_column(clean: LayerActivations, corrupted: LayerActivations) -> LayerActivations:
    """The clean activations, but with corrupted keys and values except in the last column."""
    k, v = (torch.cat([getattr(corrupted, name)[:, :-1], getattr(clean, name)[:, -1:]], dim=1) for name in ("k", "v"))
    return replace(clean, k=k, v=v)


def head_change(
    site: Site, clean: LayerActivations, corrupted: LayerActivations, block: Block, mask: Tensor
) -> Float[Tensor, "prompt col head d_head"]:
    """The change in z of each head if that head's q, k, v, pattern or z is the clean run's."""
    if site == "z":
        return clean.z - corrupted.z
    if site == "v":
        return weigh(corrupted.pattern, clean.v - corrupted.v)
    if site == "pattern":
        pattern = clean.pattern
    elif site == "q":
        pattern = attention_pattern(block, clean.q, corrupted.k, mask)
    elif site == "k":
        pattern = attention_pattern(block, corrupted.q, clean.k, mask)
    else:
        raise ValueError(f"the fast engine does not know how a patch of {site} changes z")
    return weigh(pattern - corrupted.pattern, corrupted.v)


def _written(
    change_of_z: Callable[[], Tensor], run: CachedRun, layer: int, group: Group, places: int, chosen: slice
) -> Float[Tensor, "prompt change col d_model"]:
    """The stream after attention with the outputs of some heads, or groups of heads, changed."""
    heads = change_of_z()[group.prompts, -group.span :].unflatten(2, (places, -1))[:, :, chosen].flatten(3)
    weights = run.network.blocks[layer].W_O.unflatten(0, (places, -1))[chosen].flatten(1, 2)
    return run.with_heads_changed(layer, group.prompts, torch.einsum("pchd,hdm->phcm", heads, weights))
