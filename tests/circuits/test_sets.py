"""Sets of edges, against a run whose every input is put together by hooks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mi_sweeps.circuits.edges import patch_edges
from mi_sweeps.circuits.families import describe
from mi_sweeps.circuits.gradients import integrated
from mi_sweeps.circuits.sets import evaluate
from tests.circuits.known import known
from tests.circuits.plain import Plain, ungrouped


@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox"])
@torch.no_grad()
def test_a_set_equals_a_run_whose_inputs_are_put_together_by_hooks(name, make_model, make_short_pairs):
    model, pairs = make_model(name), make_short_pairs("first")
    network = describe(model)
    graph = network.graph
    shares = torch.tensor([0.2, 0.5, 0.9])
    sets = torch.rand(3, len(graph.edges), generator=torch.Generator().manual_seed(0)) < shares[:, None]
    found = evaluate(network, pairs, sets, memory=1)
    plain = Plain(ungrouped(model) if name == "llama" else model)
    for chosen, values in zip(sets, found, strict=True):
        names = {edge.name for edge, there in zip(graph.edges, chosen.tolist(), strict=True) if there}
        logits = plain.circuit(pairs.clean.tokens, pairs.corrupted.tokens, graph, names)
        torch.testing.assert_close(values, pairs.logit_diff(pairs.at_end(logits)), atol=2e-5, rtol=0)
    assert (found[0] - found[2]).abs().max() > 1e-3
    torch.testing.assert_close(evaluate(network, pairs, sets), found, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "gemma2", "olmo2", "qwen3", "granite"])
@torch.no_grad()
def test_all_edges_are_the_clean_run_none_the_corrupted_and_all_but_one_a_patch_the_other_way(
    name, make_model, make_short_pairs
):
    """Also where heads' outputs are normalised together, or multiplied."""
    network, pairs = describe(make_model(name)), make_short_pairs("second").select([0, 3])
    graph = network.graph
    left_out = range(0, len(graph.edges), 9)
    sets = torch.ones(2 + len(left_out), len(graph.edges), dtype=torch.bool)
    sets[1] = False
    for row, edge in enumerate(left_out):
        sets[2 + row, edge] = False
    found = evaluate(network, pairs, sets)
    # Answers and what they are measured against stay the clean prompts'.
    other_way = replace(pairs, clean=replace(pairs.clean, tokens=pairs.corrupted.tokens))
    other_way = replace(other_way, corrupted=replace(pairs.corrupted, tokens=pairs.clean.tokens))
    corrupted, clean, patched = patch_edges(network, other_way, [graph.edges[edge] for edge in left_out])
    torch.testing.assert_close(found, torch.cat([clean[None], corrupted[None], patched]), atol=2e-5, rtol=0)


@torch.no_grad()
def test_a_model_of_attention_alone_has_sets_too(make_nope, make_sequences):
    network, pairs = describe(make_nope()), make_sequences().pairs("previous", 4)
    graph = network.graph
    assert not graph.has_mlps
    sets = torch.stack([torch.ones(len(graph.edges)), torch.zeros(len(graph.edges))]).bool()
    clean, corrupted, _ = patch_edges(network, pairs, graph.edges)
    torch.testing.assert_close(evaluate(network, pairs, sets), torch.stack([clean, corrupted]), atol=2e-5, rtol=0)
    assert integrated(network, pairs, graph, steps=1).values.shape == (len(graph.edges), 4)


def test_the_known_circuit_alone_does_all_and_the_rest_nothing():
    truth = known()
    members = torch.tensor([edge.name in truth.edges for edge in truth.network.graph.edges])
    each = [members.clone() for _ in truth.edges]
    for chosen, edge in zip(each, members.nonzero()[:, 0].tolist(), strict=True):
        chosen[edge] = False
    circuit, rest, *less = evaluate(truth.network, truth.pairs, torch.stack([members, ~members, *each]))
    assert circuit.tolist() == pytest.approx([10.0] * 6) and rest.tolist() == pytest.approx([-10.0] * 6)
    assert all(values.max() < 0 for values in less), "it is a chain: without one link there is none"
