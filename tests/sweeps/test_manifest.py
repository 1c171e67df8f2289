"""A sweep's file: grid points come back unchanged, and it stays small and readable."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_sweeps.errors import UserError
from mi_sweeps.store.files import read_json, write_json
from mi_sweeps.sweeps import manifest
from mi_sweeps.sweeps.grid import expand
from mi_sweeps.sweeps.points import GridPoint
from mi_sweeps.sweeps.values import differences, put
from tests.hub import cached

GRID = ["schedule=constant,linear_warmup", "seed=0,1", "task.prompts={train:24},{train:48}", "sweep.name=mine"]


@pytest.fixture
def points(tmp_path: Path) -> list[GridPoint]:
    return expand([*GRID, f"output={tmp_path}"])


def loaded(output: Path) -> list[GridPoint]:
    return [entry.point(output) for entry in manifest.load(output, "mine")]


def test_points_come_back_as_they_were(points: list[GridPoint], tmp_path: Path) -> None:
    manifest.add(tmp_path, "mine", points, "mi-sweeps run")
    assert loaded(tmp_path) == points
    assert [point.config for point in loaded(tmp_path)] == [point.config for point in points]


def test_a_point_is_one_line_with_what_is_its_own(points: list[GridPoint], tmp_path: Path) -> None:
    manifest.add(tmp_path, "mine", points, "mi-sweeps run")
    lines = manifest.path(tmp_path, "mine").read_text().splitlines()
    own = [json.loads(line.rstrip(",")) for line in lines if line.startswith('{"run_id"')]
    assert [line["patch_id"] for line in own] == [point.patch_id for point in points]
    assert own[0]["config"] == {}
    assert own[3]["config"] == {"seed": 1, "task.prompts.train": 48}
    assert own[4]["config"]["schedule"]["name"] == "linear_warmup"


def test_points_of_another_configuration_can_be_added(points: list[GridPoint], tmp_path: Path, hub_cache: Path) -> None:
    cached(hub_cache, "openai-community/gpt2", {"config.json": b"{}", "model.safetensors": b"weights"})
    others = expand(["model=gpt2", "task=ioi2", "train.steps=16", "sweep.name=mine", f"output={tmp_path}"])
    manifest.add(tmp_path, "mine", points, "one")
    manifest.add(tmp_path, "mine", others, "other")
    assert loaded(tmp_path) == [*points, *others]


def test_a_file_of_an_older_version_is_read_and_can_grow(points: list[GridPoint], tmp_path: Path) -> None:
    """It had the whole configuration in every point."""
    old = [
        {
            "run_id": point.run_id,
            "patch_id": point.patch_id,
            "corruption": "first",
            "overrides": point.choices,
            "config": point.values,
        }
        for point in points[:6]
    ]
    write_json(manifest.path(tmp_path, "mine"), {"name": "mine", "command": "old", "points": old})
    assert loaded(tmp_path) == points[:6]
    manifest.add(tmp_path, "mine", points[4:], "new")
    assert loaded(tmp_path) == points
    grown = json.loads(manifest.path(tmp_path, "mine").read_text())["points"]
    assert grown[0]["config"].keys() == {"schedule"}


@pytest.mark.parametrize("content", ["[]", "{}", '{"points": [{"run_id": "a"}]}', '{"points": 3}', "{"])
def test_a_damaged_file_is_one_line(tmp_path: Path, content: str) -> None:
    file = manifest.path(tmp_path, "mine")
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with pytest.raises(UserError, match=r"\A.*sweep\.json: .*; delete it and run the sweep again\Z"):
        manifest.load(tmp_path, "mine")


KEYS = st.sampled_from(["a", "b", "c", "a.b"])
LEAVES = st.sampled_from([None, True, 1, 1.0, 0, False, "", "1", [], [1], [True], {}])
VALUES = st.dictionaries(
    KEYS.filter(lambda key: "." not in key),
    st.recursive(LEAVES, lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=8),
    min_size=3,
    max_size=3,
)


@given(VALUES, VALUES)
def test_differences_put_into_the_base_give_the_values(base: dict[str, Any], values: dict[str, Any]) -> None:
    made = base
    for key, value in differences(base, values).items():
        made = put(made, key.split("."), value)
    assert json.dumps(made, sort_keys=True) == json.dumps(values, sort_keys=True)
    assert differences(values, values) == {}


def test_what_is_put_changes_nothing_else() -> None:
    before = {"a": {"b": [1, {"c": 2}], "d": {}}, "e": 3}
    after = put(before, ["a", "b", "1", "c"], 4)
    assert after == {"a": {"b": [1, {"c": 4}], "d": {}}, "e": 3}
    assert before == {"a": {"b": [1, {"c": 2}], "d": {}}, "e": 3}
    assert put({"a": 1}, ["f", "g"], 5) == {"a": 1, "f": {"g": 5}}


@pytest.mark.parametrize(
    "wrong",
    [
        {"run_id": {}},
        {"run_id": "../../elsewhere"},
        {"patch_id": ""},
        {"overrides": "seed=0"},
        {"overrides": {"seed": 0}},
        {"config": {"patching.steps": 3}},
        {"config": {"patching.steps": ["0"]}},
        {"config": {"train.steps": None}},
        {"config": {"optim.lr.more": 1}},
    ],
)
def test_a_point_that_cannot_be_is_refused(tmp_path, wrong):
    (point,) = expand([f"output={tmp_path}"])
    manifest.add(tmp_path, "mine", [point], "")
    file = manifest.path(tmp_path, "mine")
    values = read_json(file)
    write_json(file, {**values, "points": [{**values["points"][0], **wrong}]})
    with pytest.raises(UserError, match=r"sweep\.json: not a sweep of this version"):
        manifest.load(tmp_path, "mine")


def test_what_another_one_writes_is_no_leftover_though_our_clock_is_years_ahead(tmp_path, monkeypatch):
    (point,) = expand([f"output={tmp_path}"])
    (tmp_path / "data" / ".0123.abcd.partial").mkdir(parents=True)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 1e9)
    manifest.add(tmp_path, "mine", [point], "")
    assert (tmp_path / "data" / ".0123.abcd.partial").exists()
    os.utime(tmp_path / "data" / ".0123.abcd.partial", (real() - 7200,) * 2)
    manifest.add(tmp_path, "mine", [point], "")
    assert not (tmp_path / "data" / ".0123.abcd.partial").exists()
