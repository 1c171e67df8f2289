"""Puts pieces of one network into another: activations of every component, weights of every component, and Shapley
values of the parts' weights (`mi_sweeps.circuits.cross` explains what for).

Prompts of one length are processed together, so that every column is a token and a change can reach all of them.
Changes are propagated from the layer where they enter (`mi_sweeps.circuits.propagate`); nothing before it is computed
again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from mi_sweeps.circuits.activations import LayerActivations, align, each_layer, embed, forward
from mi_sweeps.circuits.fast import budget
from mi_sweeps.circuits.mixed import Piece, mix, mix_block, mix_positional
from mi_sweeps.circuits.network import Block, Network
from mi_sweeps.circuits.packed import pack
from mi_sweeps.circuits.paired_runs import in_groups
from mi_sweeps.circuits.propagate import CachedRun, Change, Group, Stage, propagate
from mi_sweeps.circuits.readout import read_out
from mi_sweeps.circuits.shapley import Mixing, marginals, standard_error
from mi_sweeps.errors import UserError
from mi_sweeps.tasks.pairs import Pairs
from mi_sweeps.training.evaluate import tolerance

Component = tuple[str, str, int | None, int | None]
"""Kind, component, layer, head."""


@dataclass(frozen=True)
class CrossedRuns:
    """Logit differences of every prompt with pieces of one network in another."""

    into: Float[Tensor, " prompt"]
    source: Float[Tensor, " prompt"]
    components: list[Component]
    mixed: Float[Tensor, "component prompt"]
    """For kind `shapley`, the logit difference of `into` plus the component's share of the difference."""
    error: list[float | None]
    """The standard error of the mean of `mixed` due to random orders, for each component; None if there are none."""


@torch.no_grad()
def cross(
    into: Network, source: Network, pairs: Pairs, kinds: Sequence[str], permutations: int, memory: int
) -> CrossedRuns:
    """Puts every component of `source` into `into`.

    Args:
        pairs: only the clean prompts are used.
        kinds: some of activation, weights, shapley.
        permutations: number of orders for Shapley values; even.
        memory: approximate limit for activations, in bytes. Does not change results.

    Raises:
        UserError: `into` with all weights of `source` does not compute what `source` does.
    """
    packed = pack(into)
    rows, found = [], []
    for length in pairs.clean.end.unique().tolist():
        same = (pairs.clean.end == length).nonzero()[:, 0].tolist()
        of_length = pairs.select(same)
        prompts, tokens = budget(into, of_length, memory)
        rows += same
        found += [
            _cross(into, packed, source, part, kinds, permutations, tokens) for part in in_groups(of_length, prompts)
        ]
    order = torch.tensor(rows).argsort()
    components = found[0].run.components
    mixed = torch.cat([one.run.mixed for one in found], dim=1)[:, order]
    drawn = torch.cat([one.drawn for one in found], dim=2)
    errors = standard_error(drawn).tolist() if "shapley" in kinds else []
    nothing: list[float | None] = [None] * (len(components) - len(errors))
    return CrossedRuns(
        torch.cat([one.run.into for one in found])[order],
        torch.cat([one.run.source for one in found])[order],
        components,
        mixed,
        nothing + [None if error != error else error for error in errors],
    )


@dataclass(frozen=True)
class _Part:
    """The results for some prompts."""

    run: CrossedRuns
    drawn: Float[Tensor, "pair part prompt"]


