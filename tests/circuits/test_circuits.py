"""Circuits on a transformer with a known circuit, and the table that a patch job writes."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mi_sweeps.circuits.ablated_sets import nodes_of
from mi_sweeps.circuits.chosen_sets import by_rank, count_of, halves, name, named, names, random_sets
from mi_sweeps.circuits.circuits import compare, table
from mi_sweeps.circuits.fast import MEMORY
from mi_sweeps.circuits.network import Linear
from mi_sweeps.circuits.view import View
from mi_sweeps.config.circuits import CircuitsConfig
from mi_sweeps.errors import UserError
from mi_sweeps.graph import Graph
from mi_sweeps.store import mib
from tests.circuits.known import known


class NoOtherPrompts:
    """A task whose prompts have no two subjects to replace."""

    def pairs(self, corruption, count):
        raise UserError(f"corruption={corruption}: none of that name")


def measured(found, patching, step=0, others=None, **config):
    """The table of one checkpoint of a model that is known."""

    @contextmanager
    def another(step):
        yield others[step]

    given = {"ablation": "corrupted", "random": 20, **config}
    settings = patching().model_copy(update={"circuits": CircuitsConfig(**given)})
    view = View(step, found.network, found.pairs, NoOtherPrompts(), settings, MEMORY, (0, 4), another)
    return table(view).to_pylist()


def rows_of(made, kind, **columns):
    columns["kind"] = kind
    return [row for row in made if all(row[key] == value for key, value in columns.items())]


def f_of(made, rows):
    """F of some rows, on the prompts that they have."""
    whole, nothing = (rows_of(made, "whole", set=name)[0]["by_prompt"] for name in ("all", "none"))

    def mean(row):
        there = [at for at, value in enumerate(row["by_prompt"]) if value is not None]
        m, high, low = (np.mean([values[at] for at in there]) for values in (row["by_prompt"], whole, nothing))
        return (m - low) / (high - low)

    return [mean(row) for row in rows]


@pytest.fixture(scope="module")
def plain(patching):
    """3 of 8 nodes are in the circuit: 40% of them."""
    return measured(known(prompts=12), patching, size=40, sizes=(10, 40, 100))


MEMBERS = "a0.h0 a1.h1 m1"


def test_a_circuit_that_is_known_is_found_with_its_members_and_no_others(plain):
    for order in ("absolute", "signed"):
        (row,) = rows_of(plain, "circuit", order=order, size=40)
        assert row["members"] == MEMBERS and row["n"] == 6
        assert f_of(plain, [row]) == pytest.approx([1.0], abs=1e-4)
        assert row["closer"] > 50 and row["null_median"] < 0.1 and row["null_sets"] > 4


def test_everything_has_faithfulness_1_and_nothing_0_to_the_bit(plain):
    (everything,), (nothing,) = (rows_of(plain, "circuit", order="signed", size=size) for size in (100, 10))
    assert (everything["nodes"], nothing["nodes"], nothing["members"]) == (8, 0, "")
    assert f_of(plain, [everything, nothing]) == [1.0, 0.0]
    kept = [value for value in everything["by_prompt"] if value is not None]
    whole = rows_of(plain, "whole", set="all")[0]["by_prompt"]
    assert kept == whole[6:], "judged on the second half"


def test_effects_of_each_node_alone_are_kept_for_every_prompt(plain):
    without = rows_of(plain, "node", set="without")
    effects = dict(
        zip(((row["component"], row["layer"], row["head"]) for row in without), f_of(plain, without), strict=True)
    )
    needed = {node for node, f in effects.items() if f < 0.5}
    assert needed == {("head", 0, 0), ("head", 1, 1), ("mlp", 1, None)} and len(effects) == 8
    assert all(len(row["by_prompt"]) == 12 and None not in row["by_prompt"] for row in without)


def test_a_member_that_nothing_needs_is_not_minimal(patching):
    made = measured(known(prompts=12), patching, size=50)
    members = rows_of(made, "circuit", order="absolute", size=50)[0]["members"].split()
    assert len(members) == 4 and set(MEMBERS.split()) < set(members)
    missed = {}
    for member in members:
        layer, _, head = member.removeprefix("a").removeprefix("m").partition(".h")
        own = {"layer": int(layer), "head": int(head) if head else None}
        kept, removed = (rows_of(made, "minimality", set=which, **own) for which in ("with", "without"))
        changes = np.subtract(f_of(made, kept), f_of(made, removed))
        assert [row["removed"] for row in kept] == ["none", "layer", "kind", "random 1", "random 2"]
        missed[member] = np.abs(changes).max()
    assert {member for member, change in missed.items() if change > 0.01} == set(MEMBERS.split())


def test_two_redundant_heads_fail_completeness(patching):
    found = known(backup=True, prompts=48)
    # By their mean, an ablated head says nothing; by its corrupted value it would speak for another answer.
    made = measured(found, patching, given=["a0.h0", "a1.h1", "m1"], size=40, ablation="mean")
    (given,) = rows_of(made, "given")
    assert f_of(made, [given]) == pytest.approx([1.0], abs=0.2), "faithful"
    # Ablated alone neither of the two is missed, so neither is found by rank.
    circuit = rows_of(made, "circuit", order="absolute", size=40)[0]["members"].split()
    assert "a0.h0" in circuit and "m1" in circuit
    differences = {}
    for row in rows_of(made, "completeness", set="circuit"):
        (other,) = rows_of(made, "completeness", set="all", removed=row["removed"])
        differences[row["removed"]] = np.subtract(*f_of(made, [row, other]))
    assert max(map(abs, differences.values())) > 0.7, "without one of them the model works and the circuit does not"
    assert {"none", "layer 0", "layer 1", "heads", "greedy 1", "greedy 3"} <= differences.keys()


def exchanged(network):
    """The same with heads 1.1 and 1.2 in each other's places."""
    order = torch.arange(24).view(3, 8)[[0, 2, 1]].flatten()
    block = network.blocks[1]
    read = {name: Linear(getattr(block, name).parameter[:, order], None) for name in ("query", "key", "value")}
    block = replace(block, **read, combine=Linear(block.combine.parameter[order], None))
    return replace(network, blocks=(network.blocks[0], block))


