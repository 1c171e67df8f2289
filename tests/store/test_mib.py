"""The format of the MIB track."""

from __future__ import annotations

import json

import pytest

from mi_sweeps.errors import UserError
from mi_sweeps.graph import Graph
from mi_sweeps.store.mib import Circuit, form, model_of, read, sizes_of


def test_names_and_sizes_are_the_track_s(tmp_path):
    """As in its own example of GPT-2-small, circuits/ioi-eap-ig.json: 158 nodes and 32,491 edges."""
    written = form(Circuit(Graph(12, (False,) * 12), 768))
    assert len(written["nodes"]) == 158 and len(written["edges"]) == 32491
    assert written["cfg"] == {"n_layers": 12, "n_heads": 12, "parallel_attn_mlp": False, "d_model": 768}
    assert {"input", "a0.h0", "a11.h11", "m11", "logits"} <= set(written["nodes"])
    some = {"input->a0.h0<q>", "input->m0", "a0.h11->m0", "m0->a1.h3<v>", "a3.h1->a9.h9<k>", "m11->logits"}
    assert some <= set(written["edges"]) and "a1.h0->a1.h1<q>" not in written["edges"]


@pytest.mark.parametrize("parallel", [False, True])
def test_what_is_written_is_read_back(tmp_path, parallel):
    graph = Graph(2, (parallel,) * 2)
    circuit = Circuit(
        graph,
        16,
        {"a0.h1": 0.5, "m1": -0.25},
        {edge.name: number / 8 for number, edge in enumerate(graph.edges)},
        {"m0->logits"},
        {"input", "a0.h1", "input->logits", "logits"},
    )
    (tmp_path / "circuit.json").write_text(json.dumps(form(circuit)))
    assert read(tmp_path / "circuit.json") == circuit


def test_a_table_s_sizes_are_read_back():
    graph = Graph(3, (True, False), has_mlps=False)
    assert model_of({key.encode(): value.encode() for key, value in sizes_of(graph, 24).items()}) == (graph, 24)
    assert model_of(None) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda found: found.pop("cfg"), "not of the MIB track's form"),
        (lambda found: found["edges"].update({"m1->m0": {"score": 1.0, "in_graph": True}}), "m1->m0 is in no model of"),
        (lambda found: found["nodes"]["m0"].update(score=float("nan")), "the score of m0 is nan"),
        (lambda found: found["cfg"].update(n_layers=1), "a1.h0 is in no model of 1 layers"),
    ],
)
def test_what_is_no_circuit_is_refused(tmp_path, change, message):
    found = form(Circuit(Graph(2, (False,) * 2), 16))
    change(found)
    (tmp_path / "circuit.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match=message):
        read(tmp_path / "circuit.json")
