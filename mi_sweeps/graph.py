"""A model as a graph: nodes write to the residual stream, and inputs read what was written before.

Nodes are the embedding, each head and each MLP. Inputs are each head's queries, keys and values, each MLP, and the
logits (the final norm). An edge connects a node to a later input. Under grouped-query attention, each head here has its
own keys and values, as that head alone sees them. So GPT-2-small has 157 nodes and 32,491 edges, as in ACDC (Conmy et
al. 2023, arXiv:2304.14997), auto-circuit and the MIB track, whose names for nodes and edges are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

Kind = Literal["embed", "head", "mlp"]
Input = Literal["q", "k", "v", "mlp", "logits"]


@dataclass(frozen=True)
class Node:
    """A part of the model that writes to the residual stream."""

    kind: Kind
    layer: int | None = None
    head: int | None = None

    @property
    def name(self) -> str:
        """The name in the MIB track."""
        return {"embed": "input", "head": f"a{self.layer}.h{self.head}", "mlp": f"m{self.layer}"}[self.kind]


@dataclass(frozen=True)
class Receiver:
    """One input: a part that reads the residual stream."""

    input: Input
    layer: int | None = None
    """None for the logits."""
    head: int | None = None
    """None for an MLP and the logits."""

    @property
    def name(self) -> str:
        """The name in the MIB track, which includes which of a head's inputs it is."""
        if self.head is not None:
            return f"a{self.layer}.h{self.head}<{self.input}>"
        return "logits" if self.layer is None else f"m{self.layer}"

    @property
    def node(self) -> str:
        """The name of the node that this is an input of."""
        return self.name.partition("<")[0]


@dataclass(frozen=True)
class Edge:
    """The connection from one node to one input."""

    source: Node
    receiver: Receiver

    @property
    def name(self) -> str:
        """The name in the MIB track."""
        return f"{self.source.name}->{self.receiver.name}"


@dataclass(frozen=True)
class Graph:
    """All nodes and edges of a model."""

    n_heads: int
    parallel: tuple[bool, ...]
    """For each layer, whether the MLP reads what attention reads."""
    has_mlps: bool = True

    @property
    def n_layers(self) -> int:
        return len(self.parallel)

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes, in the order in which they write."""
        found = [Node("embed")]
        for layer in range(self.n_layers):
            found += [Node("head", layer, head) for head in range(self.n_heads)]
            found += [Node("mlp", layer)] if self.has_mlps else []
        return tuple(found)

    @cached_property
    def receivers(self) -> tuple[Receiver, ...]:
        """All inputs, in the order in which they read."""
        found = []
        for layer in range(self.n_layers):
            found += [Receiver(into, layer, head) for into in get_args(Input)[:3] for head in range(self.n_heads)]
            found += [Receiver("mlp", layer)] if self.has_mlps else []
        return (*found, Receiver("logits"))

    def reads(self, receiver: Receiver) -> int:
        """The number of nodes, counted from the first, that an input reads."""
        if receiver.layer is None:
            return len(self.nodes)
        before = 1 + receiver.layer * (self.n_heads + self.has_mlps)
        own = receiver.input == "mlp" and not self.parallel[receiver.layer]
        return before + self.n_heads if own else before

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """All edges, input by input."""
        return tuple(Edge(node, one) for one in self.receivers for node in self.nodes[: self.reads(one)])