def _cross(
    into: Network,
    packed: Network,
    source: Network,
    pairs: Pairs,
    kinds: Sequence[str],
    permutations: int,
    tokens: int,
) -> _Part:
    """The results for prompts of one length that fit in memory together."""
    layout = align(into, pairs.clean.end)
    layers, resid = forward(into, embed(into, pairs.clean, layout), layout)
    other_layout = align(source, pairs.clean.end)
    others, other_resid = forward(source, embed(source, pairs.clean, other_layout), other_layout)
    run = CachedRun(packed, layout, layers, read_out(into, pairs))
    n_prompts, width = layout.positions.shape
    every = torch.arange(n_prompts, device=resid.device)
    at = _At(run, into, others, source, pairs, Group(every, width), Group(every, 1))

    own = run.read_out(resid[:, -1], slice(None))
    there = read_out(source, pairs)(other_resid[:, -1], slice(None))
    walk = Mixing(into, source, pairs, layout, [layer.resid_pre for layer in layers] + [resid])
    _check(walk(range(len(walk.parts)))[-1], there, source.logits(other_resid[:, -1]), pairs)

    sought = [
        *(_activations(at) if "activation" in kinds else ()),
        *(_weights(at) if "weights" in kinds else ()),
    ]
    components = [component for one in sought for component in one.components]
    results = own.repeat(len(components))
    index = torch.arange(len(results), device=resid.device).view(len(components), n_prompts)
    sizes = [len(one.components) for one in sought]
    changes = [
        Change(one.layer, one.stage, one.group, place.T, one.resid)
        for one, place in zip(sought, index.split(sizes), strict=True)
    ]
    if changes:
        propagate(run, changes, results, tokens)
    mixed = [results[index]]
    if "weights" in kinds:
        read = [
            ("unembed", mix(into, source, [("unembed", None)])),
            ("norm", replace(into, final_norm=source.final_norm)),
        ]
        components += [("weights", name, None, None) for name, _ in read]
        mixed += [read_out(network, pairs)(resid[:, -1], slice(None))[None] for _, network in read]
    drawn = own.new_zeros((0, 0, n_prompts))
    if "shapley" in kinds:
        drawn = marginals(walk, len(walk.parts), permutations)
        components += [("shapley", name, layer, None) for name, layer in walk.parts]
        mixed.append((own + drawn.mean(dim=0)).float())
    values = [own, there, torch.cat(mixed)]
    return _Part(CrossedRuns(values[0].cpu(), values[1].cpu(), components, values[2].cpu(), []), drawn.cpu())


def _check(
    mixed: Float[Tensor, " prompt"],
    there: Float[Tensor, " prompt"],
    logits: Float[Tensor, "prompt d_vocab"],
    pairs: Pairs,
) -> None:
    """Checks that all parts together are the whole model."""
    error = (mixed - there).abs().max().item()
    limit = tolerance(logits) * pairs.contrast.weights.abs().sum(dim=1).max().item()
    if not error <= limit:
        raise UserError(
            f"patching.cross: a checkpoint with all weights of another differs from it by {error:.1e} in its logit "
            f"differences (more than {limit:.0e}), so parts of this architecture are not supported; use "
            "patching.cross=null"
        )


@dataclass(frozen=True)
class _EnteringComponents:
    """Components that enter at the same layer, and the stream with each of them changed."""

    components: list[Component]
    layer: int
    stage: Stage
    group: Group
    resid: Callable[[slice], Float[Tensor, "prompt change col d_model"]]


@dataclass(frozen=True)
class _At:
    """The runs of both networks on some prompts of one length."""

    run: CachedRun
    into: Network
    """The network, not packed."""
    others: Sequence[LayerActivations]
    """The activations of `source`."""
    source: Network
    pairs: Pairs
    whole: Group
    """All columns."""
    end: Group
    """The last column: nothing else in the last layer is read."""

    def group(self, layer: int) -> Group:
        """The columns of a layer that are read."""
        return self.end if layer == len(self.others) - 1 else self.whole


def _activations(at: _At) -> Iterator[_EnteringComponents]:
    embedded = at.others[0].resid_pre
    yield _EnteringComponents([("activation", "embed", None, None)], 0, "pre", at.whole, lambda _: embedded[:, None])
    for layer, own in enumerate(at.run.layers):
        enters, stage, _ = at.run.after_attention(layer)
        group = at.group(layer)
        yield _EnteringComponents(
            [("activation", "attn", layer, None)], enters, stage, group, partial(_attention, at, layer)
        )
        heads: list[Component] = [("activation", "head", layer, head) for head in range(own.z.shape[2])]
        yield _EnteringComponents(heads, enters, stage, group, partial(_heads, at, layer))
        if at.into.has_mlps:
            yield _EnteringComponents(
                [("activation", "mlp", layer, None)], layer + 1, "pre", group, partial(_mlp, at, layer)
            )


