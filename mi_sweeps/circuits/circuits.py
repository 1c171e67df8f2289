"""Circuits of heads and MLPs at one checkpoint: found on one half of the prompts, evaluated on the other.

With m(C) the logit difference if everything outside a set C of nodes is ablated, and M the whole model,

    F(C) = (m(C) - m(nothing)) / (m(M) - m(nothing))

is the set's faithfulness (Wang et al. 2022, arXiv:2211.00593; normalised as in Mueller et al. 2025, arXiv:2504.13151).
The table has m for each prompt, in logits; F, its areas and its intervals are computed from it by analysis.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mi_sweeps.circuits.ablated_sets import Node, ablate_sets, nodes_of
from mi_sweeps.circuits.chosen_sets import (
    Set,
    by_rank,
    count_of,
    first_of,
    halves,
    named,
    names,
    random_sets,
    subsets,
    without,
)
from mi_sweeps.circuits.fast import budget
from mi_sweeps.circuits.means import Means, mean_outputs
from mi_sweeps.circuits.network import Network
from mi_sweeps.circuits.tables import TABLES
from mi_sweeps.circuits.view import View
from mi_sweeps.config.circuits import CircuitsConfig
from mi_sweeps.errors import UserError
from mi_sweeps.store.mib import sizes_of
from mi_sweeps.tasks.pairs import Pairs
from mi_sweeps.tasks.tokens import Batch

log = logging.getLogger(__name__)

ORDERS = ("absolute", "signed")
"""Nodes are ranked by the effect of ablating them alone: by its size, or with its sign."""

GREEDY = 3
"""Number of members removed one after another, each time the one that makes the circuit least complete."""


def table(view: View) -> pa.Table:
    """All rows of one checkpoint; `mi_sweeps.circuits.tables` lists the columns.

    Raises:
        UserError: there are too few prompts, or the given circuit is for another model.
    """
    made = pa.Table.from_pylist(list(rows(view)), TABLES["circuits"])
    return made.replace_schema_metadata(sizes_of(view.network.graph, len(view.network.final_norm.weight)))


def averaged(view: View) -> Batch:
    """The prompts that ablated nodes are averaged over: with three different names, if the task's prompts have two
    subjects to replace; otherwise the patch job's own corrupted prompts."""
    split = {} if view.patching.split == "heldout" else {"split": view.patching.split}
    try:
        found = view.task.pairs("both", len(view.pairs.clean), **split)
    except UserError:
        log.warning("patching.circuits: means are over the corrupted prompts; this task lacks the corruption `both`")
        return view.pairs.corrupted
    return found.corrupted.to(view.pairs.clean.tokens.device)


def rows(view: View) -> Iterator[dict[str, Any]]:
    """Yields the table's rows."""
    config = view.patching.circuits
    assert config is not None
    finding, judging = (part.to(view.pairs.clean.tokens.device) for part in halves(len(view.pairs.clean)))
    prompts = averaged(view) if config.ablation != "corrupted" else None
    model = AblatedModel.of(view.network, view.pairs, prompts, config, view.memory)
    nodes, found = model.nodes, model.effects
    yield model.row("whole", found.whole, set="all", nodes=len(nodes))
    yield model.row("whole", found.nothing, set="none", nodes=0)
    for number, node in enumerate(nodes):
        yield model.row("node", found.without[number], set="without", nodes=len(nodes) - 1, **place(node))
        yield model.row("node", found.alone[number], set="alone", nodes=1, **place(node))
    yield from rows_of_sets(model, list(sets_to_run(view, model, prompts, finding)), judging, config)


@dataclass(frozen=True)
class SetToRun:
    """A set to evaluate, and its row's columns."""

    kind: str
    kept: Set
    columns: dict[str, Any]
    compared: bool = False
    """Whether it is compared with random sets of its size."""


