"""The cost of further measurements by `plan`, against what a patch job computes."""

from __future__ import annotations

import pytest

from mi_sweeps.analysis import folder, measured
from mi_sweeps.jobs.execute import execute
from mi_sweeps.sweeps import costs
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.sweeps.memory import read
from mi_sweeps.sweeps.plan import make


def test_all_of_it_is_measured_and_costs_what_the_plan_says(small, tmp_path):
    random = 7
    asked = ["patching=dynamics", "patching.prompts=6", f"patching.circuits.random={random}"]
    (point,) = expand([*small, f"output={tmp_path}", *asked])
    (line,) = costs.lines([point])
    assert line.startswith("besides patching") and all(f"{name} " in line for name in costs.COSTS)
    assert not execute([point]).failed and make([point]).is_done

    output, sizes, config = folder.read(tmp_path), read(point.config.model), point.config
    tables = {name: measured.read(output, name) for name in ("looks", "cross", "circuits", "edges")}
    assert all(len(table) for table in tables.values())
    last = {name: table[table["step"] == config.patch_steps[-1]] for name, table in tables.items()}
    patching = config.patching
    points = 3 * patching.edges.ig_steps
    alone, sets = ((last["edges"]["kind"] == kind).sum() for kind in ("edge", "set"))
    assert costs.edges(patching.edges, sizes, config) == alone + sets / 2 + points
    crossed = last["cross"][~last["cross"]["kind"].isin(["own", "shapley"])]
    parts = (last["cross"]["kind"] == "shapley").sum()
    first = len(config.patch_steps)  # crosses with none
    counted = (len(crossed) + parts * patching.cross.permutations) * (first - 1) / first
    assert costs.cross(patching.cross, sizes, config) == pytest.approx(counted, rel=0.1)
    rows = last["circuits"]
    kinds = rows["kind"].value_counts()
    compared = rows["null_sets"].notna().sum()
    examined = rows[rows["kind"] == "minimality"].drop_duplicates(["component", "layer", "head"])
    greedy = 2 * sum(len(examined) - step for step in range(min(3, len(examined))))
    halves = compared * (1 + random) + kinds["completeness"] + kinds["minimality"] + greedy
    counted = kinds["whole"] + kinds["node"] + halves / 2
    assert counted <= costs.circuits(patching.circuits, sizes, config) < 1.1 * counted


def test_a_plan_without_measurements_says_nothing_of_them(small):
    assert not list(costs.lines(expand([*small, "output=unused"])))
