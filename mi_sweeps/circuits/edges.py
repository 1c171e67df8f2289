"""Patches every edge of a model's graph exactly, one at a time, for each prompt.

An edge connects the output of one node to one input (`mi_sweeps.graph`). Its effect is the logit difference of
the corrupted run with that edge taken from the clean run (`mi_sweeps.circuits.direct`), minus the corrupted run's. In
larger models, the edges that integrated gradients rank highest are patched (`mi_sweeps.circuits.gradients`), and a
random sample of the others, which bounds what was missed (`mi_sweeps.analysis.edges`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from mi_sweeps.circuits.chosen_sets import by_rank, count_of, first_of, halves
from mi_sweeps.circuits.direct import Reader, patch_direct
from mi_sweeps.circuits.fast import MEMORY, budget
from mi_sweeps.circuits.gradients import integrated
from mi_sweeps.circuits.looks import lists
from mi_sweeps.circuits.network import Network
from mi_sweeps.circuits.packed import pack
from mi_sweeps.circuits.paired_runs import in_groups, run_both
from mi_sweeps.circuits.sets import evaluate
from mi_sweeps.circuits.tables import TABLES
from mi_sweeps.circuits.view import View
from mi_sweeps.config.edges import EdgesConfig
from mi_sweeps.graph import Edge, Graph, Receiver
from mi_sweeps.store.mib import sizes_of
from mi_sweeps.tasks.pairs import Pairs

log = logging.getLogger(__name__)

SIZES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
"""Percentages of the edges that are kept, as in the MIB track."""
ORDERS = ("signed", "absolute")
"""Edges are ranked by effect, or by its size; the MIB track uses the first for CPR and the second for CMD."""
ENDS = ("clean", "corrupted")


@dataclass(frozen=True)
class Edges:
    """Logit differences with edges patched, and which edges were patched."""

    graph: Graph
    clean: Float[Tensor, " prompt"]
    corrupted: Float[Tensor, " prompt"]
    patched: Float[Tensor, "edge prompt"]
    """NaN for an edge that was not patched."""
    approximate: Float[Tensor, "edge prompt"]
    """The same by integrated gradients, for every edge."""
    chosen: tuple[str, ...]
    """Why each edge was patched: `all` are, it is among the `top`, or in the `sample` of the others; `rest` if it was
    not."""


def measure(network: Network, pairs: Pairs, edges: EdgesConfig, memory: int = MEMORY) -> Edges:
    """Patches all edges, or those requested.

    Args:
        memory: see `mi_sweeps.circuits.fast.FastEngine`.
    """
    graph = network.graph
    approximate = integrated(network, pairs, graph, edges.ig_steps, memory)
    effects = (approximate.values - approximate.corrupted).mean(dim=1).abs()
    chosen = choose(effects.cpu().numpy(), edges)
    wanted = [index for index, why in enumerate(chosen) if why != "rest"]
    clean, corrupted, values = patch_edges(network, pairs, [graph.edges[index] for index in wanted], memory)
    patched = torch.full_like(approximate.values, torch.nan)
    patched[wanted] = values
    return Edges(graph, clean, corrupted, patched, approximate.values, chosen)


def choose(ranked_by: np.ndarray, edges: EdgesConfig) -> tuple[str, ...]:
    """Chooses the edges to patch, with the reason for each; the sample is always the same.

    Args:
        ranked_by: the size of each edge's approximate effect.
    """
    if edges.exact == "all":
        return ("all",) * len(ranked_by)
    order = np.argsort(-ranked_by, kind="stable")
    top, rest = order[: edges.exact], order[edges.exact :]
    sample = np.random.default_rng(0).choice(rest, min(edges.sample, len(rest)), replace=False)
    chosen = np.full(len(order), "rest", dtype=object)
    chosen[top], chosen[sample] = "top", "sample"
    return tuple(chosen)


@torch.no_grad()
def patch_edges(
    network: Network, pairs: Pairs, edges: Sequence[Edge], memory: int = MEMORY
) -> tuple[Float[Tensor, " prompt"], Float[Tensor, " prompt"], Float[Tensor, "edge prompt"]]:
    """Logit differences of the clean and the corrupted run, and with each edge patched alone."""
    graph = network.graph
    place = {node: index for index, node in enumerate(graph.nodes)}
    rows: dict[Receiver, list[int]] = {}
    for row, edge in enumerate(edges):
        rows.setdefault(edge.receiver, []).append(row)
    readers = [
        Reader(
            receiver.input,
            graph.n_layers if receiver.layer is None else receiver.layer,
            range(0) if receiver.head is None else range(receiver.head, receiver.head + 1),
            [place[edges[row].source] for row in some],
        )
        for receiver, some in rows.items()
    ]
    order = torch.tensor([row for some in rows.values() for row in some], dtype=torch.long)
    prompts, tokens = budget(network, pairs, memory, nodes=len(graph.nodes))
    network = pack(network)
    parts = []
    for part in in_groups(pairs, prompts):
        runs = run_both(network, part)
        found = patch_direct(runs, readers, graph.nodes, "recomputed", tokens).cpu()
        values = torch.empty_like(found)
        values[order] = found
        parts.append((runs.clean_logit_diff.cpu(), runs.corrupted_logit_diff.cpu(), values))
    clean, corrupted, values = (torch.cat(part, dim=-1) for part in zip(*parts, strict=True))
    return clean, corrupted, values


def table(view: View) -> pa.Table:
    """One row per edge, with means over prompts and, if the edge was patched, each prompt's value; and one row per set
    of top-ranked edges, run as a circuit (`mi_sweeps.circuits.sets`)."""
    assert view.patching.edges
    found = measure(view.network, view.pairs, view.patching.edges, view.memory)
    sources, receivers = zip(*[(edge.source, edge.receiver) for edge in found.graph.edges], strict=True)
    patched, approximate = (values.double().numpy() for values in (found.patched, found.approximate))
    there = ~np.isnan(patched).any(axis=1)
    # The list is missing if the edge was not patched.
    rows = pa.array(np.where(there, np.cumsum(there) - 1, 0), mask=~there)
    columns = {
        "kind": ["edge"] * len(there),
        "source": [node.kind for node in sources],
        "source_layer": [node.layer for node in sources],
        "source_head": [node.head for node in sources],
        "input": [receiver.input for receiver in receivers],
        "layer": [receiver.layer for receiver in receivers],
        "head": [receiver.head for receiver in receivers],
        "chosen": list(found.chosen),
        "patched": pa.array(patched.mean(axis=1), from_pandas=True),
        "approximate": approximate.mean(axis=1),
        "clean": np.full(len(there), found.clean.double().mean().item()),
        "corrupted": np.full(len(there), found.corrupted.double().mean().item()),
        "n": np.full(len(there), len(found.clean)),
        "by_prompt": lists(patched[there]).take(rows),
    }
    schema = TABLES["edges"]
    missing = {name: pa.nulls(len(there), schema.field(name).type) for name in schema.names if name not in columns}
    edges = pa.table({name: (columns | missing)[name] for name in schema.names}, schema)
    sets = pa.Table.from_pylist(list(set_rows(view, found)), schema)
    about = sizes_of(found.graph, len(view.network.final_norm.weight))
    return pa.concat_tables([edges, sets]).replace_schema_metadata(about)


def set_rows(view: View, found: Edges) -> Iterator[dict[str, Any]]:
    """Yields rows for the empty graph and for the top 0.1% to 100% of the edges, ranked on one half of the prompts and
    run as circuits on the other."""
    if len(found.clean) < 2:
        log.warning("edges: circuits need one prompt to be found and another to be judged on; none is run")
        return
    finding, judging = halves(len(found.clean))
    effects = torch.where(found.patched.isnan(), found.approximate, found.patched) - found.corrupted
    gap = (found.clean - found.corrupted)[finding].double().mean()
    mean = effects[:, finding].double().mean(dim=1) * (-1 if gap < 0 else 1)
    asked = [(None, 0.0), *((order, size) for order in ORDERS for size in SIZES)]
    ranks = {order: by_rank(mean, absolute=order == "absolute") for order in ORDERS}
    sets = torch.stack([first_of(ranks[order or "signed"], count_of(size, len(mean))) for order, size in asked])
    pairs = view.pairs.select(judging.tolist())
    ends = {name: values[judging].double().mean().item() for name, values in vars(found).items() if name in ENDS}
    for (order, size), kept, values in zip(asked, sets, evaluate(view.network, pairs, sets, view.memory), strict=True):
        by_prompt: list[float | None] = [None] * len(found.clean)
        for prompt, value in zip(judging.tolist(), values.tolist(), strict=True):
            by_prompt[prompt] = value
        yield {
            "kind": "set",
            "order": order,
            "size": size,
            "edges": int(kept.sum()),
            "patched": values.double().mean().item(),
            **ends,
            "n": len(values),
            "by_prompt": by_prompt,
        }
