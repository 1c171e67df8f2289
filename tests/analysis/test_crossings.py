"""The picture of pieces of one checkpoint in another."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from mi_sweeps.analysis import figures
from mi_sweeps.analysis.export import export
from mi_sweeps.analysis.frames import load
from mi_sweeps.circuits.tables import TABLES
from mi_sweeps.store.files import read_json, write_table
from mi_sweeps.store.folders import PatchFolder

SHARES = {
    ("activation", "attn", 0, None): 0.4, ("activation", "head", 0, 0): 0.3, ("activation", "head", 0, 1): 0.0,
    ("weights", "embed", None, None): 0.0, ("weights", "mlp", 1, None): 0.7,
    ("shapley", "mlp", 1, None): 0.6, ("shapley", "unembed", None, None): 0.4,
}  # fmt: skip


@pytest.fixture
def crossed(make_output):
    """Checkpoint 8 with pieces of 0, and the other way."""
    output = make_output(steps=(0, 8), layers=2, heads=2, corruptions=("first",), by_prompt=True)
    patch = PatchFolder(next(output.glob("runs/*/patches/*")))
    n = len(read_json(patch.path / "patch.json")["prompts"])
    random = np.random.default_rng(0)
    own = {0: 1 + random.standard_normal(n), 8: 4 + random.standard_normal(n)}
    rows = [(step, step, "own", "none", None, None, values) for step, values in own.items()]
    for into, source in ((0, 8), (8, 0)):
        for (kind, component, layer, head), share in SHARES.items():
            if kind != "shapley" or into == 0:
                mixed = own[into] + share * (own[source] - own[into]) + 0.01 * random.standard_normal(n)
                rows.append((into, source, kind, component, layer, head, mixed))
    table = [
        {
            **dict(zip(TABLES["cross"].names[:6], row, strict=False)), "ld_into": own[row[0]].mean(),
            "ld_from": own[row[1]].mean(), "ld_mixed": row[6].mean(), "by_prompt": row[6].tolist(), "n": n,
            "standard_error": 0.01 if row[2] == "shapley" else None,
        }
        for row in rows
    ]  # fmt: skip
    write_table(patch.table(8, "cross"), pa.Table.from_pylist(table, TABLES["cross"]))
    return output


def drawn(output):
    (draw,) = [draw for name, draw in figures.pictures(load(output)) if name == "cross-first"]
    return draw()


def test_a_plot_for_each_kind_and_way_with_the_planted_shares(crossed):
    picture = drawn(crossed)
    titles = [axis.get_title() for axis in picture.axes if axis.get_title()]
    assert titles == [
        *("activation of 8 in 0", "activation of 0 in 8", "weights of 8 in 0", "weights of 0 in 8", "shapley of 8 in 0")
    ]
    first = picture.axes[0]
    points = {tuple(np.round(point, 1)) for marks in first.collections for point in marks.get_offsets()}
    assert {(-0.2, 0.4), (0.0, 0.3), (0.0, 0.0)} <= points
    assert [text.get_text() for text in first.texts] == ["0.0"]  # the head that matters
    assert picture.source.runs and "not other seeds" in str(picture.source)
    one = picture.numbers.query("kind == 'weights' and component == 'mlp' and into == 0 and of == 8").iloc[0]
    assert one["share"] == pytest.approx(0.7, abs=0.02) and one["low"] < one["share"] < one["high"] and one["matters"]


def test_shares_are_exported_where_pieces_were_exchanged(crossed, tmp_path):
    files = {file.stem: file for file in export(crossed, tmp_path / "tables")}
    table = pd.read_parquet(files["shares"])
    assert len(table) == len(pd.read_parquet(files["cross"])) - 2  # without each checkpoint alone
    one = table[(table["kind"] == "weights") & (table["component"] == "mlp") & (table["into_step"] == 0)].iloc[0]
    assert one["share"] == pytest.approx(0.7, abs=0.02) and one["verdict"] == "matters"


def test_pieces_that_not_all_runs_have_are_not_drawn(crossed, make_output):
    """Neither is a table without rows, as of the first checkpoint, which has no other."""
    one = PatchFolder(next(crossed.glob("runs/*/patches/*")))
    make_output(seeds=(1,), sweep="more", steps=(0, 8), layers=2, heads=2, corruptions=("first",), by_prompt=True)
    other = PatchFolder(next(crossed.glob("runs/*-1/patches/*")))
    rows = pq.read_table(one.table(8, "cross"))
    write_table(other.table(0, "cross"), rows.slice(0, 0))
    assert "not other seeds" in str(drawn(crossed).source)
    later = pc.add(rows["source_step"], 100)
    write_table(other.table(8, "cross"), rows.set_column(1, "source_step", later).cast(TABLES["cross"]))
    assert "none that all of these runs have" in str(drawn(crossed).source)


def test_without_such_tables_there_is_neither(make_output, tmp_path):
    output = make_output(steps=(8,), layers=2, heads=2, corruptions=("first",))
    assert "cross-first" not in [name for name, _ in figures.pictures(load(output))]
    assert "shares" not in {file.stem for file in export(output, tmp_path / "tables")}