def sets_to_run(
    view: View, model: AblatedModel, prompts: Batch | None, finding: Int[Tensor, " prompt"]
) -> Iterator[SetToRun]:
    """Yields all sets to evaluate at one checkpoint.

    Args:
        prompts: as for `Model.of`.
        finding: the prompts on which circuits are found.
    """
    config, nodes = view.patching.circuits, model.nodes
    assert config is not None
    orders = {order: model.effects.order(finding, absolute=order == "absolute") for order in ORDERS}
    for order, ranks in orders.items():
        for size in sorted({*config.sizes, config.size}):
            columns = {"order": order, "size": size}
            yield SetToRun("circuit", first_of(ranks, count_of(size, len(nodes))), columns, compared=True)
    circuit = first_of(orders["absolute"], count_of(config.size, len(nodes)))
    examined = {"order": "absolute", "size": config.size}
    for removed, k in [*subsets(nodes, circuit), *greedy(model, circuit, finding)]:
        columns = {"removed": removed, **examined}
        yield SetToRun("completeness", circuit & ~k, {"set": "circuit", **columns})
        yield SetToRun("completeness", ~k, {"set": "all", **columns})
    for member in circuit.nonzero()[:, 0].tolist():
        for removed, k in without(nodes, circuit, member):
            columns = {"removed": removed, **place(nodes[member]), **examined}
            kept = circuit & ~k
            yield SetToRun("minimality", kept, {"set": "with", **columns})
            kept = kept.clone()
            kept[member] = False
            yield SetToRun("minimality", kept, {"set": "without", **columns})
    there_are = [step for step in config.at if step in view.steps]
    if lacking := sorted(set(config.at) - set(there_are)):
        log.warning("patching.circuits.at: steps %s have no usable checkpoint", lacking)
    for step in there_are if view.step in there_are else ():
        there = circuit
        if step != view.step:
            with view.another(step) as network:
                there = find(network, view, prompts, finding)
        yield SetToRun("exchange", there, {"source_step": step, **examined}, compared=True)
    if config.given is not None:
        yield SetToRun("given", named(nodes, config.given), {}, compared=True)


def rows_of_sets(
    model: AblatedModel, chosen: Sequence[SetToRun], prompts: Int[Tensor, " prompt"], config: CircuitsConfig
) -> Iterator[dict[str, Any]]:
    """Yields a row for each set; all sets run together on some prompts."""
    by_layer = config.matched == "layer"
    drawn = [
        random_sets(model.nodes, one.kept, config.random if one.compared else 0, by_layer=by_layer) for one in chosen
    ]
    sets = torch.stack([one.kept for one in chosen])
    every = torch.cat([sets, *drawn])
    found = model.ablated(every, prompts.tolist())
    # Bit for bit: with fewer prompts, matrix products may round differently.
    found[every.all(dim=1)], found[~every.any(dim=1)] = model.effects.whole[prompts], model.effects.nothing[prompts]
    of_sets, *of_random = found.split([len(sets), *map(len, drawn)])
    gap = [one[prompts].double().mean().item() for one in (model.effects.nothing, model.effects.whole)]
    for one, values, null, of in zip(chosen, of_sets, of_random, drawn, strict=True):
        columns = {"nodes": int(one.kept.sum()), "members": names(model.nodes, one.kept), **one.columns}
        compared = {**compare(values, null, *gap), "null_sets": len(torch.unique(of, dim=0))} if len(of) else {}
        yield model.row(one.kind, values, prompts, **columns, **compared)


def compare(
    values: Float[Tensor, " prompt"], null: Float[Tensor, "set prompt"], nothing: float, whole: float
) -> dict[str, float]:
    """Compares F of a set with random sets: the percentage of them with a lower F, and with an F farther from 1 (ties
    count half); their median F, and their 95th percentile. NaN if there is no gap.

    Args:
        nothing: m with every node ablated, averaged over the prompts.
        whole: m with none ablated.
    """
    if whole == nothing:
        return dict.fromkeys(("percentile", "closer", "null_median", "null_high"), float("nan"))
    own, other = ((one.double().mean(dim=-1) - nothing) / (whole - nothing) for one in (values, null))
    below, nearer = (
        100 * ((theirs < mine).double().mean() + (theirs == mine).double().mean() / 2).item()
        for mine, theirs in ((own, other), (-(1 - own).abs(), -(1 - other).abs()))
    )
    levels = torch.tensor([0.5, 0.95], dtype=torch.float64, device=other.device)
    middle, high = other.quantile(levels).tolist()
    return {"percentile": below, "closer": nearer, "null_median": middle, "null_high": high}


def place(node: Node) -> dict[str, Any]:
    """The table's columns for a node."""
    layer, head = node
    return {"component": "mlp" if head is None else "head", "layer": layer, "head": head}


