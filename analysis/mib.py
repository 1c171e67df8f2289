"""Circuits of patch jobs as files that the MIB track's evaluation reads (`mi_sweeps.store.mib`)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from ..errors import UserError
from ..graph import Edge, Graph, Node, Receiver
from ..store.files import write_bytes
from ..store.mib import Circuit, form, model_of
from . import folder, measured
from .frames import examined_in

COLUMNS = {
    "edges": ("kind", "source", "source_layer", "source_head", "input", "layer", "head", "patched", "approximate")
    + ("corrupted",),
    "circuits": ("kind", "set", "layer", "head", "value"),
}
"""Columns to read from each table."""


def export(
    output: Path, directory: Path, sweeps: Sequence[str] | None = None, damaged: list[str] | None = None
) -> list[Path]:
    """Write `PATCH_ID/000008.edges.json` and `.nodes.json` for each checkpoint that has scores.

    An edge's score is its exact effect, patched - corrupted (logits, mean over prompts), or its estimate if it was not
    patched; the file says which. A node's score is the logit difference lost when that node alone is ablated.

    Raises:
        UserError: there are no scores.
    """
    files = []
    for patch, step in examined_in(folder.read(output, sweeps, damaged)):
        for level, found in _circuits(patch, step, damaged):
            file = Path(directory) / patch.patch_id / f"{step:06d}.{level}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(file, json.dumps(form(found)).encode())
            files.append(file)
    if not files:
        raise UserError("export --circuits mib: no importances there; run patch jobs with patching=edges or circuits")
    return files


def _circuits(patch: folder.Patch, step: int, damaged: list[str] | None) -> Iterator[tuple[str, Circuit]]:
    for name, level in (("edges", "edges"), ("circuits", "nodes")):
        file = patch.table(step, name)
        table = measured.stored(file, COLUMNS[name], damaged) if file.exists() else None
        if table is None:
            continue
        if model := model_of(table.schema.metadata):
            yield level, edges(table, *model) if name == "edges" else nodes(table, *model)
        else:
            measured.outdated(file, "its model's sizes", damaged)


def edges(table: pa.Table, graph: Graph, d_model: int) -> Circuit:
    """The scores in a table `edges`."""
    scores, approximate = {}, set()
    for row in table.to_pylist():
        if row["kind"] != "edge":
            continue
        source = Node(row["source"], row["source_layer"], row["source_head"])
        name = Edge(source, Receiver(row["input"], row["layer"], row["head"])).name
        is_exact = row["patched"] is not None
        scores[name] = row["patched" if is_exact else "approximate"] - row["corrupted"]
        if not is_exact:
            approximate.add(name)
    return Circuit(graph, d_model, edges=scores, approximate=approximate)


def nodes(table: pa.Table, graph: Graph, d_model: int) -> Circuit:
    """The importances of nodes in a table `circuits`."""
    rows = table.to_pylist()
    whole = next(row["value"] for row in rows if row["kind"] == "whole" and row["set"] == "all")
    scores = {
        Node("mlp" if row["head"] is None else "head", row["layer"], row["head"]).name: whole - row["value"]
        for row in rows
        if row["kind"] == "node" and row["set"] == "without"
    }
    return Circuit(graph, d_model, scores)
