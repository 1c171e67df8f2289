"""Reads and writes scores of nodes and edges in the file format of the MIB track's evaluation.

The format is the JSON of `eap.graph.Graph.from_json` (github.com/hannamw/EAP-IG, checked November 2026): the model's
sizes as `cfg`; for each node, whether it is `in_graph` and, if nodes are scored, its `score`; for each edge, its
`score` and whether it is `in_graph`. The evaluation ranks by score and does not use
`in_graph`. It ignores unknown keys, so a key marks scores that are approximate.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mi_sweeps.errors import UserError
from mi_sweeps.graph import Graph

KEY = "model"
"""The metadata key under which a table describes its model."""


@dataclass(frozen=True)
class Circuit:
    """A graph with scores, members, or both."""

    graph: Graph
    d_model: int
    nodes: Mapping[str, float] = field(default_factory=dict)
    """Scores of nodes by name."""
    edges: Mapping[str, float] = field(default_factory=dict)
    """Scores of edges by name."""
    approximate: Collection[str] = ()
    """Edges whose score is an estimate."""
    members: Collection[str] | None = None
    """Names of the nodes and edges in the circuit; None if all are."""


def sizes_of(graph: Graph, d_model: int) -> dict[str, str]:
    """The metadata by which a table describes its model; `model_of` reads it."""
    sizes = {"n_heads": graph.n_heads, "parallel": graph.parallel, "has_mlps": graph.has_mlps, "d_model": d_model}
    return {KEY: json.dumps(sizes)}


def model_of(metadata: Mapping[bytes, bytes] | None) -> tuple[Graph, int] | None:
    """The graph and d_model of a table's model; None if the table does not describe it."""
    if KEY.encode() not in (metadata or {}):
        return None
    sizes = json.loads((metadata or {})[KEY.encode()])
    return Graph(sizes["n_heads"], tuple(sizes["parallel"]), sizes["has_mlps"]), sizes["d_model"]


def form(circuit: Circuit) -> dict[str, Any]:
    """The contents of the file.

    Raises:
        UserError: the format cannot represent the model.
    """
    graph = circuit.graph
    if len(set(graph.parallel)) > 1:
        raise UserError("export --circuits mib: layers of this model differ in what their MLPs read; MIB has one cfg")

    def member(name: str) -> dict[str, Any]:
        return {"in_graph": circuit.members is None or name in circuit.members}

    names = [*(node.name for node in graph.nodes), "logits"]
    nodes = {name: member(name) for name in names}
    for name, score in circuit.nodes.items():
        nodes[name]["score"] = score
    edges = {edge.name: {"score": circuit.edges.get(edge.name, 0.0), **member(edge.name)} for edge in graph.edges}
    for name in circuit.approximate:
        edges[name]["approximate"] = True
    sizes = {
        "n_layers": graph.n_layers,
        "n_heads": graph.n_heads,
        "parallel_attn_mlp": graph.parallel[0],
        "d_model": circuit.d_model,
    }
    return {"cfg": sizes, "nodes": nodes, "edges": edges}


def read(path: Path) -> Circuit:
    """Reads a file in the track's format.

    Raises:
        UserError: it is not in the format, or names parts that a model of its sizes does not have.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        sizes, nodes, edges = found["cfg"], found["nodes"], found["edges"]
        parallel = (bool(sizes["parallel_attn_mlp"]),) * int(sizes["n_layers"])
        graph, d_model = Graph(int(sizes["n_heads"]), parallel), int(sizes["d_model"])
        members = {name for part in (nodes, edges) for name, one in part.items() if one["in_graph"]}
        of_nodes, of_edges = (
            {name: float(one["score"]) for name, one in part.items() if "score" in one} for part in (nodes, edges)
        )
        approximate = {name for name, one in edges.items() if one.get("approximate")}
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not of the MIB track's form (cfg, nodes, edges): {error!r}") from None
    known = {"logits", *(node.name for node in graph.nodes)}, {edge.name for edge in graph.edges}
    for part, names in zip((nodes, edges), known, strict=True):
        if unknown := [name for name in part if name not in names]:
            raise UserError(
                f"{path}: {unknown[0]} is in no model of {graph.n_layers} layers and {graph.n_heads} heads; "
                "correct cfg or the name"
            )
    for name, score in (of_nodes | of_edges).items():
        if not math.isfinite(score):
            raise UserError(f"{path}: the score of {name} is {score}; leave out what has none")
    return Circuit(graph, d_model, of_nodes, of_edges, approximate, members)