def find(network: Network, view: View, prompts: Batch | None, finding: Int[Tensor, " prompt"]) -> Set:
    """The circuit of another checkpoint, found on the same prompts as this one's."""
    config = view.patching.circuits
    assert config is not None
    pairs = view.pairs.select(finding.tolist())
    model = AblatedModel.of(network, pairs, prompts, config, view.memory)
    order = model.effects.order(torch.arange(len(finding), device=finding.device), absolute=True)
    return first_of(order, count_of(config.size, len(model.nodes)))


@dataclass(frozen=True)
class Effects:
    """The logit differences with each node alone ablated, and with each node alone kept."""

    whole: Float[Tensor, " prompt"]
    nothing: Float[Tensor, " prompt"]
    without: Float[Tensor, "node prompt"]
    alone: Float[Tensor, "node prompt"]

    def order(self, prompts: Int[Tensor, " prompt"], *, absolute: bool) -> Int[Tensor, " node"]:
        """The nodes in order of how much F falls if each is ablated alone, over some prompts."""
        lost = (self.whole - self.without)[:, prompts].double().mean(dim=1).cpu()
        gap = (self.whole - self.nothing)[prompts].double().mean().cpu()
        # If the gap is negative, a node that lowers the logit difference adds to F.
        return by_rank(-lost if gap < 0 else lost, absolute=absolute)


@dataclass(frozen=True)
class AblatedModel:
    """A network under ablation on some prompts."""

    network: Network
    pairs: Pairs
    nodes: list[Node]
    means: Means | None
    memory: int

    @classmethod
    def of(
        cls, network: Network, pairs: Pairs, prompts: Batch | None, config: CircuitsConfig, memory: int
    ) -> AblatedModel:
        """Ablates with means over `prompts`, or with corrupted values if None."""
        means = None
        if prompts is not None:
            at_once, _ = budget(network, pairs, memory)
            means = mean_outputs(network, prompts, at_once, overall=config.ablation == "overall")
        return cls(network, pairs, nodes_of(network, mlps=config.nodes == "all"), means, memory)

    def ablated(
        self, kept: Bool[Tensor, "set node"], prompts: Sequence[int] | None = None
    ) -> Float[Tensor, "set prompt"]:
        """m of each set, for all prompts or some."""
        pairs = self.pairs if prompts is None else self.pairs.select(prompts)
        return ablate_sets(self.network, pairs, self.nodes, kept, self.means, self.memory)

    @cached_property
    def effects(self) -> Effects:
        """The effects of every node alone."""
        one = torch.eye(len(self.nodes), dtype=torch.bool)
        ends = torch.stack([torch.ones(len(one)), torch.zeros(len(one))]).bool()
        found = self.ablated(torch.cat([ends, ~one, one]))
        return Effects(found[0], found[1], *found[2:].split(len(one)))

    def row(
        self, kind: str, values: Float[Tensor, " some"], prompts: Int[Tensor, " some"] | None = None, **columns: Any
    ) -> dict[str, Any]:
        """A row of the table, from the values of all prompts or some."""
        by_prompt: list[float | None] = [None] * len(self.pairs.clean)
        for prompt, value in zip(
            range(len(values)) if prompts is None else prompts.tolist(), values.tolist(), strict=True
        ):
            by_prompt[prompt] = value
        value = values.double().mean().item()
        return {"kind": kind, "value": value, "n": len(values), "by_prompt": by_prompt, **columns}


def greedy(model: AblatedModel, circuit: Set, finding: Int[Tensor, " prompt"]) -> Iterator[tuple[str, Set]]:
    """Removes members one after another: each time the one after which the remaining circuit and the remaining model
    differ most in F, on the prompts on which the circuit was found (Wang et al. 2022, section 4.2)."""
    removed = torch.zeros_like(circuit)
    prompts = finding.tolist()
    for number in range(1, min(GREEDY, int(circuit.sum())) + 1):
        left = (circuit & ~removed).nonzero()[:, 0]
        candidates = removed.repeat(len(left), 1)
        candidates[torch.arange(len(left)), left] = True
        found = model.ablated(torch.cat([circuit & ~candidates, ~candidates]), prompts).double().mean(dim=1)
        of_circuit, of_model = found.split(len(left))
        removed = candidates[int((of_circuit - of_model).abs().argmax())]
        yield f"greedy {number}", removed
