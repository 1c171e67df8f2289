"""A model as a graph: which parts write to the residual stream, and which inputs read what was written before.

Nodes write: the embedding, each head, each MLP. What reads is one input each: a head's queries, keys and values, an
MLP, and the logits (the last normalisation). An edge is a node and an input that comes after it. Under grouped-query
attention each head has keys and values of its own here, as that head alone sees them. So GPT-2-small has 157 nodes
that write and 32,491 edges, as in ACDC (Conmy et al. 2023, arXiv:2304.14997), auto-circuit and the MIB track, whose
names of nodes and edges these are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from mi_sweeps.circuits.network import Network

Kind = Literal["embed", "head", "mlp"]
Input = Literal["q", "k", "v", "mlp", "logits"]


@dataclass(frozen=True)
class Node:
    """What writes to the residual stream."""

    kind: Kind
    layer: int | None = None
    head: int | None = None

    @property
    def name(self) -> str:
        """As the MIB track calls it."""
        return {"embed": "input", "head": f"a{self.layer}.h{self.head}", "mlp": f"m{self.layer}"}[self.kind]


@dataclass(frozen=True)
class Receiver:
    """What reads the residual stream: one input."""

    input: Input
    layer: int | None = None
    """None for the logits."""
    head: int | None = None
    """None for an MLP and the logits."""

    @property
    def name(self) -> str:
        """As the MIB track calls it, with the input where a head has several."""
        if self.head is not None:
            return f"a{self.layer}.h{self.head}<{self.input}>"
        return "logits" if self.layer is None else f"m{self.layer}"

    @property
    def node(self) -> str:
        """The name of the node that it is an input of."""
        return self.name.partition("<")[0]


@dataclass(frozen=True)
class Edge:
    """What one input reads of one node."""

    source: Node
    receiver: Receiver

    @property
    def name(self) -> str:
        """As the MIB track calls it."""
        return f"{self.source.name}->{self.receiver.name}"


@dataclass(frozen=True)
class Graph:
    """All nodes and edges of a model."""

    n_heads: int
    parallel: tuple[bool, ...]
    """For each layer whether the MLP reads what attention reads."""
    has_mlps: bool = True

    @classmethod
    def of(cls, network: Network) -> Graph:
        """A described model's."""
        blocks = network.blocks
        return cls(blocks[0].n_heads, tuple(block.parallel for block in blocks), network.has_mlps)

    @property
    def n_layers(self) -> int:
        return len(self.parallel)

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """In the order in which they write."""
        found = [Node("embed")]
        for layer in range(self.n_layers):
            found += [Node("head", layer, head) for head in range(self.n_heads)]
            found += [Node("mlp", layer)] if self.has_mlps else []
        return tuple(found)

    @cached_property
    def receivers(self) -> tuple[Receiver, ...]:
        """In the order in which they read."""
        found = []
        for layer in range(self.n_layers):
            found += [Receiver(into, layer, head) for into in get_args(Input)[:3] for head in range(self.n_heads)]
            found += [Receiver("mlp", layer)] if self.has_mlps else []
        return (*found, Receiver("logits"))

    def reads(self, receiver: Receiver) -> int:
        """How many of `nodes`, the first ones, an input reads."""
        if receiver.layer is None:
            return len(self.nodes)
        before = 1 + receiver.layer * (self.n_heads + self.has_mlps)
        own = receiver.input == "mlp" and not self.parallel[receiver.layer]
        return before + self.n_heads if own else before

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """Input by input."""
        return tuple(Edge(node, one) for one in self.receivers for node in self.nodes[: self.reads(one)])
