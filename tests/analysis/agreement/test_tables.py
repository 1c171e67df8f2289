"""The tables of agreement for an output folder."""

from __future__ import annotations

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mi_sweeps.analysis.agreement.__main__ import main
from mi_sweeps.analysis.agreement.tables import TABLES, of_frames
from mi_sweeps.analysis.folder import read
from mi_sweeps.analysis.frames import by_prompt, load
from mi_sweeps.analysis.inference.families import families, jobs
from mi_sweeps.analysis.inference.subjects import answer, subjects
from mi_sweeps.circuits.tables import TABLES as LOOKS


def test_every_table_has_its_columns_and_rows(make_output):
    output = make_output(seeds=(0, 1), by_prompt=True, steps=(0, 24))
    frames = load(output)
    found = of_frames(frames)
    assert {name: list(frame) for name, frame in found.items()} == {name: list(of) for name, of in TABLES.items()}
    agreement, inclusion = found["agreement"], found["inclusion"]
    assert set(agreement["axis"]) == {"seed"} and set(agreement["site"]) == {"z", "q", "k", "v", "pattern"}
    assert set(agreement["runs"]) == {2} and set(agreement["prompts"]) == {12} and set(agreement["heads"]) == {16}
    # Two seeds are not five.
    assert set(agreement["answer"].dropna()) <= {"cannot tell", "undefined", "identical"}
    assert len(inclusion) == 16 * len(found["stability"]) == 16 * 5 * 2 * 2
    assert set(found["subjects"]["first"]) == {"first"} and set(found["subjects"]["second"]) == {"second"}
    roles = found["roles"]
    assert set(roles["run_a"]) <= {"run-0.0001-constant-0"} and set(roles["run_b"]) <= {"run-0.0001-constant-1"}
    # What is said of two subjects is what their families say.
    one, other = (
        next(of for of in families(jobs(read(output), frames.runs, own["patch_id"])) if of.site == "z")
        for _, own in frames.patches.groupby("corruption")
    )
    printed = found["subjects"].query("site == 'z' and step == 24")
    assert set(printed["answer"]) == {answer(subjects(one, other), 24).answer.value}


def test_inclusion_follows_the_effects_of_the_prompts(make_output):
    """Against plain sums over the exported rows: where every prompt has a head beyond the limit it is always in."""
    frames = load(make_output(by_prompt=True, steps=(24,), corruptions=("first",)))
    rows = by_prompt(frames, ["z"])
    rows = rows.assign(gain=rows["patched"] - rows["corrupted"], gap=rows["clean"] - rows["corrupted"])
    keys = ["corruption", "step", "layer", "head"]
    share = (rows["gain"] / rows["gap"]).groupby([rows[key] for key in keys])
    found = of_frames(frames)["inclusion"].query("site == 'z'").set_index(keys)["inclusion"]
    always = share.min()[share.min() > 0.06].index
    never = share.max()[(share.max() < 0.04) & (share.min() > -0.04)].index
    assert len(always) and len(never)
    assert (found[always].dropna() == 1).all() and (found[never].dropna() == 0).all()


def test_cells_that_differ_in_their_prompts_or_their_model_are_compared_across(make_output, folders):
    output = make_output(seeds=(0, 1), by_prompt=True, steps=(24,), corruptions=("first",))
    for number, (group, key, value) in enumerate((("task", "seed", 1), ("model", "path", "other"), ("optim", "lr", 3))):
        for seed in (0, 1) if group == "task" else (0,):
            run_id = f"other-{number}-{seed}"
            folders.write_run(output, run_id, seed=seed, steps=(24,))
            file = output / "runs" / run_id / "run.json"
            about = json.loads(file.read_text())
            about["config"][group][key] = value
            file.write_text(json.dumps(about))
            folders.write_patch(output, run_id, f"{run_id}-first", by_prompt=True, steps=(24,), seed=seed)
            folders.write_sweep(output, f"sweep-{run_id}", [folders.point(run_id, f"{run_id}-first", "first")])
    found = of_frames(load(output))
    across = found["agreement"][found["agreement"]["axis"] != "seed"]
    printed = across[["axis", "runs", "scope"]].drop_duplicates().itertuples(index=False, name=None)
    # Of one seed a base model, nothing is said of other seeds.
    assert set(printed) == {
        ("prompts", 4, "other seeds of these 2 sets of training prompts"), ("base", 3, "other base models")
    }  # fmt: skip
    assert set(across[across["axis"] == "base"]["answer"].dropna()) <= {"cannot tell", "undefined"}
    roles = found["roles"]
    assert set(roles[roles["axis"] == "base"]["run_b"]) <= {"other-1-0"}