def _attention(at: _At, layer: int, chosen: slice) -> Float[Tensor, "prompt 1 col d_model"]:
    """The stream after attention, with attention's output from `source`."""
    _, _, beside = at.run.after_attention(layer)
    return (beside + at.others[layer].attn_out)[:, None, -at.group(layer).span :]


def _mlp(at: _At, layer: int, chosen: slice) -> Float[Tensor, "prompt 1 col d_model"]:
    """The stream after a layer, with its MLP's output from `source`."""
    return (at.run.layers[layer].resid_mid + at.others[layer].mlp_out)[:, None, -at.group(layer).span :]


def _heads(at: _At, layer: int, chosen: slice) -> Float[Tensor, "prompt change col d_model"]:
    """The stream after attention, with z of some heads from `source`."""
    group = at.group(layer)
    change = (at.others[layer].z - at.run.layers[layer].z)[:, -group.span :, chosen]
    written = torch.einsum("pchd,hdm->phcm", change, at.into.blocks[layer].W_O[chosen])
    return at.run.with_heads_changed(layer, group.prompts, written)


def _weights(at: _At) -> Iterator[_EnteringComponents]:
    networks = {"embed": mix(at.into, at.source, [("embed", None)])}
    if at.into.positional is not None:
        networks["positional"] = mix_positional(at.into, at.source)
    for name, network in networks.items():
        yield _EnteringComponents([("weights", name, None, None)], 0, "pre", at.whole, partial(_embedded, at, network))
    for layer, block in enumerate(at.into.blocks):
        pieces = list(_pieces(block, has_mlps=at.into.has_mlps))
        components: list[Component] = [("weights", piece, layer, head) for piece, head in pieces]
        yield _EnteringComponents(components, layer + 1, "pre", at.group(layer), partial(_mixed, at, layer, pieces))


def _embedded(at: _At, network: Network, chosen: slice) -> Float[Tensor, "prompt 1 col d_model"]:
    """The stream before the first layer of another network."""
    return embed(network, at.pairs.clean, at.run.layout)[:, None]


def _pieces(block: Block, *, has_mlps: bool) -> Iterator[tuple[Piece, int | None]]:
    """Yields the pieces of a block that are replaced, with the head if the piece has one."""
    yield "attn", None
    if has_mlps:
        yield "mlp", None
    if block.attention_norm or block.mlp_norm or block.attention_post_norm:
        yield "norm", None
    for head in range(block.n_heads):
        yield "head", head
        yield "q", head
        yield "o", head
    for head in range(block.n_kv_heads):
        yield "k", head
        yield "v", head


def _mixed(
    at: _At, layer: int, pieces: Sequence[tuple[Piece, int | None]], chosen: slice
) -> Float[Tensor, "prompt change col d_model"]:
    """The stream after a layer, with the weights of some of its pieces from `source`."""
    span = at.group(layer).span
    found = [_after(at, layer, piece, head)[:, -span:] for piece, head in pieces[chosen]]
    return torch.stack(found, dim=1)


def _after(at: _At, layer: int, piece: Piece, head: int | None) -> Float[Tensor, "prompt col d_model"]:
    own = at.run.layers[layer]
    block = mix_block(at.into.blocks[layer], at.source.blocks[layer], piece, head)
    (changed,) = each_layer([block], own.resid_pre, at.run.layout)
    if piece != "head" or block.n_kv_heads == block.n_heads:
        return changed.resid_post
    # The other heads that use these keys and values keep their own.
    z = own.z.clone()
    z[:, :, head] = changed.z[:, :, head]
    attn_out = block.attn_out(z.flatten(-2))
    return own.resid_pre + attn_out + block.mlp_out(own.resid_pre, attn_out)
