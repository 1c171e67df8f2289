"""The graph of a model."""

from __future__ import annotations

from mi_sweeps.graph import Graph


def test_gpt2_small_has_as_many_edges_as_others_count():
    """32,491 in ACDC, auto-circuit and the MIB track: 37 (1 + 13 l) + 12 into each layer l, 157 into the logits."""
    graph = Graph(12, (False,) * 12)
    assert len(graph.nodes) == 157 and len(graph.edges) == 32491 == len({edge.name for edge in graph.edges})


def test_a_parallel_mlp_does_not_read_the_heads_of_its_layer():
    serial, parallel = (
        {edge.name for edge in Graph(2, (how,) * 2).edges if edge.receiver.name == "m1"} for how in (False, True)
    )
    assert parallel == {"input->m1", "a0.h0->m1", "a0.h1->m1", "m0->m1"}
    assert serial - parallel == {"a1.h0->m1", "a1.h1->m1"}


def test_a_model_without_mlps_has_none_in_its_graph():
    graph = Graph(2, (False, False), has_mlps=False)
    assert [node.name for node in graph.nodes] == ["input", "a0.h0", "a0.h1", "a1.h0", "a1.h1"]
    assert {receiver.name for receiver in graph.receivers} == {
        *(f"a{layer}.h{head}<{into}>" for layer in (0, 1) for head in (0, 1) for into in "qkv"),
        "logits",
    }