def test_roles_know_where_heads_look_and_lines_say_what_the_tables_do(make_output, capsys):
    output = make_output(seeds=(0, 1), by_prompt=True, steps=(24,), corruptions=("first",))
    for run_id in ("run-0.0001-constant-0", "run-0.0001-constant-1"):
        rows = [
            {"side": side, "layer": layer, "head": head, "query": "end", "key": key, "attention": 0.5, "uniform": 0.1,
             "n": 12, "by_prompt": [0.1 + 0.8 * ((head + (key == "self")) % 4 == 0)] * 12}
            for side in ("clean", "corrupted") for layer in range(4) for head in range(4) for key in ("self", "other")
        ]  # fmt: skip
        file = output / "runs" / run_id / "patches" / f"{run_id}-first" / "tables" / "000024.looks.parquet"
        pq.write_table(pa.Table.from_pylist(rows, LOOKS["looks"]), file)
    roles = of_frames(load(output))["roles"]
    assert set(roles["blocks"]) == {"z first, v first, pattern first, looks end"}
    assert main([str(output)]) == 0
    printed = capsys.readouterr().out
    first = roles.iloc[0]
    assert f"seed, {first.layer_a}.{first.head_a} of {first.run_a}, {first.layer_b}.{first.head_b} of" in printed
    assert "cannot tell, r = " in printed and "included " in printed
    assert main([]) == main([str(output / "not there")]) == 2
    assert "no folder of results" in capsys.readouterr().err


def test_nodes_and_edges_are_included_by_their_effects_on_prompts(make_output):
    """Of each prompt the gap is 4 logits: one node and one edge carry half of it, the others 0.01."""
    output = make_output(by_prompt=True, steps=(24,), corruptions=("first",))
    tables = output / "runs" / "run-0.0001-constant-0" / "patches" / "run-0.0001-constant-0-first" / "tables"
    nodes = [("whole", "all", None, None, None, 5.0), ("whole", "none", None, None, None, 1.0)]
    nodes += [("node", "without", "head", 0, head, 5.0 - (2.0 if head == 1 else 0.04)) for head in range(4)]
    nodes += [("node", "alone", "head", 0, head, 1.0) for head in range(4)]
    names = ("kind", "set", "component", "layer", "head", "value")
    rows = [dict(zip(names, row, strict=True)) | {"by_prompt": [row[-1]] * 12} for row in nodes]
    pq.write_table(pa.Table.from_pylist(rows, LOOKS["circuits"]), tables / "000024.circuits.parquet")
    prompts = pq.read_table(tables / "000024.parquet").to_pandas().query("kind == 'prompt'").sort_values("prompt")
    gap = prompts["clean"] - prompts["corrupted"]
    edges = [
        {"source": "head", "source_layer": 0, "source_head": head, "input": "q", "layer": 1, "head": 2,
         "chosen": "all" if head < 3 else "rest", "patched": 0.0 if head < 3 else None,
         "by_prompt": None if head == 3 else list(prompts["corrupted"] + (0.5 if head == 1 else 0.0025) * gap)}
        for head in range(4)
    ]  # fmt: skip
    edges.append({"size": 10.0, "patched": 0.0, "by_prompt": list(prompts["clean"])})  # a set of edges is none
    pq.write_table(pa.Table.from_pylist(edges, LOOKS["edges"]), tables / "000024.edges.parquet")
    found = of_frames(load(output))
    inclusion = found["inclusion"]
    node = inclusion[inclusion["site"] == "node"]
    assert node["component"].tolist() == ["head"] * 4 and node["inclusion"].tolist() == [0, 1, 0, 0]
    assert node["recovered"].tolist() == pytest.approx([0.01, 0.5, 0.01, 0.01])
    (edge,) = inclusion[inclusion["site"] == "edge"].itertuples()
    assert (edge.source_head, edge.input, edge.layer, edge.head, edge.inclusion) == (1, "q", 1, 2, 1)
    assert edge.recovered == pytest.approx(0.5, abs=1e-5)
    heads = found["stability"].set_index("site")["heads"]
    assert heads["node"] == 4 and heads["edge"] == 3


def test_tables_that_do_not_tell_prompts_apart_have_no_rows(make_output):
    found = of_frames(load(make_output(seeds=(0, 1), by_prompt=False)))
    assert not any(len(frame) for frame in found.values())
    assert all(isinstance(frame, pd.DataFrame) for frame in found.values())
