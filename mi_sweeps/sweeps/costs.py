"""Estimates the cost of a plan's further measurements from sizes alone, without loading a model or importing torch.

The unit is an intervention: one run of one prompt with something changed. Most take far less than a forward pass,
because only what a change can reach is computed (benchmarks/README.md).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mi_sweeps.config import Config
from mi_sweeps.config.circuits import CircuitsConfig
from mi_sweeps.config.cross import CrossConfig, others
from mi_sweeps.config.edges import EdgesConfig
from mi_sweeps.config.looks import LooksConfig
from mi_sweeps.graph import Graph
from mi_sweeps.series.checkpoints import single
from mi_sweeps.sweeps.memory import Sizes, read
from mi_sweeps.sweeps.points import GridPoint


def looks(asked: LooksConfig, sizes: Sizes, config: Config) -> float:
    """Counts one clean and one corrupted run, and about three more for the scores."""
    return 5


def cross(asked: CrossConfig, sizes: Sizes, config: Config) -> float:
    """Counts each component both ways, and one run for each part along each order; a mean over checkpoints."""
    heads = sizes.layers * sizes.heads
    one_way = {
        "activation": heads + 2 * sizes.layers + 1,
        # A head's q, k, v, o and all four; a layer's attention, MLP and norms; embedding and unembedding.
        "weights": 5 * heads + 3 * sizes.layers + 2,
    }
    both = sum(2 * one_way[kind] for kind in asked.kinds if kind in one_way)
    orders = asked.permutations * (2 * sizes.layers + 2) if "shapley" in asked.kinds else 0
    steps = config.patch_steps
    return (both + orders) * sum(len(others(asked, step, steps)) for step in steps) / max(1, len(steps))


def circuits(asked: CircuitsConfig, sizes: Sizes, config: Config) -> float:
    """Counts, as an upper bound: each node alone and all nodes but it; each circuit with its random sets; and the tests
    of completeness and minimality. Equal sets are computed once, so the real number may be lower."""
    nodes = sizes.layers * (sizes.heads + (asked.nodes == "all" and sizes.d_mlp > 0))
    judged = 2 * len({*asked.sizes, asked.size}) + len(asked.at) + (asked.given is not None)
    # As `chosen_sets.count_of`.
    members = math.floor(asked.size * nodes / 100 + 1e-9)
    steps = min(3, members)
    greedy = 2 * sum(members - step for step in range(steps))
    # Circuit and model, each without: nothing, each layer, heads, MLPs, ten random halves, and each greedy step's sets.
    complete = 2 * (1 + sizes.layers + 2 + 10 + steps)
    # With and without each member, after removing five sets of others from the circuit.
    minimal = 2 * 5 * members
    # Circuits of other checkpoints are found again there.
    elsewhere = 2 * (1 + nodes) * max(0, len(asked.at) - 1)
    # Found on one half of the prompts and judged on the other.
    return 2 * (1 + nodes) + (judged * (1 + asked.random) + greedy + complete + minimal + elsewhere) / 2


def edges(asked: EdgesConfig, sizes: Sizes, config: Config) -> float:
    """Counts each patched edge, the forward and backward passes of integrated gradients, and the sets of edges that
    are judged on half the prompts."""
    graph = Graph(sizes.heads, (False,) * sizes.layers, sizes.d_mlp > 0)
    patched = len(graph.edges) if asked.exact == "all" else min(len(graph.edges), asked.exact + asked.sample)
    return patched + 3 * asked.ig_steps + (1 + 2 * 10) / 2


COSTS: dict[str, Callable[[Any, Sizes, Config], float]] = {
    "looks": looks,
    "cross": cross,
    "circuits": circuits,
    "edges": edges,
}
"""Interventions per prompt and checkpoint, by key of `patching`."""


def lines(points: Sequence[GridPoint]) -> Iterator[str]:
    """Yields a line with the cost of each measurement besides patching; nothing if there is none."""
    found: dict[str, float] = {}
    known: dict[str, Sizes | None] = {}
    seen: set[str] = set()
    for point in points:
        key = json.dumps([point.values[name] for name in ("model", "patching", "checkpoint")], default=str)
        if not point.tables or key in seen:
            continue
        seen.add(key)
        model = json.dumps(point.values["model"], default=str)
        if model not in known:
            known[model] = read(single(point.config))
        if sizes := known[model]:
            for name, asked in point.config.patching.measured.items():
                found[name] = max(found.get(name, 0.0), COSTS[name](asked, sizes, point.config))
    if found:
        shown = ", ".join(f"{name} {_rounded(count)}" for name, count in found.items())
        most = "at most" if len(seen) > 1 else "about"
        yield f"besides patching, interventions per prompt and checkpoint, {most}: {shown}"


def _rounded(count: float) -> str:
    """Rounds to two digits; the estimate is no better."""
    if count < 100:
        return f"{count:.0f}"
    unit = 10 ** (math.floor(math.log10(count)) - 1)
    return f"{round(count / unit) * unit:,}"
