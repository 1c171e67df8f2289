"""Chooses the sets of nodes to ablate: circuits by rank, random sets to compare with, and parts removed from a circuit.

A set is a row of booleans over nodes (`mi_sweeps.circuits.ablated_sets.nodes_of`); true nodes are kept. Random draws
use a fixed seed, so the same circuit has the same random sets at every checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_sweeps.circuits.ablated_sets import Node
from mi_sweeps.errors import UserError

Set = Bool[Tensor, " node"]

BLOCK = 6
"""Number of consecutive prompts with one of each order of names; they stay together."""

DRAWN = 10
"""Number of random subsets that are removed from a circuit."""


def halves(count: int) -> tuple[Int[Tensor, " prompt"], Int[Tensor, " prompt"]]:
    """The prompts on which circuits are found, and those on which they are evaluated: alternating blocks.

    Raises:
        UserError: one half would be empty.
    """
    if count < 2:
        raise UserError(
            "patching.circuits: circuits are found on one half of the prompts and judged on the other, but there is "
            "only one prompt; give patching.prompts=48"
        )
    block = torch.arange(count) // (BLOCK if count >= 2 * BLOCK else 1)
    return (block % 2 == 0).nonzero()[:, 0], (block % 2 == 1).nonzero()[:, 0]


def name(node: Node) -> str:
    """A node's name in the MIB track: "a9.h9" is head 9.9, "m0" the MLP of layer 0."""
    layer, head = node
    return f"m{layer}" if head is None else f"a{layer}.h{head}"


def names(nodes: Sequence[Node], kept: Set) -> str:
    """The names of a set's members, separated by spaces."""
    return " ".join(name(node) for node, is_kept in zip(nodes, kept.tolist(), strict=True) if is_kept)


def named(nodes: Sequence[Node], members: Sequence[str]) -> Set:
    """The set with the named members.

    Raises:
        UserError: there is no such node.
    """
    index = {name(node): number for number, node in enumerate(nodes)}
    if unknown := [member for member in members if member not in index]:
        known = f"{name(nodes[0])} to {name(nodes[-1])}"
        raise UserError(f"patching.circuits.given: no node {unknown[0]} here ({known}); give a circuit of this model")
    kept = torch.zeros(len(nodes), dtype=torch.bool)
    kept[[index[member] for member in members]] = True
    return kept


def by_rank(effects: Float[Tensor, " node"], *, absolute: bool) -> Int[Tensor, " node"]:
    """The nodes in decreasing order of effect; ties keep their order."""
    return (effects.abs() if absolute else effects).sort(descending=True, stable=True).indices


def count_of(percent: float, n_nodes: int) -> int:
    """The number of nodes in a percentage, rounded down as in the MIB track: 5% of 16 are none."""
    return math.floor(percent * n_nodes / 100 + 1e-9)


def first_of(order: Int[Tensor, " node"], count: int) -> Set:
    """The set of the first `count` nodes."""
    kept = torch.zeros(len(order), dtype=torch.bool)
    kept[order[:count]] = True
    return kept


def random_sets(nodes: Sequence[Node], like: Set, count: int, *, by_layer: bool = True) -> Bool[Tensor, "set node"]:
    """Random sets of the same size as `like`.

    Args:
        by_layer: whether they also match its number of heads and MLPs in each layer.
    """
    random = torch.Generator().manual_seed(0)
    kept = torch.zeros(count, len(nodes), dtype=torch.bool)
    groups: dict[tuple[int, bool] | None, list[int]] = {}
    for number, (layer, head) in enumerate(nodes):
        groups.setdefault((layer, head is None) if by_layer else None, []).append(number)
    for group in map(torch.tensor, groups.values()):
        order = torch.rand(count, len(group), generator=random).argsort(dim=1)[:, : int(like[group].sum())]
        kept.scatter_(1, group[order], torch.ones_like(order, dtype=torch.bool))
    return kept


def subsets(nodes: Sequence[Node], circuit: Set) -> Iterator[tuple[str, Set]]:
    """The subsets to remove from both circuit and model, to see whether the effect is the same: nothing, the members of
    each layer, all heads, all MLPs, and random halves. Each set once."""
    layers = torch.tensor([layer for layer, _ in nodes])
    is_mlp = torch.tensor([head is None for _, head in nodes])
    found = {"none": torch.zeros_like(circuit)}
    found |= {f"layer {layer}": circuit & (layers == layer) for layer in layers.unique().tolist()}
    found |= {"heads": circuit & ~is_mlp, "mlps": circuit & is_mlp}
    found |= {f"random {number}": drawn for number, drawn in enumerate(_random_halves(circuit, DRAWN), start=1)}
    seen: list[Set] = []
    for label, removed in found.items():
        if not any(torch.equal(removed, other) for other in seen):
            seen.append(removed)
            yield label, removed


def without(nodes: Sequence[Node], circuit: Set, member: int) -> Iterator[tuple[str, Set]]:
    """The subsets to remove from a circuit before one of its members, to see whether that member is needed: nothing,
    the other members of its layer, all others of its kind, and random halves of the others."""
    others = circuit.clone()
    others[member] = False
    layer, head = nodes[member]
    yield "none", torch.zeros_like(circuit)
    yield "layer", others & torch.tensor([other == layer for other, _ in nodes])
    yield "kind", others & torch.tensor([(other is None) == (head is None) for _, other in nodes])
    for number, drawn in enumerate(_random_halves(others, 2), start=1):
        yield f"random {number}", drawn


def _random_halves(of: Set, count: int) -> Iterator[Set]:
    """Random subsets that contain each member with probability one half."""
    random = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield of & (torch.rand(len(of), generator=random) < 0.5)
