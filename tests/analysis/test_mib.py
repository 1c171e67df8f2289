"""Gains exported in the format of the MIB track, and read back."""

from __future__ import annotations

import json

import pytest

from mi_sweeps.analysis import mib
from mi_sweeps.errors import UserError
from mi_sweeps.store.mib import read
from tests.circuits.known import known


def test_exported_importances_are_read_back_and_rank_the_known_circuit_first(measured_circuit, tmp_path):
    output, patch = measured_circuit()
    truth = known()
    files = mib.export(output, tmp_path / "to")
    assert [file.relative_to(tmp_path / "to").as_posix() for file in files] == [
        f"{patch.patch_id}/000008.edges.json",
        f"{patch.patch_id}/000008.nodes.json",
    ]
    of_edges, of_nodes = map(read, files)
    assert of_edges.graph == of_nodes.graph and of_edges.d_model == of_nodes.d_model == 48
    assert len(of_edges.edges) == len(of_edges.graph.edges) and not of_edges.approximate
    ranked = sorted(of_edges.edges, key=of_edges.edges.get, reverse=True)
    assert set(ranked[:4]) == set(truth.edges) and of_edges.edges[ranked[3]] == pytest.approx(20)
    assert of_edges.edges[ranked[4]] == pytest.approx(0, abs=1e-4)
    assert {name for name, score in of_nodes.nodes.items() if score > 1} == set(truth.nodes) - {"input", "logits"}
    assert "input" not in of_nodes.nodes, "what nobody scored stays in the graph"
    written = json.loads(files[0].read_text())
    assert written["cfg"] == {"n_layers": 2, "n_heads": 3, "parallel_attn_mlp": False, "d_model": 48}
    assert set(written["edges"]["a0.h0->a1.h1<k>"]) == {"score", "in_graph"}


def test_a_score_that_is_an_estimate_says_so(measured_circuit, tmp_path):
    output, _ = measured_circuit(exact=2)
    found = read(mib.export(output, tmp_path / "to")[0])
    assert len(found.approximate) == len(found.graph.edges) - 2
    assert found.edges["a0.h0->a1.h1<k>"] == pytest.approx(0.0059, abs=1e-3), "as far off as that"


def test_an_output_without_edge_effects_is_refused(make_output, tmp_path):
    with pytest.raises(UserError, match="no importances there; run patch jobs with patching=edges"):
        mib.export(make_output(), tmp_path / "to")