def test_the_circuit_of_one_checkpoint_in_another(patching):
    """At step 0 head 1.2 did what head 1.1 does at step 4."""
    found = known(prompts=12)
    made = measured(found, patching, 4, {0: exchanged(found.network)}, size=40, at=(0, 4))
    (own,), (earlier,) = (rows_of(made, "exchange", source_step=step) for step in (4, 0))
    assert (earlier["members"], own["members"]) == ("a0.h0 a1.h2 m1", MEMBERS)
    assert f_of(made, [earlier, own]) == pytest.approx([0.0, 1.0], abs=1e-4)
    assert earlier["percentile"] < 60 < own["percentile"], "each has its random sets"
    assert not rows_of(measured(found, patching, 4, {}, at=(0,)), "exchange"), "of steps that are not in the list"


def test_a_circuit_of_another_model_is_refused(patching):
    with pytest.raises(UserError, match=r"patching.circuits.given: no node a7.h7 here \(a0.h0 to m1\)"):
        measured(known(), patching, given=["a0.h0", "a7.h7"])


def test_random_sets_have_the_layers_of_the_circuit_or_its_size_alone():
    nodes = nodes_of(known().network)
    circuit = named(nodes, ["a0.h0", "a1.h1", "a1.h2", "m1"])
    drawn = random_sets(nodes, circuit, 200)
    assert torch.equal(drawn, random_sets(nodes, circuit, 200)), "the same at every checkpoint"
    is_mlp = torch.tensor([head is None for _, head in nodes])
    of_layer = torch.tensor([layer for layer, _ in nodes])
    for layer, heads, mlps in ((0, 1, 0), (1, 2, 1)):
        assert (drawn[:, (of_layer == layer) & ~is_mlp].sum(dim=1) == heads).all()
        assert (drawn[:, (of_layer == layer) & is_mlp].sum(dim=1) == mlps).all()
    assert len(drawn.unique(dim=0)) == 9, "all that there are: one of 3 heads, and two of 3"
    free = random_sets(nodes, circuit, 200, by_layer=False)
    assert (free.sum(dim=1) == 4).all() and len(free.unique(dim=0)) > 40
    assert names(nodes, circuit) == "a0.h0 a1.h1 a1.h2 m1" and name((3, None)) == "m3"


def test_where_a_set_is_among_random_ones():
    null = torch.tensor([[0.0], [1.0], [2.0], [5.0]])
    found = compare(torch.tensor([2.0]), null, nothing=0.0, whole=2.0)
    assert (found["percentile"], found["closer"], found["null_median"]) == (62.5, 87.5, 0.75)
    assert all(value != value for value in compare(torch.tensor([2.0]), null, 1.0, 1.0).values()), "no gap"


def test_ranks_sizes_and_halves():
    effects = torch.tensor([0.1, -3.0, 2.0, 0.0])
    assert by_rank(effects, absolute=True).tolist() == [1, 2, 0, 3]
    assert by_rank(effects, absolute=False).tolist() == [2, 0, 3, 1]
    assert [count_of(percent, 20) for percent in (1, 5, 20, 99, 100)] == [0, 1, 4, 19, 20]
    assert count_of(0.7 * 100, 10) == 7, "not cut by how it is rounded"
    finding, judging = halves(24)
    assert finding.tolist() == [*range(6), *range(12, 18)] and judging.tolist() == [*range(6, 12), *range(18, 24)]
    assert halves(4)[0].tolist() == [0, 2]
    with pytest.raises(UserError, match="there is only one prompt"):
        halves(1)


def test_a_circuit_is_read_from_a_file_of_the_mib_form(tmp_path):
    graph = Graph(3, (False, False))
    inside = ["a0.h0", "a1.h1", "m1"]
    file = tmp_path / "circuit.json"
    file.write_text(json.dumps(mib.form(mib.Circuit(graph, 48, members=["input", *inside, "logits"]))))
    assert CircuitsConfig(given=str(file)).given == tuple(inside)
    assert CircuitsConfig(given=inside) == CircuitsConfig(given=str(file)), "whose nodes are stored, not its place"
    with pytest.raises(ValidationError, match="no head or MLP of that circuit is in_graph"):
        file.write_text(json.dumps(mib.form(mib.Circuit(graph, 48, members=["input"]))))
        CircuitsConfig(given=str(file))
