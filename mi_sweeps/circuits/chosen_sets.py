"""Which sets of nodes are ablated: circuits by rank, random ones to compare with, and what is taken out of a circuit.

A set is a row of booleans over nodes (`mi_sweeps.circuits.ablated_sets.nodes_of`): those that are kept. What is drawn
is drawn with a fixed seed, so the same circuit has the same random sets at every checkpoint.
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
"""Prompts that follow each other and have the orders of names, one each: they stay together."""

DRAWN = 10
"""Random subsets of a circuit that are taken out of it together."""


def halves(count: int) -> tuple[Int[Tensor, " prompt"], Int[Tensor, " prompt"]]:
    """The prompts on which circuits are found, and those on which they are judged: every second block.

    Raises:
        UserError: one of them would be empty.
    """
    if count < 2:
        raise UserError(
            "patching.circuits: circuits are found on one half of the prompts and judged on the other, and there is "
            "one prompt; give patching.prompts=48"
        )
    block = torch.arange(count) // (BLOCK if count >= 2 * BLOCK else 1)
    return (block % 2 == 0).nonzero()[:, 0], (block % 2 == 1).nonzero()[:, 0]


def name(node: Node) -> str:
    """As the MIB track names it: "a9.h9" is head 9.9, "m0" the MLP of layer 0."""
    layer, head = node
    return f"m{layer}" if head is None else f"a{layer}.h{head}"


def names(nodes: Sequence[Node], kept: Set) -> str:
    """The members of a set, with spaces between."""
    return " ".join(name(node) for node, is_kept in zip(nodes, kept.tolist(), strict=True) if is_kept)


def named(nodes: Sequence[Node], members: Sequence[str]) -> Set:
    """The set of some nodes by their names.

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
    """The nodes in order of their effects, the largest first; of equal ones the first."""
    return (effects.abs() if absolute else effects).sort(descending=True, stable=True).indices


def count_of(percent: float, n_nodes: int) -> int:
    """So many of the nodes, rounded down as the MIB track does: 5% of 16 are none."""
    return math.floor(percent * n_nodes / 100 + 1e-9)


def first_of(order: Int[Tensor, " node"], count: int) -> Set:
    """The set of the first so many."""
    kept = torch.zeros(len(order), dtype=torch.bool)
    kept[order[:count]] = True
    return kept


def random_sets(nodes: Sequence[Node], like: Set, count: int, *, by_layer: bool = True) -> Bool[Tensor, "set node"]:
    """Sets of as many nodes as the one that they are to be compared with.

    Args:
        by_layer: of as many heads and as many MLPs in each layer, too.
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
    """What is taken out of a circuit and of the model, to see whether the same is missing: nothing, the members of each
    layer, all heads, all MLPs, and random halves. Each set once."""
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
    """What is taken out of a circuit before one of its members is, to see whether that one is missed: nothing, the
    other members of its layer, all others of its kind, and random halves of the others."""
    others = circuit.clone()
    others[member] = False
    layer, head = nodes[member]
    yield "none", torch.zeros_like(circuit)
    yield "layer", others & torch.tensor([other == layer for other, _ in nodes])
    yield "kind", others & torch.tensor([(other is None) == (head is None) for _, other in nodes])
    for number, drawn in enumerate(_random_halves(others, 2), start=1):
        yield f"random {number}", drawn


def _random_halves(of: Set, count: int) -> Iterator[Set]:
    """Each member with a chance of one half."""
    random = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield of & (torch.rand(len(of), generator=random) < 0.5)
